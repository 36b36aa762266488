"""Components come to work where they shall and go home unchanged."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ovi.config import Runtime
from ovi.diffusion import machine as machines
from ovi.diffusion.denoiser import Fast, Reference, Split
from ovi.diffusion.machine import Machine, fitting_mode
from ovi.errors import OviError
from ovi.models.folder import OviModel
from tests.models.common import golden_model


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("mean", torch.ones(3))


def made(runtime: Runtime, mode: str, device: str = "meta", **named: object) -> Machine:
    return Machine(OviModel({}, golden_model(), Part(), Part(), Part(), {}), runtime, mode, device, **named)


def places(part: nn.Module) -> set[str]:
    return {x.device.type for x in (*part.parameters(), *part.buffers())}


@pytest.mark.parametrize(
    ("mode", "text", "codec"), [("resident", "meta", "meta"), ("drop_text", "cpu", "meta"), ("offload", "cpu", "cpu")]
)
def test_what_stays_on_the_device(mode, text, codec):
    """The meta device stands in for a GPU: it has places, but no numbers."""
    machine = made(Runtime(path="reference"), mode)
    for lent, after in ((machine.text_encoder, text), (machine.video_codec, codec), (machine.audio_codec, codec)):
        with lent() as part:
            assert places(part) == {"meta"}
        assert places(part) == {after}


def test_a_part_comes_home_with_its_own_numbers_even_after_a_failure():
    machine = made(Runtime(), "offload")
    part = machine.model.video_codec
    before = {name: (x.clone(), x.data_ptr()) for name, x in part.state_dict().items()}
    with pytest.raises(ZeroDivisionError), machine.video_codec():
        1 / 0  # noqa: B018
    after = part.state_dict()
    assert all(torch.equal(after[name], x) and after[name].data_ptr() == at for name, (x, at) in before.items())


@pytest.mark.parametrize(
    ("mode", "after", "beside_text"),
    [("resident", "meta", "meta"), ("drop_text", "meta", "cpu"), ("offload", "cpu", "cpu")],
)
def test_where_the_denoiser_is(mode, after, beside_text):
    machine = made(Runtime(path="fast"), mode)
    for _ in range(2):
        with machine.denoiser() as denoiser:
            assert isinstance(denoiser, Fast)
            assert places(denoiser.model) == {"meta"}
        assert places(denoiser.model) == {after}
        with machine.text_encoder():
            assert places(denoiser.model) == {beside_text}
    assert places(machine.model.fusion) == {"cpu"}


def test_a_shared_weight_is_lent_once():
    machine = made(Runtime(), "offload")
    part = machine.model.text_encoder
    part.again = nn.Linear(3, 3)
    part.again.weight = part.layer.weight
    with machine.text_encoder():
        assert part.again.weight is part.layer.weight


@pytest.mark.parametrize(
    ("runtime", "second", "kind", "dtype"),
    [
        (Runtime(), None, Reference, torch.float32),
        (Runtime(path="fast"), None, Fast, torch.float32),
        (Runtime(path="fast", precision="bf16"), None, Fast, torch.bfloat16),
        (Runtime(), "cpu", Split, torch.float32),
    ],
)
def test_which_path_and_precision(runtime, second, kind, dtype):
    with made(runtime, "resident", "cpu", second=second).denoiser() as denoiser:
        assert type(denoiser) is kind
        networks = [denoiser.first, denoiser.second] if kind is Split else [denoiser.model]
        assert {x.dtype for network in networks for x in network.parameters()} == {dtype}


def test_memory_is_looked_at_before_anything_is_loaded(monkeypatch):
    config = {
        "clip": {"frames": 121}, "picture": {"height": 704, "width": 704}, "audio_latents": 157,
        "video_codec": {"patch": [16, 16], "dec_dim": 256},
        "transformer": {"video": {"patch_size": [1, 2, 2], "layers": 30, "dim": 3072, "text_len": 512}},
    }  # fmt: skip
    weights = {"transformer": 23 << 30, "text_encoder": 11 << 30, "video_codec": 1 << 30, "audio_codec": 1 << 30}
    for gib, mode in ((200, "resident"), (20, None)):
        monkeypatch.setattr(machines.psutil, "virtual_memory", lambda gib=gib: SimpleNamespace(available=gib << 30))
        if mode:
            assert fitting_mode(config, weights, Runtime(), torch.device("cpu")) == mode
        else:
            with pytest.raises(OviError, match=r"this machine has 20\.0 GiB free; use a device"):
                fitting_mode(config, weights, Runtime(), torch.device("cpu"))

"""RAFT, small and large, against the golden flows; both styles of names, any size of picture, pairs that stay alone."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ovi.errors import OviError
from ovi.perception import raft
from ovi.perception.raft import LARGE, SMALL, Raft, Size, flow, mean_flow
from tests.golden import curation as golden

SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=lambda size: size.name)


def authors_state(size: Size) -> dict[str, Tensor]:
    """As the authors' file has it but for the wrapper's prefix: the large network's shortcuts have second names."""
    state = Raft(size).state_dict()
    for layer in ("cnet.layer2.0", "cnet.layer3.0") if size is LARGE else ():
        norm = [key for key in state if key.startswith(f"{layer}.downsample.1.")]
        state |= {key.replace("downsample.1", "norm3"): state[key] for key in norm}
    return {**state, **golden.filled(state, int(golden.arrays(f"raft_{size.name}")["seed"]))}


def torchvision_state(size: Size) -> dict[str, Tensor]:
    encoder = {"fnet": "feature_encoder", "cnet": "context_encoder"}
    renamed = {}
    for key, tensor in authors_state(size).items():
        if ".0.norm3." in key:
            continue
        part, rest = key.split(".", 1)
        if part in encoder:
            rest = re.sub(r"^(layer\d\.\d)\.conv(\d)", r"\1.convnormrelu\2.0", rest)
            rest = re.sub(r"^(layer\d\.\d)\.norm(\d)", r"\1.convnormrelu\2.1", rest)
            rest = re.sub("^conv1", "convnormrelu.0", rest)
            rest = re.sub("^norm1", "convnormrelu.1", rest)
            rest = re.sub("^conv2", "conv", rest)
            part = encoder[part]
        rest = re.sub(r"^encoder\.conv\.", "motion_encoder.conv.0.", rest)
        rest = re.sub(r"^encoder\.convc(\d)", r"motion_encoder.convcorr\1.0", rest)
        rest = re.sub(r"^encoder\.convf(\d)", r"motion_encoder.convflow\1.0", rest)
        rest = re.sub(r"^gru\.conv(.)(\d?)\.", lambda m: f"recurrent_block.convgru{m[2] or 1}.conv{m[1]}.", rest)
        name = f"{part}.{rest}"
        name = name.replace("update_block.mask.0", "mask_predictor.convrelu.0")
        renamed[name.replace("update_block.mask.2", "mask_predictor.conv")] = tensor
    return renamed


@cache
def network(size: Size, folder: Path) -> Raft:
    torch.save({f"module.{key}": tensor for key, tensor in authors_state(size).items()}, folder / "raft.pth")
    return raft.load(folder / "raft.pth")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("raft")


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Coarse noise, uint8 [count, height, width, 3]."""
    draw = torch.Generator().manual_seed(seed)
    cells = torch.randint(0, 256, (count, height // 4 + 1, width // 4 + 1, 3), dtype=torch.uint8, generator=draw)
    return cells.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, :height, :width].contiguous()


@pytest.mark.parametrize(("size", "parameters", "keys"), [(SMALL, 990_162, 106), (LARGE, 5_257_536, 179)])
def test_the_layout_is_the_released_one(size: Size, parameters: int, keys: int) -> None:
    assert sum(weight.numel() for weight in Raft(size).parameters()) == parameters
    assert len(authors_state(size)) == keys
    assert len(torchvision_state(size)) == len(Raft(size).state_dict())


@SIZES
def test_flows_are_the_golden_ones(size: Size, folder: Path) -> None:
    case = golden.arrays(f"raft_{size.name}")
    height, width, iterations = (int(case[name]) for name in ("H", "W", "iters"))
    cells = golden.symmetric(int(case["seed"]), 4000, (1, 3, height // 4, width // 4), 1)
    cells = np.floor(cells * np.float32(127.5) + np.float32(127.5))
    first = torch.from_numpy(cells.repeat(4, axis=2).repeat(4, axis=3))
    second = first.roll((2, 3), (2, 3))
    coarse, hidden = network(size, folder).cells(first, second, iterations)
    fine = network(size, folder).to_pixels(coarse, hidden)
    golden.check(coarse, case["flow_low"], rtol=1e-3, atol=1e-3)
    golden.check(fine[:, :, ::4, ::4], case["flow_up_s4"], rtol=1e-3, atol=1e-3)
    assert float(fine.norm(dim=1).mean()) == pytest.approx(float(case["mean_mag"]), rel=1e-3)
    assert torch.equal(network(size, folder)(first, second, iterations), fine)


@SIZES
def test_both_styles_of_names_are_one_network(size: Size, folder: Path, tmp_path: Path) -> None:
    torch.save(torchvision_state(size), tmp_path / "raft.pth")
    other = raft.load(tmp_path / "raft.pth")
    assert other.size is size
    ours = network(size, folder).state_dict()
    assert ours.keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, ours[key]) for key, tensor in other.state_dict().items())


def test_a_shortcut_s_norm_is_taken_from_its_first_name(tmp_path: Path) -> None:
    state = authors_state(LARGE)
    state["cnet.layer2.0.norm3.weight"] = torch.zeros(96)
    torch.save(state, tmp_path / "raft.pth")
    loaded = raft.load(tmp_path / "raft.pth").state_dict()
    assert torch.equal(loaded["cnet.layer2.0.downsample.1.weight"], state["cnet.layer2.0.downsample.1.weight"])


def test_a_file_of_another_network(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(OviError, match="not the weights of RAFT"):
        raft.load(tmp_path / "other.pth")
    state = authors_state(SMALL)
    del state["update_block.gru.convq.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(OviError, match=r"1 missing \(first update_block.gru.convq.bias\)"):
        raft.load(tmp_path / "part.pth")


def test_a_flow_has_the_size_of_its_pictures_and_edges_are_repeated(folder: Path) -> None:
    """Pictures that were extended by hand to what the network takes give the same flow inside."""
    first, second = pictures(1, 131, 90, 1), pictures(1, 131, 90, 2)
    found = flow(network(SMALL, folder), first, second)
    assert found.shape == (1, 2, 131, 90)
    down, across = torch.arange(-2, 134).clamp(0, 130), torch.arange(-19, 109).clamp(0, 89)
    whole = flow(network(SMALL, folder), first[:, down][:, :, across], second[:, down][:, :, across])
    assert whole.shape == (1, 2, 136, 128)
    torch.testing.assert_close(found, whole[..., 2:133, 19:109])


@SIZES
def test_pairs_do_not_know_of_each_other(size: Size, folder: Path) -> None:
    first, second = pictures(2, 128, 128, 3), pictures(2, 128, 128, 4)
    both = flow(network(size, folder), first, second)
    alone = torch.cat([flow(network(size, folder), first[at : at + 1], second[at : at + 1]) for at in range(2)])
    torch.testing.assert_close(both, alone, rtol=1e-3, atol=1e-3 * float(both.abs().max()))
    assert not torch.allclose(both[0], both[1], rtol=0.1)


def test_mean_flow_is_in_diagonals_of_pairs_half_a_second_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft, "LONG_SIDE", 128)
    monkeypatch.setattr(raft, "PAIRS", 1)
    frames = pictures(25, 96, 128, 5)
    pairs = flow(network(SMALL, folder), frames[:13:12], frames[12::12])
    mean = float(pairs.norm(dim=1).mean()) / 160
    shown = list(frames.numpy())
    assert mean_flow(network(SMALL, folder), shown, 24) == pytest.approx(mean, rel=1e-3)
    assert mean_flow(network(SMALL, folder), shown[:12], 24) == 0


def test_the_name_of_a_score_tells_the_network() -> None:
    assert [size.method for size in (SMALL, LARGE)] == ["raft-small-512px-v1", "raft-large-512px-v1"]

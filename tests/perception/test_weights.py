"""Files of weights: both formats, nothing run, and one line for everything that can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ovi.errors import OviError
from ovi.perception import weights


class Small(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 3), nn.BatchNorm1d(3))


def loaded(path: Path) -> Small:
    return weights.fill(Small(), weights.read(path), path, "cpu")


def refused(path: Path) -> str:
    with pytest.raises(OviError) as caught:
        loaded(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["w.pth", "w.model", "w.safetensors"])
def test_a_file_of_either_format_fills_the_network_for_inference(tmp_path: Path, name: str) -> None:
    state = {key: torch.rand_like(value) for key, value in Small().state_dict().items() if value.ndim}
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    network = loaded(tmp_path / name)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_file_written_in_training_has_them_inside_beside_numbers(tmp_path: Path, key: str) -> None:
    counts = {"epoch": 3, "best": np.float64(0.4), "step": np.int64(7), "optimizer": {"lr": np.float32(1e-3)}}
    torch.save({**counts, key: Small().state_dict()}, tmp_path / "w.pth")
    loaded(tmp_path / "w.pth")


def test_what_does_not_fit_is_counted_and_named(tmp_path: Path) -> None:
    path, state = tmp_path / "w.pth", Small().state_dict()
    del state["0.bias"], state["1.running_var"]
    torch.save({**state, "head.weight": torch.zeros(1), "1.weight": torch.zeros(7)}, path)
    message = refused(path)
    assert "2 missing (first 0.bias)" in message
    assert "1 unknown (first head.weight)" in message
    assert "1 of another shape (first 1.weight)" in message


def test_a_missing_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 and no more"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_damaged_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "cannot be read" in refused(tmp_path / name)


class Trap:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.place,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"0.weight": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    assert "cannot be read" in refused(tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [{"epoch": 3, "state_dict": {}}, {0: torch.zeros(1)}, [torch.zeros(1)]])
def test_a_file_of_something_else_than_named_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert "named tensors" in refused(tmp_path / "w.pth")

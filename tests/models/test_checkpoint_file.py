"""Files of other people: tensors come out, nothing is run, damage is one line."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from ovi.errors import OviError
from ovi.models.checkpoint_file import outline, read

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def same(file, want=STATE):
    """What is read, and what is known without reading."""
    got, known = read(file), outline(file)
    assert got.keys() == known.keys()
    for name, tensor in got.items():
        assert (known[name].shape, known[name].dtype) == (tensor.shape, tensor.dtype)
        assert known[name].is_meta

    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) and got[name].dtype == want[name].dtype for name in want)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"generator": state, "steps": 7},
        lambda state: {"module": state, "ds_version": "0.16", "lr_scheduler": None},
        lambda state: {"app": {"model": state}, "epoch": 1},
    ],
)
def test_tensors_are_found_where_others_keep_them(tmp_path, wrap):
    torch.save(wrap(STATE), tmp_path / "x.pt")
    same(tmp_path / "x.pt")


def test_torch_s_oldest_format_and_parameters(tmp_path):
    held = {name: torch.nn.Parameter(tensor) for name, tensor in STATE.items()}
    torch.save(held, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    same(tmp_path / "x.pth")
    assert not any(tensor.requires_grad for tensor in read(tmp_path / "x.pth").values())


def test_safetensors_and_shards(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    same(tmp_path / "x.safetensors")
    for i, (name, tensor) in enumerate(STATE.items()):
        save_file({name: tensor}, tmp_path / f"part-{i}.safetensors")
    index = tmp_path / "all.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"part-{i}.safetensors" for i, name in enumerate(STATE)}}))
    same(index)
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(OviError, match=r"part-1.safetensors: no such file"):
        read(index)


class Writes:
    """Pickled, it would make a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("oldest", [False, True])
def test_a_pickle_that_would_run_something_is_refused(tmp_path, oldest):
    trap = tmp_path / "sprung"
    torch.save({**STATE, "x": Writes(trap)}, tmp_path / "x.pth", _use_new_zipfile_serialization=not oldest)
    with pytest.raises(OviError, match=r"x.pth: its pickle asks for \w+.mkdir, only tensors are read") as caught:
        read(tmp_path / "x.pth")
    assert "\n" not in str(caught.value)
    assert not trap.exists()
    torch.load(tmp_path / "x.pth", weights_only=False)
    assert trap.exists()  # so the trap was one


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.pth", None, "no such file"),
        ("x.pth", b"", "not a checkpoint of tensors"),
        ("x.pth", b"PK\x03\x04 torn", "not a checkpoint of tensors"),
        ("x.pth", b"version https://git-lfs.github.com/spec/v1", "not a checkpoint of tensors"),
        ("x.safetensors", b"", "not a whole safetensors file"),
        ("x.safetensors", b"\xff" * 64, "not a whole safetensors file"),
        ("x.safetensors.index.json", b"[]", "not an index"),
        ("x.safetensors.index.json", b'{"weight_map": {"a": 7}}', "not an index"),
        ("x.safetensors.index.json", b'{"weight_map": {"a": "../x.pth"}}', "names shards in other folders"),
        ("x.safetensors.index.json", b"{", "not valid JSON"),
    ],
)
def test_other_files_are_one_line(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OviError, match=words) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_numbers_of_a_kind_that_is_not_known(tmp_path):
    header = json.dumps({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(OviError, match="holds numbers of the kind C64"):
        outline(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [{}, {"a": 1}, [torch.ones(1)], {"module": {"a": "b"}}, torch.ones(1)])
def test_pickles_without_tensors_by_name(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(OviError, match="holds no tensors by name"):
        read(tmp_path / "x.pt")

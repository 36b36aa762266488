from __future__ import annotations

import itertools
import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest
import torch

from ovi.errors import OviError
from ovi.training.checkpoint import Checkpoint
from ovi.training.state import MOMENTS, State
from ovi.training.store import Checkpoints

KEY = {"settings": "a", "data": "b"}


def checkpoint(step: int) -> Checkpoint:
    draw = torch.Generator().manual_seed(step)
    weights = {name: torch.randn(5, 3, generator=draw) for name in ("b.weight", "a.weight")}
    moments = {kind: {name: torch.randn(5, 3, generator=draw) for name in weights} for kind in MOMENTS}
    ema = {name: torch.randn(5, 3, generator=draw) for name in weights}
    return Checkpoint(step, State(step, weights, moments, ema), {"curve": [{"step": step, "loss": 0.1}]}, step)


def same(one: Checkpoint, two: Checkpoint) -> bool:
    tensors = [
        {
            **c.state.weights,
            **{f"ema.{n}": x for n, x in c.state.ema.items()},
            **{f"{k}.{n}": x for k, v in c.state.moments.items() for n, x in v.items()},
        }
        for c in (one, two)
    ]
    return (
        one.step == two.step
        and one.history == two.history
        and one.state.step == two.state.step
        and tensors[0].keys() == tensors[1].keys()
        and all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    )


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, notes: list[str]) -> Checkpoints:
    return Checkpoints(tmp_path / "fusion", KEY, 2, notes.append)


def test_the_newest_comes_back_whole_and_only_k_are_kept(store: Checkpoints, tmp_path: Path, notes: list[str]) -> None:
    assert store.newest() is None
    for step in (5, 10, 15):
        store.save(checkpoint(step))
    found = store.newest()
    assert found is not None
    assert same(found, checkpoint(15))
    assert [path.name for path in sorted((tmp_path / "fusion").iterdir())] == ["step-000010", "step-000015"]
    assert notes == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda folder: os.truncate(folder / "exp_avg.safetensors", 30),
    "flipped": lambda folder: flip(folder / "weights.safetensors"),
    "history": lambda folder: flip(folder / "history.json"),
    "missing": lambda folder: (folder / "exp_avg_sq.safetensors").unlink(),
    "undescribed": lambda folder: (folder / "checkpoint.json").unlink(),
    "nonsense": lambda folder: (folder / "checkpoint.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(store: Checkpoints, tmp_path: Path, notes: list[str], damage: str) -> None:
    store.save(checkpoint(5))
    DAMAGES[damage](store.save(checkpoint(10)))
    found = store.newest()
    assert found is not None
    assert same(found, checkpoint(5))
    assert len(notes) == 1
    assert "step-000010 is damaged" in notes[0]


def test_a_damaged_checkpoint_does_not_outlive_a_good_one(tmp_path: Path) -> None:
    """Only one is kept, and the newest is damaged: what is written after the one before it is an older step."""
    notes: list[str] = []
    store = Checkpoints(tmp_path / "fusion", KEY, 1, notes.append, str(tmp_path / "copies"))
    for step in (5, 10):
        store.save(checkpoint(step))
        store.close()
    for place in ("fusion", "copies"):
        flip(tmp_path / place / "step-000010/weights.safetensors")
    assert store.newest() is None
    store.save(checkpoint(7))
    store.close()
    for other in (store, Checkpoints(tmp_path / "other", KEY, 1, notes.append, str(tmp_path / "copies"))):
        found = other.newest()
        assert found is not None
        assert same(found, checkpoint(7))


def test_no_bit_of_a_checkpoint_can_change_unseen(store: Checkpoints, tmp_path: Path, notes: list[str]) -> None:
    """Above all not in its description, where another bit may be another step or another key."""
    store.save(checkpoint(5))
    newest = store.save(checkpoint(10))
    draw = random.Random(0)
    for path in [newest / "checkpoint.json"] * 60 + sorted(newest.iterdir()) * 6:
        data = path.read_bytes()
        wrong = bytearray(data)
        wrong[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(wrong)
        found = store.newest()
        assert found is not None
        assert same(found, checkpoint(5))
        assert f"step-000010 is damaged ({path.name}" in notes.pop() or path.name == "checkpoint.json"
        path.write_bytes(data)
    found = store.newest()
    assert found is not None
    assert found.step == 10


def test_other_settings_or_data_start_anew(store: Checkpoints, tmp_path: Path) -> None:
    store.save(checkpoint(50))
    notes: list[str] = []
    other = Checkpoints(tmp_path / "fusion", {**KEY, "data": "c"}, 2, notes.append)
    assert other.newest() is None
    assert "other data:" in notes[0]
    other.save(checkpoint(5))
    found = other.newest()
    assert found is not None
    assert found.step == 5
    assert [path.name for path in (tmp_path / "fusion").iterdir()] == ["step-000005"]


def test_a_full_disk_is_one_line_and_loses_nothing(store: Checkpoints, tmp_path: Path) -> None:
    store.save(checkpoint(5))
    large = checkpoint(10)
    large.state.weights["large"] = torch.zeros(100_000)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OviError, match=r"cannot write the checkpoint .*; free some disk"):
            store.save(large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    found = store.newest()
    assert found is not None
    assert same(found, checkpoint(5))
    assert [path.name for path in (tmp_path / "fusion").iterdir()] == ["step-000005"]


def test_kill_at_any_moment_loses_no_acknowledged_checkpoint(tmp_path: Path) -> None:
    """A process that does nothing but save is killed again and again, each time a little later."""
    store = Checkpoints(tmp_path / "fusion", KEY, 2, pytest.fail)
    last = 0
    for round_ in range(15):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            for step in itertools.count(last + 1):
                store.save(checkpoint(step))
                os.write(write, b"%d\n" % step)
        os.close(write)
        with os.fdopen(read) as said:
            acknowledged = int(said.readline())
            time.sleep(0.002 * round_)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged = max([acknowledged, *map(int, said.read().split())])
        found = store.newest()
        assert found is not None
        assert found.step >= acknowledged > last
        assert same(found, checkpoint(found.step))
        last = found.step
    assert all(path.name.startswith("step-") for path in (tmp_path / "fusion").iterdir())

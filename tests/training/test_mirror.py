"""Copies of checkpoints in a real S3 server on loopback, and the way there broken in every way."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ovi import s3, storage
from ovi.errors import OviError
from ovi.training import checkpoint as files
from ovi.training.mirror import Mirror
from ovi.training.store import Checkpoints
from tests.training.rough_way import RoughWay, rough_way
from tests.training.test_checkpoint import KEY, checkpoint, same


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def way(store: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RoughWay]:
    """The client comes to the bucket's store by this way, and does not wait before it asks again."""
    with rough_way(store) as way:
        monkeypatch.setenv("AWS_ENDPOINT_URL", way.url)
        monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
        s3._client.cache_clear()
        yield way


@pytest.fixture
def machine(tmp_path: Path, bucket: str, notes: list[str]) -> Callable[[], Checkpoints]:
    """Stores of one training, each on an empty machine of its own."""
    numbers = itertools.count()
    return lambda: Checkpoints(tmp_path / f"{next(numbers)}", KEY, 2, notes.append, f"{bucket}/fusion")


def filled(machine: Callable[[], Checkpoints], *steps: int) -> Checkpoints:
    store = machine()
    for step in steps:
        store.save(checkpoint(step))
        store.close()
    return store


def newest(store: Checkpoints, step: int) -> bool:
    found = store.newest()
    return found is not None and same(found, checkpoint(step))


def test_an_empty_machine_goes_on_from_the_newest_copy(
    machine: Callable[[], Checkpoints], bucket: str, notes: list[str]
) -> None:
    filled(machine, 5, 10, 15)
    names = {address.split("/")[-2] for address in storage.list_files(f"{bucket}/fusion")}
    assert names == {"step-000010", "step-000015"}
    other = machine()
    assert newest(other, 15)
    assert newest(other, 15)  # from its own disk now
    assert notes == []
    other.save(checkpoint(20))
    other.close()
    assert newest(machine(), 20)


def test_the_best_one_is_kept_here_and_there(machine: Callable[[], Checkpoints], bucket: str, tmp_path: Path) -> None:
    store = machine()
    for step, score in ((5, 0.5), (10, 0.25), (15, None), (20, 0.3), (25, 0.26)):
        store.save(replace(checkpoint(step), score=score))
        store.close()
    kept = ["step-000010", "step-000020", "step-000025"]
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == kept
    assert sorted({address.split("/")[-2] for address in storage.list_files(f"{bucket}/fusion")}) == kept


def test_a_copy_is_described_last(machine: Callable[[], Checkpoints], way: RoughWay) -> None:
    filled(machine, 5)
    put = [path.rpartition("/")[2] for method, path in way.asked if method == "PUT"]
    assert put[-1] == "checkpoint.json"
    assert sorted(put[:-1]) == [
        "ema.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors", "history.json", "weights.safetensors",
    ]  # fmt: skip


def test_a_copy_that_was_not_finished_is_made_up_for(machine: Callable[[], Checkpoints], bucket: str) -> None:
    store = filled(machine, 5)
    storage.delete(f"{bucket}/fusion/step-000005/checkpoint.json")
    assert machine().newest() is None
    assert newest(store, 5)
    store.close()
    assert newest(machine(), 5)


def flipped(address: str) -> None:
    data = bytearray(storage.read_bytes(address))
    data[len(data) // 2] ^= 1
    storage.write_bytes(address, bytes(data))


DAMAGES: dict[str, Callable[[str], None]] = {
    "truncated": lambda copy: storage.write_bytes(f"{copy}/ema.safetensors", b"1234"),
    "flipped": lambda copy: flipped(f"{copy}/weights.safetensors"),
    "missing": lambda copy: storage.delete(f"{copy}/exp_avg.safetensors"),
    "description": lambda copy: flipped(f"{copy}/checkpoint.json"),
    "nonsense": lambda copy: storage.write_bytes(f"{copy}/checkpoint.json", b"\xff[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_passed_over(
    machine: Callable[[], Checkpoints], bucket: str, notes: list[str], tmp_path: Path, damage: str
) -> None:
    filled(machine, 5, 10)
    DAMAGES[damage](f"{bucket}/fusion/step-000010")
    assert newest(machine(), 5)
    (line,) = notes
    assert "fusion/step-000010 is damaged (" in line
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["step-000005"]


def test_a_damaged_checkpoint_is_replaced_by_its_copy(
    machine: Callable[[], Checkpoints], notes: list[str], tmp_path: Path
) -> None:
    store = filled(machine, 5, 10)
    (tmp_path / "0/step-000010/weights.safetensors").unlink()
    assert newest(store, 10)
    (line,) = notes
    assert "step-000010 is damaged (weights.safetensors is missing)" in line


@pytest.mark.parametrize("mood", ["500", "503", "slow", "cut"])
def test_what_passes_costs_nothing(
    machine: Callable[[], Checkpoints], way: RoughWay, notes: list[str], mood: str
) -> None:
    """Every request goes wrong the first time it is made."""
    seen: set[tuple[str, str]] = set()

    def first(method: str, path: str) -> str:
        again = (method, path) in seen
        seen.add((method, path))
        return "well" if again else mood

    way.mood = first
    filled(machine, 5, 10)
    seen.clear()
    assert newest(machine(), 10)
    assert notes == []


def test_a_byte_that_changes_on_the_way_is_fetched_again(
    machine: Callable[[], Checkpoints], way: RoughWay, notes: list[str]
) -> None:
    filled(machine, 5)
    left = ["flip"]
    way.mood = lambda method, path: left.pop() if left and method == "GET" and "weights" in path else "well"
    assert newest(machine(), 5)
    assert (left, notes) == ([], [])


@pytest.mark.parametrize("mood", ["500", "503", "cut"])
def test_a_store_that_is_down_stops_nothing_and_loses_nothing(
    machine: Callable[[], Checkpoints], way: RoughWay, notes: list[str], mood: str
) -> None:
    store = filled(machine, 5)
    way.mood = lambda _method, _path: mood
    store.save(checkpoint(10))
    store.close()
    (line,) = notes
    assert "step-000010: not copied (s3://" in line
    assert "\n" not in line
    for each in (store, machine()):  # which may not be the newest there is
        with pytest.raises(OviError, match=r"s3://.*(answers|reached)"):
            each.newest()
    way.mood = lambda _method, _path: "well"
    store.save(checkpoint(15))
    store.close()
    assert newest(machine(), 15)


def test_what_is_being_copied_is_not_dropped_and_what_is_overtaken_not_copied(
    machine: Callable[[], Checkpoints], way: RoughWay, bucket: str, tmp_path: Path
) -> None:
    held, go = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> str:
        if method == "PUT" and "step-000005/ema" in path:
            held.set()
            assert go.wait(60)
        return "well"

    way.mood = hold
    store = machine()
    store.save(checkpoint(5))
    assert held.wait(60)
    for step in (10, 15, 20, 25):
        store.save(checkpoint(step))
    assert (tmp_path / "0/step-000005").is_dir()
    go.set()
    store.close()
    assert {path.rpartition("/")[0][-11:] for method, path in way.asked if method == "PUT"} == {
        "step-000005", "step-000025",
    }  # fmt: skip
    assert newest(machine(), 25)
    store.save(checkpoint(30))
    store.close()
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == ["step-000025", "step-000030"]


def test_a_defect_of_ours_does_not_pass_unseen(
    machine: Callable[[], Checkpoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(storage, "upload", fail)
    store = machine()
    store.save(checkpoint(5))
    for attempt in (store.close, lambda: store.save(checkpoint(10)), store.close):
        with pytest.raises(ZeroDivisionError):
            attempt()


def test_another_key_is_described_and_not_fetched(
    machine: Callable[[], Checkpoints], bucket: str, tmp_path: Path, notes: list[str]
) -> None:
    filled(machine, 5)
    other = Checkpoints(tmp_path / "other", {**KEY, "data": "c"}, 2, notes.append, f"{bucket}/fusion")
    assert other.newest() is None
    assert "was written with other data" in notes[0]
    assert not (tmp_path / "other").exists()


def test_a_folder_is_a_mirror_too(tmp_path: Path, notes: list[str]) -> None:
    store = Checkpoints(tmp_path / "here", KEY, 2, notes.append, str(tmp_path / "there"))
    for step in (5, 10, 15):
        store.save(checkpoint(step))
        store.close()
    shutil.rmtree(tmp_path / "here")
    assert newest(store, 15)
    assert sorted(path.name for path in (tmp_path / "there").iterdir() if any(path.iterdir())) == [
        "step-000010", "step-000015",
    ]  # fmt: skip


def test_names_that_lead_elsewhere_are_not_fetched(bucket: str, tmp_path: Path, notes: list[str]) -> None:
    Checkpoints(tmp_path / "here", KEY, 2, notes.append, f"{bucket}/fusion").save(checkpoint(5))
    about = files.describe(tmp_path / "here/step-000005")
    assert isinstance(about, dict)
    about["files"]["../escaped"] = about["files"]["history.json"]
    about["sha256"] = files._digest({name: value for name, value in about.items() if name != "sha256"})
    storage.write_json(f"{bucket}/bad/step-000005/checkpoint.json", about)
    storage.write_bytes(f"{bucket}/bad/step-000005/../escaped", b"1")
    assert Mirror(f"{bucket}/bad", KEY, 2, notes.append).fetch(tmp_path / "there/step-000005") is None
    assert not (tmp_path / "there/escaped").exists()

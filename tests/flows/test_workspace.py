"""One clone, one run at a time; settings and the list of the user's files are written only when they change."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.workspace import SETTINGS, SOURCE, Workspace, source_files
from ovi import config, storage
from ovi.errors import ConfigError, OviError
from tests.flows import toy

HOLD = """
import sys, time
from flows.workspace import Workspace
with Workspace(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toy.make(tmp_path / "clone")


def hold(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=toy.REPOSITORY)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_with_the_pid_of_the_first(root: Path) -> None:
    holder = hold(root)
    try:
        with (
            pytest.raises(OviError, match=rf"another run is working here \(pid {holder.pid}\)"),
            Workspace(root).lock(),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    began = time.monotonic()
    with Workspace(root).lock():  # the lock died with its holder
        pass
    assert time.monotonic() - began < 5


def test_files_are_written_only_when_they_change(root: Path) -> None:
    workspace = Workspace(root)
    workspace.prepare(toy.settings(root))
    times = [(root / name).stat().st_mtime_ns for name in (SETTINGS, SOURCE)]
    workspace.prepare(toy.settings(root))
    assert times == [(root / name).stat().st_mtime_ns for name in (SETTINGS, SOURCE)]
    workspace.prepare(toy.settings(root, "seed=5"))
    assert config.load(root / SETTINGS).seed == 5
    assert config.load(root / SETTINGS) == toy.settings(root, "seed=5")
    assert (root / SOURCE).stat().st_mtime_ns == times[1]


def test_bad_sources_are_found_before_anything_is_spent(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.source: .*nowhere: no such folder"):
        Workspace(root).prepare(toy.settings(root, f"corpus.source={tmp_path / 'nowhere'}"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"corpus\.source: .*empty: holds no files"):
        Workspace(root).prepare(toy.settings(root, f"corpus.source={tmp_path / 'empty'}"))
    assert not (root / SETTINGS).exists()


def test_the_listing_knows_names_sizes_and_times(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.mp4").write_text("12345")
    (tmp_path / "a.wav").write_text("1")
    listing = source_files(str(tmp_path))
    assert [entry[:2] for entry in listing["files"]] == [["a.wav", 1], ["b/x.mp4", 5]]
    assert source_files(None) == {"folder": None, "files": []}


def test_a_bucket_is_listed_alike_and_a_new_version_is_noticed(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/mine/b/x.mp4", b"12345")
    listing = source_files(f"{bucket}/mine")
    assert [entry[:2] for entry in listing["files"]] == [["b/x.mp4", 5]]
    storage.write_bytes(f"{bucket}/mine/b/x.mp4", b"54321")
    assert source_files(f"{bucket}/mine") != listing
    with pytest.raises(ConfigError, match="holds no files"):
        source_files(f"{bucket}/none")


def test_outside_a_clone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OviError, match=r"no dvc\.yaml here; run from the top of the repository"):
        Workspace(tmp_path)


def test_records_survive_a_damaged_one(root: Path) -> None:
    workspace = Workspace(root)
    workspace.record("first", state="done", seconds=1.0)
    (root / "out" / "runs" / "second.json").write_text('{"state": ')
    assert workspace.records() == {"first": {"state": "done", "seconds": 1.0}}

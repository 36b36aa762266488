"""Curation from a bucket into a bucket over HTTP: the bytes of a local run, whoever works and whatever dies."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ovi import config, storage
from ovi.config import Settings
from ovi.curation import manifest
from ovi.curation.run import curate, select
from ovi.curation.sources import Source, examine
from ovi.errors import OviError
from ovi.media import remote
from ovi.media.encode import write_clip
from ovi.progress import Silent
from ovi.synthetic.scenes import render
from tests.curation.test_parts import Counting
from tests.curation.test_run import add, files, wav

PARAMS = Path(__file__).parents[2] / "params.yaml"
SETS = ["curation.part_files=2", "curation.workers=1"]


def settings(*sets: str) -> Settings:
    return config.load(PARAMS, None, [*SETS, *sets])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bucket") / "corpus"
    out.mkdir()
    for seed, name in enumerate(("one", "two")):
        shot, film = render("slide", seed), out.parent / f"{name}.mp4"
        write_clip(film, shot.frames, 24, shot.audio * (1 - 0.5 * seed))
        add(out, f"av/{name}.mp4", film.read_bytes(), json.dumps({"caption": shot.caption}))
    add(out, "av/gone.mp4", None)
    add(out, "audio/tone.wav", wav(out.parent, 2.0, 0.5))
    return out


@pytest.fixture(scope="module")
def clips(corpus: Path) -> Path:
    out = corpus.parent / "clips"
    curate(settings(), corpus, out, Silent())
    return out


@pytest.fixture
def stored(corpus: Path, bucket: str) -> str:
    """The address of the same corpus in a bucket."""
    for name in files(corpus):
        storage.upload(corpus / name, f"{bucket}/my/corpus/{name}")
    return f"{bucket}/my/corpus"


def objects(address: str) -> dict[str, bytes]:
    return {name.removeprefix(f"{address}/"): storage.read_bytes(name) for name in storage.list_files(address)}


def test_shares_that_know_nothing_but_the_bucket_give_the_bytes_of_a_local_run(
    stored: str, corpus: Path, clips: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, counted, write = f"{bucket}/my/clips", Counting(), manifest.write
    assert curate(settings(), stored, out, Silent(), share=(1, 2)) == {"parts": 1, "done": 1, "of": 2}
    assert curate(settings(), stored, f"{out}/", counted, share=(0, 2)) == {"parts": 1, "done": 2, "of": 2}
    assert counted.files == 2
    assert not objects(out)
    for name in files(clips):  # an older result, with more in it
        storage.upload(clips / name, f"{out}/{name}")
    storage.write_bytes(f"{out}/shards/av-00001.tar", b"of more clips")

    def killed(address: str, rows: list[manifest.Row]) -> None:
        if address == f"{out}/manifest.parquet":
            raise KeyboardInterrupt
        write(address, rows)

    with monkeypatch.context() as patched:
        patched.setattr(manifest, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            curate(settings(), stored, out, Silent())
    with pytest.raises(OviError, match=r"clips/manifest\.parquet: no such file"):
        manifest.rows(f"{out}/manifest.parquet")
    curate(settings(), stored, out, counted)
    assert counted.files == 2
    assert objects(out) == files(clips)
    assert set(objects(bucket)) == {f"my/clips/{name}" for name in files(clips)} | {
        f"my/corpus/{name}" for name in files(corpus)
    }


def test_shares_of_machines_with_nothing_in_common_but_a_bucket_for_their_work(
    corpus: Path, clips: Path, bucket: str, tmp_path: Path
) -> None:
    apart, counted = settings(f"curation.work={bucket}/work/"), Counting()
    storage.write_bytes(f"{bucket}/work/thesis.txt", b"of somebody else")
    for share in (0, 1):
        curate(apart, corpus, tmp_path / f"{share}/clips", Silent(), share=(share, 2))
        assert not (tmp_path / f"{share}").exists()
    curate(apart, corpus, tmp_path / "clips", counted)
    assert counted.files == 0
    assert {name: (tmp_path / "clips" / name).read_bytes() for name in files(clips)} == files(clips)
    assert objects(bucket) == {"work/thesis.txt": b"of somebody else"}


def test_thresholds_change_in_a_bucket_too(corpus: Path, clips: Path, bucket: str) -> None:
    out, counted = f"{bucket}/clips", Counting()
    quiet = min(row["volume_db"] for row in manifest.rows(clips / "manifest.parquet", set="av"))
    strict = settings(f"curation.min_volume_db={quiet + 1e-6}")
    curate(strict, corpus, out, Silent())
    assert len(manifest.rows(f"{out}/manifest.parquet", set="av")) == 1
    select(settings(), corpus, out, counted)  # what was not packed is read again
    assert counted.files == 1
    assert objects(out) == files(clips)
    select(strict, corpus, out, counted)
    assert len(manifest.rows(f"{out}/manifest.parquet", set="av")) == 1
    select(settings(), corpus, out, counted)
    assert counted.files == 1
    assert objects(out) == files(clips)


def test_killed_between_clips_and_the_marker_of_their_part(
    stored: str, clips: Path, bucket: str, tmp_path: Path
) -> None:
    out = f"{bucket}/clips"
    sets = [word for one in [*SETS, "curation.part_files=9"] for word in ("--set", one)]
    command = [sys.executable, "-m", "ovi.cli", "curate", "--params", str(PARAMS), *sets]
    command += ["--corpus", stored, "--out", out]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment, start_new_session=True)
    deadline = time.monotonic() + 240
    while not any("/clips/" in name for name in storage.list_files(f"{out}-work")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not any("/rows/" in name for name in storage.list_files(f"{out}-work"))
    curate(settings("curation.part_files=9"), stored, out, Silent())
    assert objects(out) == files(clips)
    assert not objects(f"{out}-work")


def test_wrong_addresses_are_one_line(stored: str, corpus: Path, bucket: str) -> None:
    storage.write_bytes(f"{bucket}/thesis/chapter.txt", b"years of work")
    wrong = {
        ("s3://", f"{bucket}/clips"): "no bucket in it",
        (f"{bucket}-none/corpus", f"{bucket}/clips"): "corpus: no such bucket",
        (f"{bucket}/nothing", f"{bucket}/clips"): r"nothing/index\.jsonl: no such file",
        (stored, f"{bucket}-none/clips"): "clips: no such bucket",
        (stored, f"{bucket}/thesis"): "would be replaced",
    }
    for (source, out), words in wrong.items():
        with pytest.raises(OviError, match=words):
            curate(settings(), source, out, Silent())
    assert storage.read_bytes(f"{bucket}/thesis/chapter.txt")


def test_a_store_that_goes_away_is_no_fault_of_the_file(
    stored: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.loads(storage.read_bytes(f"{stored}/index.jsonl").splitlines()[0])
    source = Source(file=f"{stored}/{line['path']}", **line)
    assert source.kind == "av"
    (row,) = examine(source, settings(), f"{bucket}/left")
    assert row["status"] == "kept"
    assert set(objects(f"{bucket}/left")) == {f"{row['clip_id']}.{kind}" for kind in ("frames", "pcm", "png")}
    opened = storage.open_read

    class Cut(io.BytesIO):
        """The first third of it, and then the line is dead."""

        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > len(self.getvalue()) // 3:
                raise OviError("the line is dead")
            return super().read(size)

    monkeypatch.setattr(remote, "BLOCK", 4096)
    monkeypatch.setattr(storage, "open_read", lambda address: Cut(opened(address).read()))
    with pytest.raises(OviError, match="the line is dead"):
        examine(source, settings(), f"{bucket}/left")
    assert not list(Path(tempfile.gettempdir()).glob("ovi-clips-*"))

"""Work by parts: shares add up, killed runs go on, thresholds change without pixels, and the bytes stay the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovi import config, storage
from ovi.config import Settings
from ovi.curation import manifest, packed, parts
from ovi.curation.run import curate, select
from ovi.curation.shards import ShardReader
from ovi.errors import ConfigError, OviError
from ovi.media import decode, encode
from ovi.progress import Silent
from ovi.synthetic.corpus import build
from tests.curation.test_run import add, files

PARAMS = Path(__file__).parents[2] / "params.yaml"
SETS = [
    "corpus.clips=3", "corpus.scenes={slide: 1}",
    "corpus.audio_files=2", "corpus.planted=false", "curation.part_files=2", "curation.workers=1",
]  # fmt: skip
TWIN = "extra/twin.mp4"  # a good clip, coded again and larger


def settings(*sets: str) -> Settings:
    return config.load(PARAMS, None, [*SETS, *sets])


class Counting(Silent):
    """How many files were examined."""

    files = 0

    def advance(self, n: int = 1, **figures: float) -> None:
        self.files += n


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    out = folder / "corpus"
    build(settings(), out, Silent())
    first = min((out / "av").glob("*.mp4"))
    shown = np.stack([frame.rgb for frame in decode.frames(first)])
    heard = decode.audio(first)
    encode.write_clip(folder / "twin.mp4", shown, 24, heard.samples[:, 0], heard.rate, width=96, crf=24)
    add(out, TWIN, (folder / "twin.mp4").read_bytes(), json.dumps({"attribution": "A. Nonymous"}))
    index = out / "index.jsonl"
    lines = index.read_text().splitlines()
    lines[0] = lines[0].replace('"licence": "CC0-1.0"', '"licence": "unknown"')
    index.write_text("\n".join(lines) + "\n")
    return out


@pytest.fixture(scope="module")
def clips(corpus: Path) -> Path:
    out = corpus.parent / "clips"
    curate(settings(), corpus, out, Silent())
    return out


def rows(folder: Path, **wanted: str | None) -> list[manifest.Row]:
    return manifest.rows(folder / "manifest.parquet", **{"status": None, **wanted})


def volumes(folder: Path) -> list[float]:
    return sorted(row["volume_db"] for row in rows(folder, set="av"))


def test_shares_are_worked_apart_and_put_together(corpus: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips"
    first = curate(settings(), corpus, out, Silent(), share=(1, 2))
    assert (first["done"], first["of"]) == (1, 3)
    assert not out.exists()
    counted = Counting()
    second = curate(settings("curation.workers=2"), corpus, out, counted, share=(0, 2))
    assert (second["done"], second["of"], counted.files) == (3, 3, 4)
    counted = Counting()
    curate(settings(), corpus, out, counted)
    assert counted.files == 0
    assert files(out) == files(clips)
    assert not out.with_name("clips-work").exists()


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "1/2/3"])
def test_a_share_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard"):
        parts.share_of(text)


def test_a_part_is_done_only_for_what_would_be_worked_on_now(corpus: Path, tmp_path: Path) -> None:
    from ovi.curation.run import _sources

    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    sources = _sources(copy)

    def names(*sets: str) -> set[tuple[str, str]]:
        work = parts.Work(settings(*sets), sources, tmp_path / "out")
        return {(str(work.clips), part.name) for part in work.parts}

    before = names()
    assert names("curation.workers=3", "curation.shard_mib=1", "curation.duplicate_bits=3") == before
    assert not names("curation.min_motion=0.5") & before
    assert not names("curation.target_pixels=2048") & before
    (copy / TWIN).with_suffix(".json").write_text("{}")
    assert len(names() & before) == 2


def test_steps_add_up_and_facts_are_there(clips: Path) -> None:
    summary = storage.read_json(clips / "summary.json")
    assert [step["step"] for step in summary["steps"]][:3] == ["files", "thresholds", "duplicates"]
    for step in summary["steps"]:
        assert step["inputs"] == step["kept"] + step["rejected"] + step["errors"]
    assert summary["figures"]["kept/av"] == 4
    assert all(isinstance(value, int | float) for value in summary["figures"].values())
    (twin,) = [row for row in rows(clips) if row["source_path"] == TWIN]
    assert (twin["licence"], twin["provenance"], twin["attribution"]) == ("CC0-1.0", "test", "A. Nonymous")
    assert sum(row["licence"] is None for row in rows(clips)) > 0
    page = (clips / "report.html").read_text()
    assert "<video controls" in page
    assert "<audio controls" in page


def test_stricter_thresholds_touch_no_shard(corpus: Path, clips: Path, tmp_path: Path) -> None:
    out, anew = tmp_path / "clips", tmp_path / "anew"
    shutil.copytree(clips, out, copy_function=os.link)
    counted, limit = Counting(), volumes(clips)[1] + 1e-6
    chosen = settings(f"curation.min_volume_db={limit}")
    select(chosen, corpus, out, counted)
    curate(chosen, corpus, anew, Silent())
    assert counted.files == 0
    for path in (clips / "shards").iterdir():
        assert path.samefile(out / "shards" / path.name)

    def verdicts(folder: Path) -> list[Any]:
        ignored = {*manifest.PLACE, "content", "coding"}  # what was packed once stays to be found
        return [{name: value for name, value in row.items() if name not in ignored} for row in rows(folder)]

    assert verdicts(out) == verdicts(anew)
    assert len(rows(out, set="av", status="kept")) == 2
    for row in rows(out, set="av", status="kept"):
        assert np.array_equal(
            packed.frames(ShardReader(out / "shards", "av"), row),
            packed.frames(ShardReader(anew / "shards", "av"), row),
        )
    select(settings(), corpus, out, counted)  # and back
    assert counted.files == 0
    assert files(out) == files(clips)


def test_looser_thresholds_read_again_only_what_was_not_packed(corpus: Path, clips: Path, tmp_path: Path) -> None:
    out, counted = tmp_path / "clips", Counting()
    curate(settings(f"curation.min_volume_db={volumes(clips)[1] + 1e-6}"), corpus, out, Silent())
    lacking = {row["source_path"] for row in rows(out, status="rejected")}
    assert 0 < len(lacking) < 6
    select(settings(), corpus, out, counted)
    assert counted.files == len(lacking)
    assert files(out) == files(clips)


def test_what_needs_other_pixels_or_other_files_is_refused(corpus: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(OviError, match="another target_pixels"):
        select(settings("curation.target_pixels=2048"), corpus, clips, Silent())
    other = tmp_path / "corpus"
    shutil.copytree(corpus, other)
    index = (other / "index.jsonl").read_text().splitlines()
    (other / "index.jsonl").write_text("\n".join(index[1:]) + "\n")
    with pytest.raises(OviError, match="other files than the corpus lists"):
        select(settings(), other, clips, Silent())


def test_duplicates_and_licences_are_settings(corpus: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips"
    shutil.copytree(clips, out, copy_function=os.link)
    select(settings("curation.duplicate_bits=12"), corpus, out, Silent())
    (copy,) = [row for row in rows(out) if row["reason"] == "duplicate"]
    (twin,) = [row for row in rows(out) if row["source_path"] == TWIN]
    assert copy["duplicate_of"] == twin["clip_id"]
    assert copy["source_path"] == min(row["source_path"] for row in rows(out, set="av") if row is not twin)
    select(settings("curation.require_licence=true"), corpus, out, Silent())
    assert {row["reason"] for row in rows(out) if row["licence"] is None} == {"no_licence"}
    assert {row["reason"] for row in rows(out) if row["licence"]} == {None}


def test_near_lossless_coding_from_files_to_readers(corpus: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips"
    curate(settings("curation.coding=h264"), corpus, out, Silent())
    exact, coded = (ShardReader(folder / "shards", "av") for folder in (clips, out))
    kept = rows(out, set="av", status="kept")
    assert [row["clip_id"] for row in kept] == [row["clip_id"] for row in rows(clips, set="av", status="kept")]
    for row in kept:
        assert row["coding"] == "h264"
        assert row["psnr_db"] > 40
        assert packed.pcm(coded, row) == packed.pcm(exact, row)
        assert np.abs(packed.frames(coded, row).astype(int) - packed.frames(exact, row)).mean() < 2
        raw = (out / "shards" / row["shard"]).read_bytes()
        assert raw[row["frames_offset"] + 4 : row["frames_offset"] + 8] == b"ftyp"
    assert "PSNR" in (out / "report.html").read_text()


def test_killed_five_times_and_run_again(corpus: Path, clips: Path, tmp_path: Path) -> None:
    """benchmarks/curate_kill.py does this at more points, each from the beginning."""
    out, work, draw = tmp_path / "clips", tmp_path / "clips-work", random.Random(3)
    sets = [word for one in SETS for word in ("--set", one)]
    command = [sys.executable, "-m", "ovi.cli", "curate", "--params", str(PARAMS), *sets]
    command += ["--corpus", str(corpus), "--out", str(out)]
    marked: dict[Path, int] = {}
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        waits = draw.choice([0.5, 1.5])  # s from the first sign of work: where it lands differs with the machine
        while not work.exists() and process.poll() is None:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, waits))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not out.exists() or files(out) == files(clips)
        now = {path: path.stat().st_mtime_ns for path in work.glob("*/rows/*.parquet")}
        assert now.items() >= marked.items() or not work.exists()  # nothing that was done is done again
        marked = now
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    assert files(out) == files(clips)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips"]

"""The stage from a rendered corpus to shards: every planted defect by its own reason, equal bytes, nothing lost."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import threading
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovi import config, storage
from ovi.config import Settings
from ovi.curation import manifest
from ovi.curation.run import curate
from ovi.curation.shards import ShardReader
from ovi.errors import ConfigError, OviError
from ovi.media import cut, decode
from ovi.progress import Silent
from ovi.synthetic.corpus import build

SETS = [
    "corpus.clips=5",
    "corpus.scenes={blink: 1, bounce: 1, hammer: 1, mouth: 1, slide: 1}",
    "corpus.audio_files=4",
    "curation.min_sync_score=0.6",
]
ADDED = {  # files that the corpus does not plant -> (status, reason)
    "extra/copy.mp4": ("rejected", "duplicate"),
    "extra/noise.mp4": ("error", "unreadable"),
    "extra/tags.mp4": ("rejected", "bad_caption"),
    "extra/deep.mp4": ("error", "crashed"),
    "extra/gone.mp4": ("error", "unreadable"),
    "extra/blip.wav": ("rejected", "too_short"),
    "extra/hush.wav": ("rejected", "silent"),
}


def settings(*sets: str) -> Settings:
    params = Path(__file__).parents[2] / "params.yaml"
    return config.load(params, None, [*SETS, *sets])


def add(corpus: Path, name: str, data: bytes | None, sidecar: str | None = None) -> None:
    path = corpus / name
    path.parent.mkdir(exist_ok=True)
    if data is not None:
        path.write_bytes(data)
    if sidecar is not None:
        path.with_suffix(".json").write_text(sidecar)
    line = {
        "path": name, "sha256": storage.sha256(path) if data is not None else "0" * 64, "bytes": len(data or b""),
        "kind": "audio" if name.endswith(".wav") else "av", "licence": "CC0-1.0", "provenance": "test",
    }  # fmt: skip
    with open(corpus / "index.jsonl", "a") as index:
        index.write(json.dumps(line, sort_keys=True) + "\n")


def wav(folder: Path, seconds: float, level: float) -> bytes:
    path = folder / "made.wav"
    tone = level * np.sin(np.arange(int(seconds * 16000)) * 0.1)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes((tone * 32767).astype("<i2").tobytes())
    return path.read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    out = folder / "corpus"
    build(settings(), out, Silent())
    good = sorted((out / "av").glob("*.mp4"))
    add(out, "extra/copy.mp4", good[0].read_bytes())
    add(out, "extra/noise.mp4", b"this is not a film" * 100)
    add(
        out,
        "extra/tags.mp4",
        good[1].read_bytes() + b"\0",
        json.dumps({"caption": "A cat <S>says. <AUDCAP>x<ENDAUDCAP>"}),
    )
    add(out, "extra/deep.mp4", good[2].read_bytes() + b"\0", "[" * 100_000)
    add(out, "extra/gone.mp4", None)
    add(out, "extra/blip.wav", wav(folder, 0.5, 0.5))
    add(out, "extra/hush.wav", wav(folder, 3.0, 0.0005))
    add(out, "extra/long.wav", wav(folder, 25.5, 0.5))
    return out


@pytest.fixture(scope="module")
def clips(corpus: Path) -> Path:
    out = corpus.parent / "clips"
    curate(settings("curation.workers=2"), corpus, out, Silent())
    return out


@pytest.fixture(scope="module")
def rows(clips: Path) -> list[manifest.Row]:
    return manifest.rows(clips / "manifest.parquet", status=None)


def planted(rows: list[manifest.Row], defect: str) -> list[manifest.Row]:
    found = [row for row in rows if row["planted"] == defect]
    assert found
    return found


@pytest.mark.parametrize(
    ("defect", "status", "reason"),
    [
        ("static", "rejected", "static"),
        ("silent", "rejected", "silent"),
        ("late_audio", "rejected", "out_of_sync"),
        ("cut", "rejected", "cut_in_window"),
        ("short", "rejected", "too_short"),
        ("no_audio", "rejected", "no_audio"),
        ("truncated", "error", "truncated"),
        ("letterbox", "kept", None),
        ("long_cut", "kept", None),
        ("vfr", "kept", None),
    ],
)
def test_planted_defects_end_with_their_own_reason(
    rows: list[manifest.Row], defect: str, status: str, reason: str | None
) -> None:
    assert {(row["status"], row["reason"]) for row in planted(rows, defect)} == {(status, reason)}


@pytest.mark.parametrize(("name", "verdict"), ADDED.items())
def test_other_bad_files_end_with_their_own_reason(
    rows: list[manifest.Row], name: str, verdict: tuple[str, str]
) -> None:
    found = [row for row in rows if row["source_path"] == name]
    assert {(row["status"], row["reason"]) for row in found} == {verdict}
    assert {row["set"] for row in found} <= ({"av"} if name.endswith("mp4") else {"pretrain", "finetune"})


def test_good_clips_are_kept_whole(rows: list[manifest.Row]) -> None:
    good = [row for row in rows if row["source_path"].startswith("av/")]
    assert len(good) == 5
    for row in good:
        assert (row["status"], row["frames"], row["samples"]) == ("kept", 121, 80640)
        assert (row["width"], row["height"], row["crop"]) == (32, 32, None)
        assert row["sync"] == "in_sync"
        assert (row["caption_by"], row["motion_by"], row["sync_by"]) == ("sidecar", "opencv-dis-v1", "onset-motion-v2")
        assert row["faces"] is None
        assert "no face detector" in row["faces_reason"]


def test_repairs(rows: list[manifest.Row], corpus: Path) -> None:
    assert {row["crop"] for row in planted(rows, "letterbox")} == {"64:64:0:8", "64:64:0:16"}
    for row in planted(rows, "long_cut"):
        length = len(list(decode.frames(corpus / row["source_path"])))
        start, joint = Fraction(row["start"]), Fraction(length, 48)
        assert start + Fraction(120, 24) < joint or start >= joint
    assert len(planted(rows, "long_cut")) == 4
    assert all(row["source_variable_rate"] for row in planted(rows, "vfr"))


def test_no_candidate_is_lost(rows: list[manifest.Row], clips: Path, corpus: Path) -> None:
    listed = {json.loads(line)["path"] for line in (corpus / "index.jsonl").read_text().splitlines()}
    assert {row["source_path"] for row in rows} == listed
    assert all((row["reason"] is None) == (row["status"] == "kept") for row in rows)
    assert all(row["split"] in manifest.SPLITS for row in rows)
    names = [row["clip_id"] for row in rows if row["clip_id"]]
    assert len(names) == len(set(names))
    summary = storage.read_json(clips / "summary.json")
    counted = [n for part in ("kept", "rejected", "errors") for group in summary[part].values() for n in group.values()]
    assert sum(counted) == summary["candidates"] == len(rows)


def test_nothing_names_the_machine(rows: list[manifest.Row], corpus: Path) -> None:
    assert str(corpus.parent) not in json.dumps(rows)


def test_shards_hold_what_the_manifest_says(rows: list[manifest.Row], clips: Path) -> None:
    for name in manifest.SETS:
        reader = ShardReader(clips / "shards", name)
        kept = [row for row in rows if row["set"] == name and row["status"] == "kept"]
        kinds = ("frames", "pcm", "json") if name == "av" else ("pcm", "json")
        assert reader.members() == [f"{row['clip_id']}.{kind}" for row in kept for kind in kinds]
        for row in kept:
            described = json.loads(reader.read(f"{row['clip_id']}.json"))
            assert described["caption"] == row["caption"]
            assert len(reader.read(f"{row['clip_id']}.pcm")) == 2 * row["samples"] == row["pcm_length"]
            raw = (clips / "shards" / row["shard"]).read_bytes()
            place = slice(row["pcm_offset"], row["pcm_offset"] + row["pcm_length"])
            assert raw[place] == reader.read(f"{row['clip_id']}.pcm")
            if name == "av":
                assert len(reader.read(f"{row['clip_id']}.frames")) == 121 * 32 * 32 * 3


def test_packed_clips_are_the_source_from_the_same_instant(rows: list[manifest.Row], clips: Path, corpus: Path) -> None:
    reader = ShardReader(clips / "shards", "av")
    for row in [
        row for row in rows if row["status"] == "kept" and row["planted"] != "letterbox" and row["set"] == "av"
    ]:
        source = cut.clip(corpus / row["source_path"], Fraction(row["start"]))
        halves = source.frames.reshape(121, 32, 2, 32, 2, 3).mean((2, 4))
        packed = np.frombuffer(reader.read(f"{row['clip_id']}.frames"), np.uint8).reshape(121, 32, 32, 3)
        assert np.abs(packed - halves).max() <= 0.51
        sound = np.frombuffer(reader.read(f"{row['clip_id']}.pcm"), "<i2") / 32768
        assert np.abs(sound - source.audio).max() <= 1 / 32768


def test_audio_sets_have_their_lengths(rows: list[manifest.Row], clips: Path) -> None:
    long = [row for row in rows if row["source_path"] == "extra/long.wav"]
    assert [row["samples"] for row in long if row["set"] == "pretrain"] == [192000, 192000, 24000]
    assert [row["samples"] for row in long if row["set"] == "finetune"] == [80640] * 5 + []
    assert [row["start"] for row in long if row["set"] == "finetune"] == ["0", "126/25", "252/25", "378/25", "504/25"]
    short = [row for row in rows if row["set"] == "finetune" and row["status"] == "kept" and row["source_seconds"] < 5]
    assert short
    pcm = np.frombuffer(ShardReader(clips / "shards", "finetune").read(f"{short[0]['clip_id']}.pcm"), "<i2")
    heard = int(short[0]["source_seconds"] * 16000)
    assert np.any(pcm[:heard])
    assert not np.any(pcm[heard + 1 :])


def test_events_are_on_the_clips_clock(rows: list[manifest.Row]) -> None:
    first, second = [row for row in planted(rows, "long_cut") if row["source_path"] == "bad/long_cut_0.mp4"]
    assert first["events"]
    assert second["events"]
    assert all(0 <= event < 121 / 24 for event in first["events"] + second["events"])


def test_one_worker_and_two_give_the_same_bytes(corpus: Path, clips: Path, tmp_path: Path) -> None:
    curate(settings("curation.workers=1"), corpus, tmp_path / "clips", Silent())
    assert files(tmp_path / "clips") == files(clips)


def test_the_report_stands_alone(clips: Path) -> None:
    page = (clips / "report.html").read_text()
    for word in ("out_of_sync", "onset-motion-v2", "no face detector configured", "data:image/png;base64,", "<svg"):
        assert word in page
    assert "http" not in page
    assert "src=" not in page.replace('src="data:', "")


class Killer(Silent):
    """Kills one worker after the first source is done, as the kernel does when memory runs out."""

    done = 0

    def advance(self, n: int = 1, **figures: float) -> None:
        self.done += n
        if self.done == 1:
            multiprocessing.active_children()[0].kill()


def some(corpus: Path, folder: Path, *names: str) -> Path:
    """A corpus of some of the files of another, listed by their absolute paths."""
    out = folder / "some"
    out.mkdir()
    lines = [json.loads(line) for line in (corpus / "index.jsonl").read_text().splitlines()]
    chosen = [line | {"path": str(corpus / line["path"])} for line in lines if line["path"] in names]
    (out / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in chosen))
    return out


def test_a_killed_worker_loses_nothing(corpus: Path, clips: Path, tmp_path: Path) -> None:
    few = some(corpus, tmp_path, "av/blink_0000.mp4", "av/slide_0000.mp4", "bad/short_0.mp4", "bad/vfr_0.mp4")
    curate(settings("curation.workers=2"), few, tmp_path / "clips", Killer())
    killed, whole = (ShardReader(folder / "shards", "av") for folder in (tmp_path / "clips", clips))
    assert len(killed) == 9
    assert all(killed.read(name) == whole.read(name) for name in killed.members())
    (row,) = manifest.rows(tmp_path / "clips" / "manifest.parquet", status="rejected")
    assert row["reason"] == "too_short"


def test_a_source_that_kills_its_process_is_a_row(corpus: Path, tmp_path: Path) -> None:
    small = some(corpus, tmp_path, "av/blink_0000.mp4")
    over = threading.Event()

    def kill_all() -> None:
        while not over.wait(0.01):
            for child in multiprocessing.active_children():
                child.kill()

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        with pytest.raises(OviError, match=r"no clip was kept \(crashed 1\)"):
            curate(settings("curation.workers=1"), small, tmp_path / "clips", Silent())
    finally:
        over.set()
        killer.join()
    (row,) = manifest.rows(tmp_path / "clips" / "manifest.parquet", status=None)
    assert (row["status"], row["reason"]) == ("error", "crashed")
    assert "died" in row["message"]
    assert (tmp_path / "clips" / "report.html").exists()


@pytest.mark.parametrize("name", ["raft", "yunet"])
def test_networks_whose_files_are_none_are_refused_at_the_start(corpus: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"curation\.weights\.{name}: "):
        curate(settings(f"curation.weights.{name}=/nowhere/file"), corpus, tmp_path / "clips", Silent())
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize(
    ("text", "words"), [(None, "no such file"), ("", "lists no files"), ("{}\n", "jsonl:1: not an entry")]
)
def test_a_corpus_that_is_none_is_one_line(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "index.jsonl").write_text(text)
    with pytest.raises(OviError, match=words):
        curate(settings(), tmp_path, tmp_path / "clips", Silent())


def test_a_folder_with_something_else_is_not_replaced(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OviError, match="would be replaced"):
        curate(settings(), corpus, tmp_path, Silent())
    assert (tmp_path / "thesis.txt").exists()


def test_an_interrupted_run_leaves_the_last_one_in_place(corpus: Path, clips: Path, tmp_path: Path) -> None:
    class Stop(Silent):
        def advance(self, n: int = 1, **figures: Any) -> None:
            raise KeyboardInterrupt

    out = tmp_path / "out" / "clips"
    shutil.copytree(clips, out)
    few = some(corpus, tmp_path, "av/blink_0000.mp4", "bad/short_0.mp4")
    with pytest.raises(KeyboardInterrupt):
        curate(settings("curation.workers=1"), few, out, Stop())
    assert files(out) == files(clips)
    assert sorted(path.name for path in out.parent.iterdir()) == ["clips", "clips-work"]  # to go on from

"""The captioning step with the HTTP captioner and a server on loopback: kept, refused, failed, stopped, resumed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovi import config
from ovi.config import Captions, Settings
from ovi.curation import captioning, manifest
from ovi.curation.captioner import HttpCaptioner
from ovi.curation.captions import SIDECAR, TEMPLATE
from ovi.curation.manifest import KEPT, REJECTED, Row
from ovi.curation.packed import Folder
from ovi.curation.run import curate
from ovi.curation.shards import ShardReader
from ovi.errors import ConfigError, OviError
from ovi.media import encode
from ovi.synthetic.corpus import build
from tests.curation.llm_server import (
    SPOKEN,
    SPOKEN_SOUND,
    UNSPOKEN,
    UNSPOKEN_SOUND,
    Asked,
    LlmServer,
    Reply,
    failing,
    good,
    said,
)
from tests.curation.test_captioner import Notes

PARAMS = Path(__file__).parents[2] / "params.yaml"
BASE = config.load(PARAMS)
FRAMES, SIDE, SAMPLES = 13, 8, 800


@pytest.fixture
def server() -> Iterator[LlmServer]:
    running = LlmServer()
    yield running
    running.stop()


def settings(server: LlmServer, **captions: Any) -> Settings:
    values = {"source": "http", "url": server.url, "model": "omni", "retries": 1, "concurrency": 4, **captions}
    curation = BASE.curation.model_copy(update={"captions": Captions(**values)})
    return BASE.model_copy(update={"curation": curation})


class Stage:
    """Kept clips in a scratch folder; the n-th has n in every pixel and sample."""

    def __init__(self, folder: Path, clips: int = 6, sounds: int = 0) -> None:
        self._folder, self.notes = folder, Notes()
        self.refused: dict[str, Any] = {}
        (folder / "scratch").mkdir()
        self._names = [f"clip{n}" for n in range(clips)] + [f"sound{n}" for n in range(sounds)]
        for n, name in enumerate(self._names):
            (folder / "scratch" / f"{name}.pcm").write_bytes(np.full(SAMPLES, n, "<i2").tobytes())
            if name.startswith("clip"):
                (folder / "scratch" / f"{name}.frames").write_bytes(bytes([n]) * (FRAMES * SIDE * SIDE * 3))

    def rows(self) -> list[Row]:
        kept = {"status": KEPT, "reason": None, "caption": "A. <AUDCAP>B<ENDAUDCAP>", "caption_by": TEMPLATE}
        seen = {"set": "av", "frames": FRAMES, "fps": 24, "width": SIDE, "height": SIDE}
        return [
            {"clip_id": name, **kept, "sample_rate": 16000, **(seen if "clip" in name else {"set": "pretrain"})}
            for name in self._names
        ]

    def run(self, server: LlmServer, rows: list[Row] | None = None, **captions: Any) -> list[Row]:
        """The rows with their captions."""
        rows = self.rows() if rows is None else rows
        chosen = settings(server, **captions)
        model = HttpCaptioner(chosen.curation.captions, self.notes, first_wait_s=0.005)
        clips, answers = self._folder / "scratch", str(self._folder / "answers")
        self.refused = captioning.caption(rows, chosen, model, Folder(clips), answers, self.notes)
        return rows

    def files(self, name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((self._folder / name).rglob("*.json"))}


def number(asked: Asked) -> int:
    """Which clip a request is about."""
    return int(np.frombuffer(asked.sound[44:], "<i2")[0])


def test_clips_and_sounds_get_their_captions(server: LlmServer, tmp_path: Path) -> None:
    def reply(asked: Asked) -> Reply:
        spoken, pictures = number(asked) % 2 == 1, bool(asked.parts("image_url"))
        if asked.listening:
            return said("SPEECH" if spoken else "NO SPEECH", usage=(150, 3))
        captions = {(True, True): SPOKEN, (True, False): UNSPOKEN, (False, True): SPOKEN_SOUND}
        return said(captions.get((pictures, spoken), UNSPOKEN_SOUND))

    server.reply = reply
    stage = Stage(tmp_path, clips=2, sounds=2)
    rows = stage.run(server, input_price=2.0, output_price=10.0)
    assert [row["caption"] for row in rows] == [UNSPOKEN, SPOKEN, UNSPOKEN_SOUND, SPOKEN_SOUND]
    assert {row["caption_by"] for row in rows} == {"omni prompts-v1"}
    assert {(row["status"], row["caption_input_tokens"], row["caption_output_tokens"]) for row in rows} == {
        ("kept", 1150, 53)
    }
    assert captioning.summary(rows, settings(server, input_price=2.0, output_price=10.0).curation.captions) == {
        "by": {"omni prompts-v1": 4}, "refused": 0, "failed": 0, "input_tokens": 4600, "output_tokens": 212,
        "cost": 0.01132,
    }  # fmt: skip
    assert "input tokens 4600, output tokens 212, cost 0.01132" in stage.notes.notes[-1]
    manifest.write(tmp_path / "manifest.parquet", rows)
    assert [row["caption"] for row in manifest.rows(tmp_path / "manifest.parquet")] == [row["caption"] for row in rows]


def test_seven_pictures_evenly_from_the_first_to_the_last(server: LlmServer, tmp_path: Path) -> None:
    stage = Stage(tmp_path, clips=1)
    frames = np.repeat(np.arange(FRAMES, dtype=np.uint8) * 20, SIDE * SIDE * 3)
    (tmp_path / "scratch" / "clip0.frames").write_bytes(frames.tobytes())
    stage.run(server)
    text = server.asked[1].parts("text")
    assert text[1:8] == [f"At {n / 24:.2f} s:" for n in (0, 2, 4, 6, 8, 10, 12)]


def test_only_kept_clips_without_a_written_caption_are_asked_about(server: LlmServer, tmp_path: Path) -> None:
    stage = Stage(tmp_path, clips=3)
    rows = stage.rows()
    rows[0] |= {"status": REJECTED, "reason": "silent"}
    rows[1] |= {"caption_by": SIDECAR}
    before = [dict(row) for row in rows[:2]]
    stage.run(server, rows)
    assert rows[:2] == before
    assert {number(asked) for asked in server.asked} == {2}


def test_what_is_always_refused_is_quarantined(server: LlmServer, tmp_path: Path) -> None:
    bad = "Sure! <S>hello. <AUDCAP>Beeps."

    def reply(asked: Asked) -> Reply:
        return said(bad) if number(asked) == 1 and not asked.listening else good(asked)

    server.reply = reply
    stage = Stage(tmp_path, clips=3)
    rows = stage.run(server, reasks=2)
    assert [row["status"] for row in rows] == ["kept", "rejected", "kept"]
    refused = rows[1]
    assert (refused["reason"], refused["caption_reason"], refused["caption"]) == ("caption_refused",) * 2 + (None,)
    assert "<AUDCAP> inside <S>" in refused["message"]
    assert refused["caption_input_tokens"] == 3150
    assert stage.refused["clip1"]["refused"] == [(bad, refused["message"])] * 3
    assert stage.refused["clip1"]["caption"] is None
    complaints = [asked.complaint for asked in server.asked if number(asked) == 1]
    assert complaints[:2] == [None, None]
    assert all("<AUDCAP> inside <S>" in str(complaint) for complaint in complaints[2:])
    assert len(complaints) == 4
    server.asked.clear()
    assert stage.run(server, reasks=2) == rows
    assert server.asked == []
    server.reply = good
    assert stage.run(server, reasks=3)[1]["status"] == "kept"  # more patience asks for the refused ones alone
    assert {number(asked) for asked in server.asked} == {1}


def test_a_clip_that_cannot_be_asked_about_is_rejected_and_asked_next_time(server: LlmServer, tmp_path: Path) -> None:
    server.reply = lambda asked: failing(400, "too long") if number(asked) == 0 else good(asked)
    stage = Stage(tmp_path, clips=3)
    rows = stage.run(server)
    assert [row["reason"] for row in rows] == ["caption_failed", None, None]
    assert "answers 400 (too long)" in rows[0]["message"]
    assert rows[0]["caption"] is None
    server.reply = good
    server.asked.clear()
    assert [row["status"] for row in stage.run(server)] == ["kept"] * 3
    assert {number(asked) for asked in server.asked} == {0}


def test_when_all_fail_it_is_not_the_clips(server: LlmServer, tmp_path: Path) -> None:
    server.reply = lambda _: failing(400, "At most 0 audio(s) may be provided in one prompt.")
    with pytest.raises(OviError, match="10 clips in a row failed, the last one with: answers 400") as stopped:
        Stage(tmp_path, clips=40).run(server)
    assert "At most 0 audio" in str(stopped.value)
    assert len(server.asked) <= 10 + 4


def test_concurrency_is_bounded_and_used(server: LlmServer, tmp_path: Path) -> None:
    together = threading.Barrier(4, timeout=20)

    def reply(asked: Asked) -> Reply:
        together.wait()  # answers come when four requests are under way, and not before
        return good(asked)

    server.reply = reply
    rows = Stage(tmp_path, clips=8).run(server, concurrency=4)
    assert all(row["status"] == KEPT for row in rows)
    assert (len(server.asked), server.most_at_once) == (16, 4)


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_stopped_stage_asks_for_nothing_twice(server: LlmServer, tmp_path: Path, stop: int) -> None:
    def reply(asked: Asked) -> Reply:
        return good(asked) if len(server.asked) <= stop else failing(401)

    server.reply = reply
    stage = Stage(tmp_path)
    with pytest.raises(ConfigError):
        stage.run(server, concurrency=1)
    answered = {number(asked) for asked in server.asked[:stop] if not asked.listening}
    assert len(stage.files("answers")) == len(answered) == stop // 2
    server.reply = good
    server.asked.clear()
    rows = stage.run(server)
    assert {number(asked) for asked in server.asked} == set(range(6)) - answered
    assert len(server.asked) == 2 * (6 - len(answered))
    (tmp_path / "whole").mkdir()
    assert rows == Stage(tmp_path / "whole").run(server)


def test_another_model_or_other_frames_are_asked_anew(server: LlmServer, tmp_path: Path) -> None:
    stage = Stage(tmp_path, clips=1)
    for captions in ({}, {"model": "other"}, {"frames": 5}, {}, {"model": "other"}, {"concurrency": 2, "retries": 7}):
        stage.run(server, **captions)
    assert [asked.body["model"] for asked in server.asked] == ["omni"] * 2 + ["other"] * 2 + ["omni"] * 2
    assert [len(asked.parts("image_url")) for asked in server.asked] == [0, 7, 0, 7, 0, 5]


def test_equal_clips_are_asked_about_once(server: LlmServer, tmp_path: Path) -> None:
    stage = Stage(tmp_path, clips=6)
    for n in range(6):
        for kind in ("pcm", "frames"):
            (tmp_path / "scratch" / f"clip{n}.{kind}").write_bytes(
                (tmp_path / "scratch" / f"clip0.{kind}").read_bytes()
            )
    assert len({row["caption"] for row in stage.run(server)}) == 1
    assert len(server.asked) == 2


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "not text": lambda _: b"\xff\xfe\x00",
    "a list": lambda _: b"[]",
    "deep": lambda _: b"[" * 100_000,
    "another caption": lambda data: data.replace(b"<ENDAUDCAP>", b""),
    "a caption of another kind": lambda data: data.replace(b"A lamp blinks in the dark. ", b""),
    "no counts": lambda data: data.replace(b'"input_tokens": 1150', b'"input_tokens": "many"'),
    "a number as caption": lambda data: data.replace(b'"caption": "', b'"caption": 7, "x": "'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_answer_is_asked_for_again(server: LlmServer, tmp_path: Path, damage: Any) -> None:
    stage = Stage(tmp_path, clips=1)
    rows = stage.run(server)
    (path,) = (tmp_path / "answers").rglob("*.json")
    whole = path.read_bytes()
    assert damage(whole) != whole
    path.write_bytes(damage(whole))
    assert stage.run(server) == rows
    assert len(server.asked) == 4
    assert path.read_bytes() == whole


def test_rubbish_of_every_kind_at_once(server: LlmServer, tmp_path: Path) -> None:
    kinds = [
        lambda asked: good(asked),
        lambda asked: said("<S>" if not asked.listening else "SPEECH"),
        lambda asked: Reply(good(asked).body[:-9]),
        lambda asked: Reply(good(asked).body, headers={"content-type": "text/html"}),
        lambda asked: Reply(b" " * (1 << 21)),
        lambda asked: failing(500),
        lambda asked: Reply(drop=True),
        lambda asked: failing(422),
        lambda asked: said(f"{UNSPOKEN} {UNSPOKEN}" if not asked.listening else "NO SPEECH"),
        lambda asked: good(asked),
    ]
    server.reply = lambda asked: kinds[number(asked)](asked)
    rows = Stage(tmp_path, clips=10).run(server)
    assert [row["reason"] for row in rows] == [
        None, "caption_refused", *["caption_failed"] * 6, "caption_refused", None
    ]  # fmt: skip
    assert all((row["caption"] is None) == (row["status"] == REJECTED) for row in rows)


def test_from_files_to_shards(server: LlmServer, tmp_path: Path) -> None:
    files, noise = tmp_path / "files", np.random.default_rng(0)
    files.mkdir()
    hiss = noise.uniform(-0.3, 0.3, 6 * 16000).astype(np.float32)
    encode.write_clip(files / "a.mp4", noise.integers(0, 256, (125, 64, 64, 3), np.uint8), 24, hiss)
    encode.write_wav(files / "b.wav", hiss, 16000)
    (files / "b.txt").write_text("<AUDCAP>Hiss.<ENDAUDCAP>")
    chosen = settings(server)
    chosen = chosen.model_copy(
        update={
            "corpus": chosen.corpus.model_copy(update={"source": str(files)}),
            "curation": chosen.curation.model_copy(update={"workers": 1}),
        }
    )
    build(chosen, tmp_path / "corpus", Notes())
    out, cache = tmp_path / "clips", tmp_path / "clips-captions"
    summary = curate(chosen, tmp_path / "corpus", out, Notes())
    rows = manifest.rows(out / "manifest.parquet")
    asked = [row for row in rows if row["caption_by"] == "omni prompts-v1"]
    assert [(row["set"], row["caption"]) for row in asked] == [("av", UNSPOKEN)]
    assert {row["caption_by"] for row in rows} == {"omni prompts-v1", SIDECAR}
    assert summary["captions"]["by"] == {"omni prompts-v1": len(asked), SIDECAR: len(rows) - len(asked)}
    for row in asked:
        described = json.loads(ShardReader(out / "shards", row["set"]).read(f"{row['clip_id']}.json"))
        assert described["caption"] == row["caption"]
    assert len(list(cache.rglob("*.json"))) == len(asked) == len(server.asked) // 2
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    server.stop()  # everything is answered already
    (tmp_path / "work").mkdir()
    cache.rename(tmp_path / "work/clips-captions")
    elsewhere = chosen.curation.model_copy(update={"work": str(tmp_path / "work")})
    curate(chosen.model_copy(update={"curation": elsewhere}), tmp_path / "corpus", out, Notes())
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not cache.exists()


def test_a_captioner_that_cannot_work_is_refused_at_the_start(server: LlmServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key_env"):
        curate(settings(server, key_env="NO_SUCH_KEY_HERE"), tmp_path, tmp_path / "clips", Notes())
    with pytest.raises(ConfigError, match=r"curation\.captions: model: source=http needs one"):
        config.load(PARAMS, sets=["curation.captions.source=http"])
    with pytest.raises(ConfigError, match=r"curation\.captions\.source: .*'sidecar', 'http' or 'local'"):
        config.load(PARAMS, sets=["curation.captions.source=grpc"])
    assert not (tmp_path / "clips").exists()

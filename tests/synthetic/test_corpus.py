"""A small corpus, built twice: equal bytes, and each planted defect is really there."""

from __future__ import annotations

import hashlib
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovi import storage
from ovi.config import Settings, load
from ovi.errors import ConfigError, OviError
from ovi.media import decode, encode, probe
from ovi.media.audio import mean_volume_db, to_mono
from ovi.media.probe import MediaError
from ovi.progress import Silent
from ovi.synthetic import planted
from ovi.synthetic.corpus import build, jobs
from ovi.synthetic.scenes import SCENES, render


def settings(**corpus: Any) -> Settings:
    words = {"clips": 8, "audio_files": 6, "workers": 2} | corpus
    return load("params.yaml", sets=[f"corpus.{key}={json.dumps(value)}" for key, value in words.items()])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "data"
    build(settings(), out, Silent())
    return out


def index(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def sidecar(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text())


def test_one_worker_builds_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    build(settings(workers=1), tmp_path / "again", Silent())
    assert storage.sha256_folder(corpus) == storage.sha256_folder(tmp_path / "again")


def test_every_file_is_listed_with_its_digest(corpus: Path) -> None:
    lines = index(corpus)
    assert [line["path"] for line in lines] == sorted(line["path"] for line in lines)
    assert len(lines) == 8 + 2 * len(planted.DEFECTS) + 6
    files = {
        path.relative_to(corpus).as_posix() for path in corpus.rglob("*") if path.suffix in {".mp4", ".wav", ".m4a"}
    }
    assert {line["path"] for line in lines} == files
    for line in lines:
        assert line["sha256"] == storage.sha256(corpus / line["path"])
        assert line["bytes"] == (corpus / line["path"]).stat().st_size
        assert line["kind"] == ("audio" if line["path"].startswith("audio/") else "av")
        assert line["licence"] == "CC0-1.0"
        facts = sidecar(corpus / line["path"])
        assert facts.keys() == {"scene", "caption", "events", "planted", "offset_ms", "seed"}
    assert len({line["sha256"] for line in lines}) == len(lines)


def test_shares_of_scenes_add_up() -> None:
    shares = {"blink": 0.44, "bounce": 0.14, "hammer": 0.14, "mouth": 0.14, "slide": 0.14}
    listed = [job.what for job in jobs(settings(clips=100, scenes=shares).corpus, 0) if job.kind == "av"]
    assert [listed.count(scene) for scene in SCENES] == [44, 14, 14, 14, 14]
    listed = [
        job.what for job in jobs(settings(clips=3, scenes={"hammer": 1, "blink": 1}).corpus, 0) if job.kind == "av"
    ]
    assert listed == ["blink", "blink", "hammer"]


def test_good_clips_show_what_their_sidecar_says(corpus: Path) -> None:
    rates = set()
    for path in sorted(corpus.glob("av/*.mp4")):
        info, facts = probe.probe(path), sidecar(path)
        frames = list(decode.frames(path, info))
        assert 125 <= len(frames) <= 130
        assert frames[-1].end == Fraction(len(frames), 24)
        assert facts["planted"] is None
        assert re.fullmatch(r"\w+_\d{4}", path.stem)
        sound = decode.audio(path, info)
        rates.add((sound.rate, sound.samples.shape[1]))
        assert abs(sound.end - frames[-1].end) < Fraction(1, 5)
        shot = render(
            facts["scene"], facts["seed"], frames=len(frames), rate=sound.rate, samples=len(frames) * sound.rate // 24
        )
        assert facts["caption"] == shot.caption
        assert facts["events"] == pytest.approx(shot.events, abs=1e-5)
        back = np.stack([frame.rgb for frame in frames])
        assert np.abs(back.astype(int) - shot.frames).mean() < 5
    assert rates == {(16000, 1), (48000, 2)}


def test_planted_defects(corpus: Path) -> None:
    def bad(defect: str, number: int) -> Path:
        path = corpus / f"bad/{defect}_{number}.mp4"
        assert sidecar(path)["planted"] == defect
        return path

    def frames(path: Path) -> list[decode.Frame]:
        return list(decode.frames(path))

    for number in range(planted.EACH):
        still = np.stack([frame.rgb for frame in frames(bad("static", number))]).astype(int)
        assert still.std(axis=0).max() < 2
        assert mean_volume_db(decode.audio(bad("static", number)).samples) > -45
        assert mean_volume_db(decode.audio(bad("silent", number)).samples) < -60
        facts = sidecar(bad("late_audio", number))
        assert 240 <= facts["offset_ms"] <= 400
        loud = np.abs(to_mono(decode.audio(bad("late_audio", number)).samples)) > 0.05
        assert int(loud.argmax()) / 16000 == pytest.approx(facts["events"][0] + facts["offset_ms"] / 1000, abs=0.02)
        boxed = frames(bad("letterbox", number))[60].rgb
        bar = (len(boxed) - 64) // 2
        assert bar >= 8
        assert boxed[: bar - 2].max() <= 6
        assert boxed[bar + 2 : -bar].max() > 100
        assert len(frames(bad("cut", number))) == 144
        assert len(frames(bad("long_cut", number))) >= 2 * 121
        assert sidecar(bad("long_cut", number))["caption"] is None
        assert len(frames(bad("short", number))) < 121
        with pytest.raises(MediaError, match="breaks off"):
            frames(bad("truncated", number))
        assert probe.probe(bad("no_audio", number)).audio is None
        shown = frames(bad("vfr", number))
        lasting = {frame.end - frame.time for frame in shown}
        assert lasting == {Fraction(1, 24), Fraction(1, 12)}
        assert shown[-1].end >= Fraction(125, 24)


def test_sound_alone(corpus: Path) -> None:
    kinds = {path.suffix for path in corpus.glob("audio/*") if path.suffix != ".json"}
    assert kinds == {".wav", ".m4a"}
    for line in index(corpus):
        if line["kind"] == "audio":
            sound = decode.audio(corpus / line["path"])
            assert 2 <= len(sound.samples) / sound.rate <= 12.1
            assert mean_volume_db(sound.samples) > -45
    assert len(list(corpus.glob("audio/speech_*.json"))) == 4


def test_your_own_folder_is_listed_and_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    encode.write_wav(mine / "b" / "noise.WAV", np.zeros(99, np.float32), 8000)
    encode.write_clip(mine / "a.mp4", np.zeros((5, 16, 16, 3), np.uint8), 24, None)
    (mine / "a.json").write_text('{"licence": "CC-BY-4.0"}')
    (mine / "notes.txt").write_text("not media")
    before = storage.sha256_folder(mine)
    counts = build(settings(source=str(mine)), tmp_path / "out", Silent())
    assert (counts["av"], counts["audio"]) == (1, 1)
    lines = index(tmp_path / "out")
    assert [(line["path"], line["kind"], line["licence"]) for line in lines] == [
        (str(mine / "a.mp4"), "av", "CC-BY-4.0"),
        (str(mine / "b" / "noise.WAV"), "audio", "unknown"),
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.jsonl"]
    assert storage.sha256_folder(mine) == before


def test_what_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(OviError, match="is not a folder"):
        build(settings(source=str(tmp_path / "none")), tmp_path / "out", Silent())
    (tmp_path / "empty").mkdir()
    with pytest.raises(OviError, match="holds no video or audio"):
        build(settings(source=str(tmp_path / "empty")), tmp_path / "out", Silent())

    with pytest.raises(ConfigError, match="'piano' is unknown"):
        build(settings(scenes={"piano": 1}), tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


def test_a_bucket_is_listed_with_what_its_sidecars_say(bucket: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{bucket}/mine/b/film.MP4", b"12345")
    storage.write_json(f"{bucket}/mine/b/film.json", {"licence": "CC0-1.0"})
    storage.write_bytes(f"{bucket}/mine/song.wav", b"123")
    storage.write_bytes(f"{bucket}/mine/song.json", b"{")
    storage.write_bytes(f"{bucket}/mine/notes.txt", b"1")
    assert build(settings(source=f"{bucket}/mine"), tmp_path / "out", Silent()) == {"av": 1, "audio": 1, "bytes": 8}
    lines = index(tmp_path / "out")
    assert [(line["path"], line["kind"], line["licence"]) for line in lines] == [
        (f"{bucket}/mine/b/film.MP4", "av", "CC0-1.0"), (f"{bucket}/mine/song.wav", "audio", "unknown"),
    ]  # fmt: skip
    assert lines[0]["sha256"] == hashlib.sha256(b"12345").hexdigest()
    with pytest.raises(OviError, match="holds no video or audio files"):
        build(settings(source=f"{bucket}/none"), tmp_path / "none", Silent())

"""Prepared clips: equally large, long and loud, nothing in them that names a model; checks that are plainly damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ovi.errors import OviError
from ovi.media import decode
from ovi.media.audio import peak_db
from ovi.media.encode import write_clip
from ovi.media.probe import MediaError, probe
from ovi.progress import Silent
from services.study.loudness import lufs
from services.study.pairs import LOUDNESS, Pairs, prepare
from tests.services.study.made import MODELS, lay_clips


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_clips(tmp_path_factory.mktemp("pairs") / "pairs", items=2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def pairs(laid: Path, clips: Path) -> Pairs:
    return prepare(laid, clips, Silent())


def test_loudness_is_that_of_the_standard() -> None:
    """EBU Tech 3341, cases 1 to 3: a stereo tone of 1 kHz at -23 dBFS is -23 LUFS; quiet parts are gated."""
    seconds = np.arange(20 * 48000) / 48000
    tone = np.repeat(np.sin(2 * np.pi * 1000 * seconds)[:, None], 2, axis=1)
    at = {level: 10 ** (level / 20) * tone for level in (-23, -33, -36, -72)}
    assert lufs(at[-23], 48000) == pytest.approx(-23.0, abs=0.1)
    assert lufs(at[-33], 48000) == pytest.approx(-33.0, abs=0.1)
    short = {level: sound[: 3 * 48000] for level, sound in at.items()}
    whole = np.concatenate([short[-72], short[-36], at[-23], short[-36], short[-72]])
    assert lufs(whole, 48000) == pytest.approx(-23.0, abs=0.1)
    assert lufs(at[-23][:, 0], 48000) == pytest.approx(lufs(at[-23], 48000))
    assert lufs(at[-23][::3], 16000) == pytest.approx(-23.0, abs=0.1)
    assert lufs(np.zeros((48000, 2)), 48000) is None
    assert lufs(at[-23][:4800], 48000) == pytest.approx(-23.0, abs=0.7)


def test_the_clips_of_an_item_differ_in_nothing_but_what_was_made(pairs: Pairs, clips: Path) -> None:
    assert len(pairs.comparisons) == 2
    for item, made in pairs.clips.items():
        facts = []
        for model in MODELS:
            info, sound = probe(clips / made[model]), decode.audio(clips / made[model])
            shown = info.pictures()
            frames = sum(1 for _ in decode.frames(clips / made[model]))
            facts.append((shown.width, shown.height, frames, sound.rate, round(len(sound.samples) / 48000, 1)))
            assert lufs(sound.samples, sound.rate) == pytest.approx(LOUDNESS, abs=0.3)
            assert model.encode() not in (clips / made[model]).read_bytes()
        assert facts[0] == facts[1] == (128, 128, 48, 48000, 2.0)
        assert pairs.seconds[item] == 2.0


def test_preparing_again_makes_nothing_again(pairs: Pairs, laid: Path, clips: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in clips.iterdir()}
    assert prepare(laid, clips, Silent()) == pairs == Pairs.from_json(pairs.as_json())
    assert {path: path.stat().st_mtime_ns for path in clips.iterdir()} == before
    assert not [path for path in before if any(model in path.name for model in MODELS)]


def test_a_loud_peak_makes_the_whole_item_quieter(tmp_path: Path, clips: Path) -> None:
    folder = lay_clips(tmp_path / "pairs", items=1)
    clicks = np.zeros(32000, np.float32)
    clicks[::4000] = 1.0
    write_clip(folder / "zebra" / "item0.mp4", np.zeros((48, 128, 128, 3), np.uint8), 24, clicks, 16000)
    pairs = prepare(folder, clips, Silent())
    sounds = [decode.audio(clips / pairs.clips["item0"][model]) for model in MODELS]
    levels = [lufs(sound.samples, sound.rate) for sound in sounds]
    assert levels[0] == pytest.approx(levels[1], abs=0.5)
    assert levels[0] < LOUDNESS - 3
    assert max(peak_db(sound.samples) for sound in sounds) < 0


def test_a_silent_model_stays_silent_and_the_other_is_heard(tmp_path: Path, clips: Path) -> None:
    folder = lay_clips(tmp_path / "pairs", items=1)
    write_clip(folder / "zebra" / "item0.mp4", np.zeros((48, 128, 128, 3), np.uint8), 24, None)
    pairs = prepare(folder, clips, Silent())
    quiet, heard = (decode.audio(clips / pairs.clips["item0"][model]) for model in ("zebra", "wombat"))
    assert lufs(quiet.samples, quiet.rate) is None
    assert lufs(heard.samples, heard.rate) == pytest.approx(LOUDNESS, abs=0.3)


def test_checks_are_damaged_in_what_they_ask_for(pairs: Pairs, clips: Path) -> None:
    assert [(check.kind, check.question) for check in pairs.checks[:2]] == [("late", "sync"), ("silent", "audio")]
    for check in pairs.checks:
        (good, bad) = (decode.audio(clips / name).samples for name in (check.good, check.bad))
        (seen, spoilt) = (
            np.stack([frame.rgb for frame in decode.frames(clips / name)]) for name in (check.good, check.bad)
        )
        apart = float(np.mean((good[:90000] - bad[:90000]) ** 2) / np.mean(good[:90000] ** 2))
        same_sound = apart < 0.1
        same_sight = float(np.abs(seen.astype(int) - spoilt).mean()) < 1
        assert same_sound == (check.kind == "coarse"), check.kind
        assert same_sight == (check.kind != "coarse"), check.kind
    late = next(check for check in pairs.checks if check.kind == "late")
    levels = [np.abs(decode.audio(clips / name).samples[:, 0]) for name in (late.good, late.bad)]
    begins = [np.argmax(level > level.max() / 4) / 48000 for level in levels]
    assert 0.25 < begins[1] - begins[0] < 0.6


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "zebra").rename(folder.parent / "elsewhere"), "no two models"),
        (lambda folder: (folder / "zebra").rename(folder / "ze<bra"), "letters, digits"),
        (lambda folder: (folder / "zebra" / "item0.mp4").write_bytes(b"no clip"), "item0.mp4"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, spoil: object, says: str) -> None:
    folder = lay_clips(tmp_path / "pairs", items=1, seconds=0.5)
    spoil(folder)  # type: ignore[operator]
    with pytest.raises((OviError, MediaError), match=says):
        prepare(folder, tmp_path / "out", Silent())
    with pytest.raises(OviError, match="no such folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out", Silent())

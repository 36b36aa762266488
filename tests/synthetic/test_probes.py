"""The scenes that judge the judge: the same for the same seed, and true to what they claim."""

from __future__ import annotations

import numpy as np
import pytest

from ovi.media.audio import mean_volume_db
from ovi.perception.onsets import audio_activity, sync, video_activity
from ovi.synthetic import sounds
from ovi.synthetic.probes import CAPTIONS, PROBES, TICK_S
from ovi.synthetic.scenes import SCENES, render

RATE = 16_000


def test_there_are_eight_scenes_or_more_and_none_has_two_names() -> None:
    assert len({*SCENES, *PROBES}) == len(SCENES) + len(PROBES) >= 8
    assert set(CAPTIONS) == set(PROBES)


@pytest.mark.parametrize("scene", PROBES)
def test_a_probe_depends_on_its_name_and_seed_alone(scene: str) -> None:
    one, same, other = render(scene, 5), render(scene, 5), render(scene, 6)
    assert one.frames.shape == (121, 64, 64, 3)
    assert len(one.audio) == 80_640
    assert one.frames.tobytes() == same.frames.tobytes()
    assert one.audio.tobytes() == same.audio.tobytes()
    assert (one.events, one.caption) == (same.events, same.caption)
    assert one.frames.tobytes() != other.frames.tobytes()
    assert one.frames.astype(int).std(axis=0).max() > 20  # something happens
    assert render(scene, 2, frames=49, size=(48, 96)).frames.shape == (49, 48, 96, 3)


def test_the_key_that_lights_up_tells_the_pitch() -> None:
    shot = render("piano", 4)
    assert len(shot.pitches) == len(shot.events) > 3
    for event, pitch in zip(shot.events, shot.pitches, strict=True):
        frame = shot.frames[int((event + 0.1) * 24)].max(axis=-1)[32].astype(int)
        lit = int(frame.argmax() * 5 / 64)
        assert sounds.beep_pitch(lit) == pytest.approx(pitch)
        part = shot.audio[int((event + 0.02) * RATE) : int((event + 0.18) * RATE)]
        loudest = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 16)).argmax() * RATE / (1 << 16)
        assert abs(1200 * np.log2(loudest / pitch)) < 50


def test_of_two_balls_the_named_one_sounds() -> None:
    for seed in range(3):
        shot = render("two_balls", seed)
        left, right = int(shot.box[:, 1].min()), int(shot.box[:, 3].max())
        sound = audio_activity(shot.audio, RATE)
        own = sync(video_activity(shot.frames[:, :, left:right], 24), sound).at_zero
        other = sync(video_activity(shot.frames[:, :, ::-1][:, :, left:right], 24), sound).at_zero
        assert own > 0.8 > other


def test_controls_have_no_sound_that_goes_with_the_picture() -> None:
    assert mean_volume_db(render("silent", 1).audio) < -65
    assert render("silent", 1).events == []
    scores = []
    for seed in range(8):
        shot = render("off_screen", seed)
        scores.append(sync(video_activity(shot.frames, 24), audio_activity(shot.audio, RATE)).at_zero)
    assert np.median(scores) < 0.4


def test_what_repeats_repeats() -> None:
    clock, metronome = render("clock", 3), render("metronome", 3)
    assert np.diff(clock.events) == pytest.approx(TICK_S)
    tempo = int(metronome.caption.split(" times")[0].split()[-1])
    assert np.diff(metronome.events) == pytest.approx(60 / tempo)

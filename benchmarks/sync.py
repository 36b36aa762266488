"""Does the estimator of `ovi.perception.onsets` know when sound and picture belong together? Scenes with exact truth.

Every scene is rendered with its sound moved by up to half a second either way, clean, and with pixel noise of 0.1 and
sound at 0 dB of signal to noise. Printed for each: bias (median error) and spread (median distance from it) after the
calibration of `ovi.evaluation.sync`, how well true sound is told from another clip's (AUC), events found again
(precision and recall within 80 ms), notes within 50 cents, and CPU ms a clip. Controls must not look synchronous. Of
two balls the sounding one must be told from the silent one.
Try it: `.venv/bin/python benchmarks/sync.py` (about a minute), `--calibrate` to measure the constants again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovi import storage
from ovi.evaluation import statistics
from ovi.evaluation.sync import CALIBRATION_MS
from ovi.perception.onsets import STEP, Activity, SyncEstimate, audio_activity, sync, video_activity
from ovi.synthetic.probes import TICK_S
from ovi.synthetic.scenes import Scene, render

ROOT = Path(__file__).resolve().parents[1]
FPS, RATE = 24, 16_000
FIRST, FIRST_CALIBRATION = 700, 50_000  # seeds
EVENTS = ("blink", "bounce", "hammer", "mouth", "piano", "two_balls")
CONTINUOUS = ("slide",)
PERIODIC = ("clock", "metronome")  # their offset is known up to a period
CONTROLS = ("off_screen", "silent")
CONDITIONS = {"clean": (0.0, None), "noisy": (0.1, 0.0)}  # pixel noise of 1, signal to noise in dB
BIAS_MS, SPREAD_MS, SLIDE_MS, AUC, CPU_MS = 3.0, 3.0, 12.0, 0.99, 100.0  # the bars
CHANCE = (0.3, 0.7)  # AUC of a control over two dozen clips
REACH_S, CENTS = 0.08, 50

Picture = NDArray[np.uint8]
Sound = NDArray[np.float32]


@dataclass(frozen=True)
class Judged:
    """One scene in one condition."""

    scene: str
    condition: str
    bias_ms: float
    spread_ms: float
    auc: float
    precision: float
    recall: float
    in_tune: float | None  # share of notes, where the scene has some
    selective: float | None  # share of clips whose sounding ball fits better than the silent one
    cpu_ms: float


def main() -> int:
    options = _options()
    if options.calibrate:
        for scene in CALIBRATION_MS:
            print(f'    "{scene}": {calibration(scene, options.clips):.1f},')
        return 0
    judged, failed = [], 0
    for scene in (*EVENTS, *CONTINUOUS, *PERIODIC, *CONTROLS):
        for condition in CONDITIONS:
            one = judge(scene, condition, options.clips)
            wrong = [name for name, bar in bars(scene).items() if not bar(one)]
            print(f"{'FAIL' if wrong else 'PASS'}  {words(one)}  {', '.join(wrong)}".rstrip(), flush=True)
            judged.append(one)
            failed += bool(wrong)
    storage.write_json(options.out, {"clips": options.clips, "scenes": [asdict(one) for one in judged]})
    print(f"{len(judged) - failed} passed, {failed} failed")
    return 1 if failed else 0


def judge(scene: str, condition: str, clips: int) -> Judged:
    """Everything of a scene in a condition, over `clips` clips."""
    rng = np.random.default_rng([sum(map(ord, scene)), sum(map(ord, condition))])
    shots = [render(scene, FIRST + at) for at in range(clips)]
    moved = [int(rng.uniform(-0.5, 0.5) * RATE) for _ in shots]
    dirt = CONDITIONS[condition]
    seen = [spoilt(shot.frames, dirt[0], rng) for shot in shots]
    heard = [drowned(shot.audio, dirt[1], rng) for shot in shots]
    late = [drowned(delayed(shot.audio, by), dirt[1], rng) for shot, by in zip(shots, moved, strict=True)]
    began = time.process_time()
    pictures = [video_activity(_source(shot, frames), FPS) for shot, frames in zip(shots, seen, strict=True)]
    found = [sync(picture, audio_activity(sound, RATE)) for picture, sound in zip(pictures, late, strict=True)]
    cpu_ms = 1000 * (time.process_time() - began) / clips
    errors = np.array([_error(*one) for one in zip(shots, found, moved, strict=True)])
    sounds = [audio_activity(sound, RATE) for sound in heard]
    table = np.array([[sync(picture, sound).at_zero for sound in sounds] for picture in pictures])
    hits = np.sum([_hits(shot, sound) for shot, sound in zip(shots, sounds, strict=True)], axis=0)
    others = [_other_ball(shot, frames) for shot, frames in zip(shots, seen, strict=True)]
    selective = [
        table[at, at] > sync(video_activity(frames, FPS), sounds[at]).at_zero
        for at, frames in enumerate(others) if frames is not None
    ]  # fmt: skip
    notes = [tuned for shot, sound in zip(shots, heard, strict=True) for tuned in _in_tune(shot, sound)]
    bias = float(np.median(errors))
    return Judged(
        scene, condition, bias, float(np.median(np.abs(errors - bias))), statistics.auc(table),
        float(hits[0] / max(hits[1], 1)), float(hits[0] / max(hits[2], 1)),
        float(np.mean(notes)) if notes else None, float(np.mean(selective)) if selective else None, cpu_ms,
    )  # fmt: skip


def calibration(scene: str, clips: int) -> float:
    """The mean over conditions of the median of what the estimator says of clips that are in time, in ms."""
    medians = []
    for pixels, decibels in CONDITIONS.values():
        rng, said = np.random.default_rng(1), []
        for at in range(clips):
            shot = render(scene, FIRST_CALIBRATION + at)
            picture = video_activity(_source(shot, spoilt(shot.frames, pixels, rng)), FPS)
            said.append(
                _folded(shot, sync(picture, audio_activity(drowned(shot.audio, decibels, rng), RATE)).offset_ms)
            )
        medians.append(float(np.median(said)))
    return float(np.mean(medians))


def bars(scene: str) -> dict[str, Callable[[Judged], bool]]:
    """What must hold of a scene."""
    quick: dict[str, Callable[[Judged], bool]] = {"cpu": lambda one: one.cpu_ms <= CPU_MS}
    if scene in CONTROLS:
        return quick | {"auc": lambda one: CHANCE[0] <= one.auc <= CHANCE[1]}
    bias, spread = (SLIDE_MS, SLIDE_MS) if scene in CONTINUOUS else (BIAS_MS, SPREAD_MS)
    timed = quick | {"bias": lambda one: abs(one.bias_ms) <= bias, "spread": lambda one: one.spread_ms <= spread}
    if scene in PERIODIC:
        return timed
    return timed | {
        "auc": lambda one: one.auc >= AUC,
        "notes": lambda one: one.in_tune is None or one.in_tune >= 0.95,
        "selective": lambda one: one.selective is None or one.selective >= 0.95,
    }


def spoilt(frames: Picture, noise: float, rng: np.random.Generator) -> Picture:
    """With Gaussian noise of so much of full scale."""
    return np.clip(frames + rng.normal(0, 255 * noise, frames.shape), 0, 255).astype(np.uint8) if noise else frames


def drowned(audio: Sound, decibels: float | None, rng: np.random.Generator) -> Sound:
    """With white noise so far below the sound."""
    if decibels is None:
        return audio
    return audio + rng.normal(0, audio.std() * 10 ** (-decibels / 20), len(audio)).astype(np.float32)


def delayed(audio: Sound, by: int) -> Sound:
    """`by` samples later, or earlier; as long as before."""
    padded = np.pad(audio, (max(by, 0), max(-by, 0)))
    return padded[max(-by, 0) : max(-by, 0) + len(audio)]


def words(one: Judged) -> str:
    extra = "" if one.in_tune is None else f"  in tune {one.in_tune:.2f}"
    extra += "" if one.selective is None else f"  selective {one.selective:.2f}"
    return (
        f"{one.scene:10s} {one.condition:6s} bias {one.bias_ms:6.1f} ms  spread {one.spread_ms:5.1f} ms  "
        f"AUC {one.auc:.3f}  events {one.precision:.2f}/{one.recall:.2f}  {one.cpu_ms:3.0f} ms a clip{extra}"
    )


def _source(shot: Scene, frames: Picture) -> Picture:
    """Of two balls the part that the sounding one bounces in: who asks for one of several must say which."""
    if shot.name != "two_balls":
        return frames
    left, right = max(0, int(shot.box[:, 1].min()) - 2), int(shot.box[:, 3].max()) + 2
    return frames[:, :, left:right]


def _other_ball(shot: Scene, frames: Picture) -> Picture | None:
    if shot.name != "two_balls":
        return None
    return _source(shot, frames[:, :, ::-1])  # they bounce at places that mirror each other


def _error(shot: Scene, said: SyncEstimate, moved: int) -> float:
    return _folded(shot, said.offset_ms - CALIBRATION_MS.get(shot.name, 0.0) - 1000 * moved / RATE)


def _folded(shot: Scene, error_ms: float) -> float:
    """Of a scene that repeats, the error to the nearest repetition."""
    if shot.name not in PERIODIC:
        return error_ms
    period = 1000 * (TICK_S if shot.name == "clock" else float(np.median(np.diff(shot.events))))
    return error_ms - period * round(error_ms / period)


def _hits(shot: Scene, heard: Activity) -> tuple[int, int, int]:
    """(onsets at an event, onsets, events): found in the sound, each event once."""
    curve = heard.curves[heard.names.index("onset")]
    inner = curve[1:-1]
    peaks = (1 + np.flatnonzero((inner > curve[:-2]) & (inner >= curve[2:]) & (inner > 1))) * STEP
    left, hits = list(shot.events), 0
    for peak in peaks:
        near = min(left, key=lambda event: abs(event - peak), default=None)
        if near is not None and abs(near - peak) <= REACH_S:
            left.remove(near)
            hits += 1
    return hits, len(peaks), len(shot.events)


def _in_tune(shot: Scene, sound: Sound) -> list[bool]:
    """For each note whether its strongest frequency, 20 to 180 ms after it begins, is its own within CENTS."""
    found = []
    for event, pitch in zip(shot.events, shot.pitches, strict=False):
        part = sound[int((event + 0.02) * RATE) : int((event + 0.18) * RATE)]
        if len(part) < RATE // 10:
            continue
        size = 1 << 16
        loudest = np.abs(np.fft.rfft(part * np.hanning(len(part)), size)).argmax() * RATE / size
        found.append(bool(abs(1200 * np.log2(loudest / pitch)) <= CENTS))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the sync estimator on scenes with exact truth.")
    parser.add_argument("--clips", type=int, default=24, help="of each scene and condition")
    parser.add_argument(
        "--calibrate", action="store_true", help="print the constants of ovi/evaluation/sync.py instead"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/sync.json", help="results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

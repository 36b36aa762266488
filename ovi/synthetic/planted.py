"""Deliberately bad files, made of good scenes: what a curator must reject, and what it should repair.

To be repaired: letterbox (cropped), long_cut (two clips), vfr (right clock). Every maker returns arrays and times and
knows nothing of files; a truncated one is cut after it is written.
Try it: `pytest tests/synthetic/test_corpus.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ovi.synthetic import sounds
from ovi.synthetic.scenes import Scene, render

EACH = 2  # files of each defect


@dataclass(frozen=True)
class Take:
    """A file to be: what was rendered (None where the file has no such stream), and what its sidecar says of it.

    ticks: the frame times on the fps grid where frames were left out. caption None: no sentence fits the whole file.
    """

    scene: str
    frames: NDArray[np.uint8]
    audio: NDArray[np.float32] | None
    events: list[float]
    caption: str | None
    rate: int
    offset_ms: float = 0.0
    ticks: list[int] | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Stage:
    """The clock and the picture size (H, W) a file is rendered for, and its seed."""

    fps: int
    rate: int
    size: tuple[int, int]
    frames: int
    seed: int

    def take(self, scene: str, frames: int | None = None) -> Take:
        """The scene as it is, with sound as long as its pictures."""
        count = frames or self.frames
        samples = round(count * self.rate / self.fps)
        shot = render(scene, self.seed, fps=self.fps, frames=count, size=self.size, rate=self.rate, samples=samples)
        return take(shot, self.rate)


def take(shot: Scene, rate: int) -> Take:
    return Take(shot.name, shot.frames, shot.audio, shot.events, shot.caption, rate)


def make(defect: str, stage: Stage, second: bool) -> Take:
    """One bad file. `second` varies the scene between the files of one defect."""
    return _DEFECTS[defect](stage, second)


def _static(stage: Stage, second: bool) -> Take:
    good = stage.take("hammer" if second else "bounce")
    return replace(good, frames=np.repeat(good.frames[:1], len(good.frames), axis=0), events=[])


def _silent(stage: Stage, second: bool) -> Take:
    good = stage.take("slide" if second else "blink")
    assert good.audio is not None
    quiet = sounds.finish(sounds.generator("silent", stage.seed), np.zeros_like(good.audio))
    return replace(good, audio=quiet)


def _late_audio(stage: Stage, second: bool) -> Take:
    good = stage.take("blink" if second else "bounce")
    assert good.audio is not None
    late = int(sounds.generator("late", stage.seed).uniform(0.24, 0.40) * stage.rate)
    shifted = np.concatenate([good.audio[-late:] * 0, good.audio[:-late]])
    return replace(good, audio=shifted, offset_ms=1000 * late / stage.rate)


def _letterbox(stage: Stage, second: bool) -> Take:
    good = stage.take("slide")
    bar = stage.size[0] // (8 if second else 16) * 2  # even, as the chroma of H.264 needs
    return replace(good, frames=np.pad(good.frames, ((0, 0), (bar, bar), (0, 0), (0, 0))))


def _cut(stage: Stage, second: bool) -> Take:
    return _joined(stage, second, 3 * stage.fps)


def _long_cut(stage: Stage, second: bool) -> Take:
    return _joined(stage, second, stage.frames)


def _joined(stage: Stage, second: bool, frames: int) -> Take:
    before, after = (stage.take(scene, frames) for scene in (("slide", "mouth") if second else ("mouth", "bounce")))
    assert before.audio is not None
    assert after.audio is not None
    return Take(
        f"{before.scene}+{after.scene}",
        np.concatenate([before.frames, after.frames]),
        np.concatenate([before.audio, after.audio]),
        before.events + [event + frames / stage.fps for event in after.events],
        None,
        stage.rate,
    )


def _short(stage: Stage, second: bool) -> Take:
    return stage.take("blink" if second else "mouth", stage.frames * (2 if second else 3) // 4)


def _truncated(stage: Stage, second: bool) -> Take:
    return replace(stage.take("hammer" if second else "blink"), truncated=True)


def _no_audio(stage: Stage, second: bool) -> Take:
    return replace(stage.take("bounce" if second else "blink"), audio=None)


def _vfr(stage: Stage, second: bool) -> Take:
    good = stage.take("mouth" if second else "blink")
    rng = sounds.generator("vfr", stage.seed)
    inner = np.arange(1, len(good.frames) - 1, 2)  # never two in a row, never the first or the last
    dropped = set(rng.choice(inner, len(inner) // 3, replace=False).tolist())
    ticks = [k for k in range(len(good.frames)) if k not in dropped]
    return replace(good, frames=good.frames[ticks], ticks=ticks)


_DEFECTS: dict[str, Callable[[Stage, bool], Take]] = {
    "static": _static, "silent": _silent, "late_audio": _late_audio, "letterbox": _letterbox, "cut": _cut,
    "long_cut": _long_cut, "short": _short, "truncated": _truncated, "no_audio": _no_audio, "vfr": _vfr,
}  # fmt: skip
DEFECTS = tuple(_DEFECTS)

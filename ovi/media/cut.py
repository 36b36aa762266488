"""Cut a clip out of a source on the clip's own grid: picture k is what the source shows at start + k / fps, and the
sound is taken from the same instant by sample. Nothing is re-timed, so picture and sound keep their offset exactly.

It does not choose windows and does not crop or resize.
Try it: `python -c "from ovi.media import cut; print(cut.clip('video.mp4').frames.shape)"`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ovi.media import decode
from ovi.media.audio import HALF_WIDTH, resample, to_mono
from ovi.media.clock import frame_time, sample_at
from ovi.media.decode import Sound
from ovi.media.picture import Frame
from ovi.media.probe import MediaError, MediaInfo, Source, probe
from ovi.media.tape import Tape


@dataclass(frozen=True)
class Cut:
    """frames uint8 [T, H, W, 3] on the fps grid and mono float32 [samples], both from `start` s of the source."""

    start: Fraction
    frames: NDArray[np.uint8]
    audio: NDArray[np.float32]


def clip(
    path: Source, start: Fraction | None = None, *, fps: int = 24, frames: int = 121, rate: int = 16000,
    samples: int = 80640, info: MediaInfo | None = None,
) -> Cut:  # fmt: skip
    """The clip that begins at `start` (the first picture's time when None) of a file with pictures and sound.

    Raises MediaError: short when the pictures do not cover it, and whatever `decode` raises.
    """
    info = info or probe(path)
    start = info.pictures().start if start is None else start
    sound = Tape(decode.sound(path, info)).between(start, start + Fraction(samples, rate))
    return Cut(
        start, pictures(decode.frames(path, info), start, fps, frames, path), window(sound, start, rate, samples)
    )


def pictures(source: Iterable[Frame], start: Fraction, fps: int, frames: int, name: Source) -> NDArray[np.uint8]:
    """uint8 [frames, H, W, 3]: for each grid time the picture whose [time, end) holds it. Reads no further than needed.

    Raises MediaError short (about `name`) when a grid time lies before the first picture or after the last.
    """
    chosen: list[NDArray[np.uint8]] = []
    for frame in source:
        while frame.shows(frame_time(len(chosen), fps, start)):
            chosen.append(frame.rgb)
            if len(chosen) == frames:
                return np.stack(chosen)
        if not chosen and frame.time > start:
            break
    raise MediaError(name, "short", f"shows {len(chosen)} of the {frames} pictures from {float(start):.3f} s")


def window(sound: Sound, start: Fraction, rate: int, samples: int) -> NDArray[np.float32]:
    """Mono float32 [samples] at `rate` from `start` s. Where the source has no sound it is silent, as a player is."""
    margin = (
        HALF_WIDTH * max(1, -(-sound.rate // rate)) + 1
    )  # source samples the resampling filter looks at on each side
    first = sample_at(start, sound.rate, sound.start) - margin
    last = first + 2 * margin + -(-samples * sound.rate // rate) + 1
    inside = to_mono(sound.samples[max(first, 0) : max(last, 0)])
    padded = np.pad(inside, (min(max(-first, 0), last - first - len(inside)), 0))
    padded = np.pad(padded, (0, last - first - len(padded)))
    skipped = sample_at(start, rate, sound.start + Fraction(first, sound.rate))
    return resample(padded, sound.rate, rate)[skipped : skipped + samples]

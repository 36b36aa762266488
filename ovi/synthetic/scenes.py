"""Five procedural scenes with sound and exact event times: the demo's corpus and the ground truth of synchronisation.

blink: a lamp and a beep while it is lit. bounce: a ball and a thud at each impact. hammer: a swing and a bell.
mouth: an opening that follows the voice. slide: a block whose speed is the loudness of its scraping.
Shapes are large and flat so that a scene stays recognisable at 32 x 32. It knows nothing of files and codecs.
Try it: `python -c "from ovi.synthetic.scenes import render; s = render('blink', 1); print(s.caption, s.events)"`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovi.synthetic import sounds
from ovi.synthetic.sounds import Array

Colour = tuple[int, int, int]
COLOURS: tuple[tuple[str, Colour], ...] = (  # the n-th colour sounds at the n-th pitch word
    ("blue", (40, 80, 255)), ("green", (30, 210, 60)), ("yellow", (250, 210, 30)),
    ("red", (245, 40, 35)), ("white", (240, 240, 240)),
)  # fmt: skip
DARK: Colour = (10, 10, 14)
SHUTTER = 0.5  # the part of a frame's time that exposes it: 180 degrees


@dataclass(frozen=True)
class Scene:
    """frames uint8 [T, H, W, 3]; audio float32 [N]; events in s; box float32 [T, 4]: the source's y0 x0 y1 x1 in pixels."""

    name: str
    frames: NDArray[np.uint8]
    audio: Array
    events: list[float]
    caption: str
    box: Array


@dataclass(frozen=True)
class Stage:
    """What a scene is drawn on: its clock, its picture size, its random numbers and its colour step."""

    rng: np.random.Generator
    step: int
    fps: int
    count: int
    size: tuple[int, int]
    rate: int
    samples: int

    @property
    def seconds(self) -> float:
        return self.count / self.fps

    @property
    def colour(self) -> Colour:
        return COLOURS[self.step][1]

    @property
    def clock(self) -> NDArray[np.float64]:
        """Sample times in s, long enough for the last frame's exposure."""
        return np.arange(max(self.samples, round(self.seconds * self.rate) + 1)) / self.rate

    def exposed(self, signal: NDArray[np.floating]) -> Array:
        """[T] the mean of `signal` (at `rate`, on `clock`) while each frame's shutter is open."""
        total = np.concatenate([[0.0], np.cumsum(signal, dtype=np.float64)])
        first = np.arange(self.count) * self.rate / self.fps
        last = first + SHUTTER * self.rate / self.fps
        places = np.arange(len(total))
        return ((np.interp(last, places, total) - np.interp(first, places, total)) / (last - first)).astype(np.float32)

    def grid(self) -> tuple[Array, Array]:
        """Pixel centres y [H, 1] from 0 at the top and x [1, W] from the middle, in shorter sides."""
        height, width = self.size
        unit = min(self.size)
        y = ((np.arange(height, dtype=np.float32) + 0.5 - height / 2) / unit + 0.5)[:, None]
        x = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) / unit)[None, :]
        return y, x

    def cover(self, distance: Array) -> Array:
        """Coverage 0..1 of each pixel from its signed distance to a shape's edge (shorter sides, negative inside)."""
        return np.clip(0.5 - distance * min(self.size), 0, 1)

    def boxes(self, y0: Array | float, x0: Array | float, y1: Array | float, x1: Array | float) -> Array:
        """Source boxes [T, 4] in pixels from edges in shorter sides."""
        height, width = self.size
        unit = min(self.size)
        edges = [(y0, height / 2 - unit / 2), (x0, width / 2), (y1, height / 2 - unit / 2), (x1, width / 2)]
        columns = [np.broadcast_to(np.asarray(value) * unit + offset, self.count) for value, offset in edges]
        return np.stack(columns, axis=1).astype(np.float32)


def render(
    scene: str, seed: int, *, fps: int = 24, frames: int = 121, size: tuple[int, int] = (64, 64),
    rate: int = 16000, samples: int | None = None, colour: str | None = None,
) -> Scene:  # fmt: skip
    """The scene named `scene`, the same for equal (scene, seed). `size` is (H, W); `colour` fixes what is otherwise drawn.

    samples=None is the clip's whole centiseconds: 80,640 for 121 frames. Raises ValueError for an unknown scene or colour.
    """
    if scene not in _SCENES:
        raise ValueError(f"scene {scene!r} is unknown; there are {', '.join(SCENES)}")
    rng = sounds.generator("scene", scene, seed)
    names = [name for name, _ in COLOURS]
    drawn = int(rng.integers(len(COLOURS)))
    step = drawn if colour is None else names.index(colour)
    samples = int(frames / fps * 100) * rate // 100 if samples is None else samples
    stage = Stage(rng, step, fps, frames, size, rate, samples)
    picture, audio, events, words, box = _SCENES[scene](stage)
    caption = words.format(colour=names[step], word=sounds.PITCH_WORDS[step])
    return Scene(scene, picture, sounds.finish(rng, audio[:samples]), [float(e) for e in events], caption, box)


Drawn = tuple[NDArray[np.uint8], Array, Sequence[float], str, Array]


def _blink(stage: Stage) -> Drawn:
    rng = stage.rng
    lengths = rng.uniform(0.12, 0.45, int(rng.integers(4, 9)))
    while lengths.sum() + 0.25 * len(lengths) > stage.seconds - 0.3 and len(lengths) > 1:
        lengths = lengths[:-1]
    starts = 0.04 + sounds.spread(rng, list(lengths), stage.seconds - 0.08, 0.25)
    lit = stage.exposed(sounds.gates(starts, lengths, len(stage.clock), stage.rate))
    radius, cy, cx = rng.uniform(0.27, 0.31), 0.5 + rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)
    y, x = stage.grid()
    lamp = stage.cover(np.hypot(y - cy, x - cx) - radius)
    level = 0.06 + 0.94 * lit[:, None, None]  # an unlit lamp keeps a trace of its colour
    frames = _paint(stage, [(lamp, DARK), (lamp * level, stage.colour)])
    audio = sounds.beeps(starts, lengths, 400 * 2 ** (stage.step / 2), stage.samples, stage.rate)
    box = stage.boxes(cy - radius, cx - radius, cy + radius, cx + radius)
    return frames, audio, starts, "A {colour} lamp blinks in the dark. <AUDCAP>Short {word} beeps.<ENDAUDCAP>", box


def _bounce(stage: Stage) -> Drawn:
    rng, gravity, floor = stage.rng, 4.4, 0.92
    radius, cx = rng.uniform(0.17, 0.2), rng.uniform(-0.06, 0.06)
    flights, restitution = [float(rng.uniform(0.55, 0.85))], rng.uniform(0.72, 0.88)
    while sum(flights) < stage.seconds + 1:
        low = flights[-1] * restitution < 0.36  # too low to see: the ball is thrown up again
        flights.append(float(rng.uniform(0.6, 0.85) if low else flights[-1] * restitution))
    impacts = np.cumsum(flights) - rng.uniform(0.1, 0.9) * flights[0]
    clock = stage.clock
    flight = np.searchsorted(impacts, clock)
    since = clock - (impacts - flights)[flight]
    height = 0.5 * gravity * since * (np.asarray(flights)[flight] - since)
    cy = stage.exposed(floor - radius - height)
    y, x = stage.grid()
    ball = stage.cover(np.sqrt(np.square(y - cy[:, None, None]) + np.square(x - np.float32(cx))) - np.float32(radius))
    frames = _paint(stage, [(stage.cover(floor - y + 0 * x), (70, 70, 80)), (ball, stage.colour)])
    heard = impacts < stage.seconds
    gains = np.asarray(flights)[heard] / 0.85
    audio = sounds.strikes(impacts[heard], gains, 110 * 2 ** (stage.step / 2), stage.samples, stage.rate)
    box = stage.boxes(cy - radius, cx - radius, cy + radius, cx + radius)
    return frames, audio, impacts[heard], "A {colour} ball bounces on the floor. <AUDCAP>Hard {word} thuds.<ENDAUDCAP>", box


def _hammer(stage: Stage) -> Drawn:
    rng, swing, rest = stage.rng, 0.2, 0.06
    hits = np.cumsum(rng.uniform(0.55, 1.25, int(stage.seconds / 0.55) + 2)) - rng.uniform(0.1, 0.3)
    raised, clock = rng.uniform(0.9, 1.1), stage.clock
    coming = np.searchsorted(hits, clock)
    before = np.concatenate([[-9.0], hits])
    since, until = clock - before[coming], hits[np.minimum(coming, len(hits) - 1)] - clock
    gap = np.maximum(since + until - swing - rest, 1e-3)
    lift = np.clip((since - rest) / np.minimum(gap, 0.45), 0, 1)
    lift = lift * lift * (3 - 2 * lift)
    fall = np.clip(1 - until / swing, 0, 1)  # accelerates, then stops at once
    angle = stage.exposed(raised * lift * (1 - fall * fall))
    y, x = stage.grid()
    py, px, reach = 0.56, -0.42, 0.6
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    along = (x - px) * cos - (y - py) * sin
    across = (x - px) * sin + (y - py) * cos
    handle = stage.cover(np.hypot(along - np.clip(along, 0, reach), across) - np.float32(0.045))
    head = stage.cover(np.maximum(np.abs(along - reach) - np.float32(0.12), np.abs(across) - np.float32(0.17)))
    top, bx = py + 0.17, px + reach
    bell = stage.cover(np.maximum(np.hypot(y - (top + 0.24), x - bx) - 0.24, y - 1.1))
    frames = _paint(stage, [(bell, stage.colour), (handle, (120, 80, 45)), (head, (165, 165, 175))])
    heard = hits[hits < stage.seconds]
    gains = rng.uniform(0.8, 1.0, len(heard))
    audio = sounds.strikes(heard, gains, 500 * 2 ** (stage.step / 2), stage.samples, stage.rate, sounds.BELL)
    box = stage.boxes(top - 0.34, bx - 0.24, 1.0, bx + 0.24)
    return frames, audio, heard, "A hammer strikes a {colour} bell. <AUDCAP>Clear {word} bell strokes.<ENDAUDCAP>", box


def _mouth(stage: Stage) -> Drawn:
    rng = stage.rng
    count = min(int(rng.integers(4, 9)), max(1, int(stage.seconds / 0.6)))
    spoken = sounds.draw_syllables(rng, stage.seconds, count, sounds.voice_pitch(stage.step))
    opening = stage.exposed(sounds.syllable_envelope(spoken, len(stage.clock), stage.rate))
    cx, cy = rng.uniform(-0.02, 0.02), 0.5 + rng.uniform(-0.02, 0.02)
    y, x = stage.grid()
    face = stage.cover(np.hypot(y - cy, x - cx) - 0.46)
    eyes = stage.cover(np.minimum(np.hypot(y - cy + 0.17, x - cx - 0.17), np.hypot(y - cy + 0.17, x - cx + 0.17)) - 0.06)
    tall = (0.02 + 0.19 * opening)[:, None, None]  # half axes of the mouth: height follows the voice
    wide = np.float32(0.24)
    radial = np.sqrt(np.square((y - np.float32(cy + 0.16)) / tall) + np.square((x - np.float32(cx)) / wide))
    mouth = stage.cover((radial - 1) * np.minimum(tall, wide))
    skin: Colour = tuple(int(0.75 * c + 20) for c in stage.colour)  # type: ignore[assignment]
    frames = _paint(stage, [(face, skin), (eyes, DARK), (mouth, (25, 0, 10))])
    audio = sounds.voice(rng, spoken, stage.samples, stage.rate)
    words = " ".join(syllable.text for syllable in spoken)
    box = stage.boxes(cy - 0.05, cx - 0.24, cy + 0.37, cx + 0.24)
    caption = f"A {{colour}} face says <S>{words}<E>. <AUDCAP>A {{word}} voice.<ENDAUDCAP>"
    return frames, audio, [syllable.start for syllable in spoken], caption, box


def _slide(stage: Stage) -> Drawn:
    rng, half, room = stage.rng, 0.2, 0.28
    lengths = rng.uniform(0.3, 0.75, int(rng.integers(4, 7)))
    while lengths.sum() + 0.15 * len(lengths) > stage.seconds - 0.3 and len(lengths) > 1:
        lengths = lengths[:-1]
    starts = 0.04 + sounds.spread(rng, list(lengths), stage.seconds - 0.08, 0.15)
    stops = [float(rng.choice([-1, 1]) * rng.uniform(0.2, room))]
    for _ in lengths:  # always to the other side, so that every stroke is long enough to see
        stops.append(float(-np.sign(stops[-1]) * rng.uniform(0.14, room)))
    clock = stage.clock
    place, speed = np.full(len(clock), stops[0]), np.zeros(len(clock))
    for start, length, origin, stop in zip(starts, lengths, stops, stops[1:], strict=False):
        part = np.clip((clock - start) / length, 0, 1)
        place += (stop - origin) * (part - np.sin(2 * np.pi * part) / (2 * np.pi))
        speed += abs(stop - origin) / length * (1 - np.cos(2 * np.pi * part))
    cx = stage.exposed(place)
    y, x = stage.grid()
    cy = 0.6
    block = stage.cover(np.maximum(np.abs(x - cx[:, None, None]) - np.float32(half), np.abs(y - np.float32(cy)) - np.float32(half)))
    frames = _paint(stage, [(stage.cover(cy + half - y + 0 * x), (70, 70, 80)), (block, stage.colour)])
    audio = sounds.friction(rng, speed[: stage.samples].astype(np.float32), 400 * 2 ** (0.75 * stage.step), stage.rate)
    box = stage.boxes(cy - half, cx - half, cy + half, cx + half)
    return frames, audio, starts, "A {colour} block slides to and fro. <AUDCAP>Rough {word} scraping.<ENDAUDCAP>", box


def _paint(stage: Stage, layers: Sequence[tuple[Array, Colour]]) -> NDArray[np.uint8]:
    """uint8 [T, H, W, 3]: each layer's colour over what is below it; a layer is coverage [H, W] or [T, H, W]."""
    out = np.empty((stage.count, *stage.size, 3), np.uint8)
    for channel in range(3):
        plane = np.full(stage.size, DARK[channel], np.float32)
        for coverage, colour in layers:
            plane = plane + coverage * (colour[channel] - plane)
        out[..., channel] = plane + np.float32(0.5)
    return out


_SCENES: dict[str, Callable[[Stage], Drawn]] = {
    "blink": _blink, "bounce": _bounce, "hammer": _hammer, "mouth": _mouth, "slide": _slide,
}  # fmt: skip
SCENES = tuple(_SCENES)

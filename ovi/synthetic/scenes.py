"""Five procedural scenes with sound and exact event times: the demo's corpus and the ground truth of synchronisation.

blink: a lamp and a beep while it is lit. bounce: a ball and a thud at each impact. hammer: a swing and a bell.
mouth: an opening that follows the voice. slide: a block whose speed is the loudness of its scraping.
Shapes are large and flat so that a scene stays recognisable at 32 x 32. It knows nothing of files and codecs.
Try it: `python -c "from ovi.synthetic.scenes import render; s = render('blink', 1); print(s.caption, s.events)"`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovi.synthetic import probes, sounds
from ovi.synthetic.sounds import Array
from ovi.synthetic.stage import COLOURS, DARK, GREY, Drawn, Layers, Stage, fitting, paint

CAPTIONS = {
    "blink": "A {colour} lamp blinks in the dark. <AUDCAP>Short {word} beeps.<ENDAUDCAP>",
    "bounce": "A {colour} ball bounces on the floor. <AUDCAP>Hard {word} thuds.<ENDAUDCAP>",
    "hammer": "A hammer strikes a {colour} bell. <AUDCAP>Clear {word} bell strokes.<ENDAUDCAP>",
    "mouth": "A {colour} face says <S>{said}<E>. <AUDCAP>A {word} voice.<ENDAUDCAP>",
    "slide": "A {colour} block slides to and fro. <AUDCAP>Rough {word} scraping.<ENDAUDCAP>",
}


@dataclass(frozen=True)
class Scene:
    """What was rendered, and the truth about it.

    frames uint8 [T, H, W, 3]; audio float32 [N]; events in s; box float32 [T, 4]: the source, y0 x0 y1 x1 pixels.
    """

    name: str
    frames: NDArray[np.uint8]
    audio: Array
    events: list[float]
    caption: str
    box: Array
    pitches: tuple[float, ...] = ()  # Hz of each event, where they differ


def render(
    scene: str, seed: int, *, fps: int = 24, frames: int = 121, size: tuple[int, int] = (64, 64),
    rate: int = 16000, samples: int | None = None, colour: str | None = None,
) -> Scene:  # fmt: skip
    """The scene named `scene`, the same for equal (scene, seed). `size` is (H, W); `colour` fixes what else is random.

    samples=None is the clip's whole centiseconds: 80,640 for 121 frames. Raises ValueError for an unknown scene.
    """
    drawers = _SCENES | probes.PROBES
    if scene not in drawers:
        raise ValueError(f"scene {scene!r} is unknown; there are {', '.join(drawers)}")
    rng = sounds.generator("scene", scene, seed)
    names = [name for name, _ in COLOURS]
    random_step = int(rng.integers(len(COLOURS)))
    step = random_step if colour is None else names.index(colour)
    samples = int(frames / fps * 100) * rate // 100 if samples is None else samples
    stage = Stage(rng, step, fps, frames, size, rate, samples)
    drawn = drawers[scene](stage)
    told = (CAPTIONS | probes.CAPTIONS)[scene]
    caption = told.format(colour=names[step], word=sounds.PITCH_WORDS[step], said=drawn.said)
    audio = sounds.finish(rng, drawn.audio)
    return Scene(scene, drawn.frames, audio, drawn.events, caption, drawn.box, tuple(drawn.pitches))


def _blink(stage: Stage) -> Drawn:
    rng = stage.rng
    lengths = fitting(rng.uniform(0.12, 0.45, int(rng.integers(4, 9))), stage.seconds, 0.25)
    starts = sounds.spread(rng, lengths, stage.seconds, 0.25)
    while len(starts) > 2 and np.std(np.diff(starts)) < 0.15 * np.mean(np.diff(starts)):  # nearly periodic
        starts = sounds.spread(rng, lengths, stage.seconds, 0.25)
    lit = stage.exposed(sounds.gates(starts, lengths, stage.moments, 1e-6))
    radius, cy, cx = rng.uniform(0.27, 0.31), 0.5 + rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)
    y, x = stage.grid()
    lamp = stage.cover(np.hypot(y - cy, x - cx) - radius)
    glow = 0.06 + 0.94 * lit  # an unlit lamp keeps a trace of its colour
    frames = paint(stage, lambda part: [(lamp * glow[part], stage.colour)])
    audio = sounds.beeps(starts, lengths, sounds.beep_pitch(stage.step), stage.clock)
    box = stage.boxes(cy - radius, cx - radius, cy + radius, cx + radius)
    return Drawn(frames, audio, starts, box)


def _bounce(stage: Stage) -> Drawn:
    rng, gravity, floor = stage.rng, 5.0, 0.92
    radius, cx = rng.uniform(0.18, 0.21), rng.uniform(-0.06, 0.06)
    flights, restitution = [float(rng.uniform(0.55, 0.85))], rng.uniform(0.72, 0.88)
    while sum(flights) < stage.seconds + 1:
        low = flights[-1] * restitution < 0.45  # too low to see: the ball is thrown up again
        flights.append(float(rng.uniform(0.6, 0.85) if low else flights[-1] * restitution))
    impacts = np.cumsum(flights) - rng.uniform(0.1, 0.9) * flights[0]
    flight = np.searchsorted(impacts, stage.moments)
    since, length = stage.moments - (impacts - flights)[flight], np.asarray(flights)[flight]
    cy = stage.exposed(floor - radius - 0.5 * gravity * since * (length - since))
    y, x = stage.grid()
    ground, aside = stage.cover(floor - y + 0 * x), np.square(x - cx)
    frames = paint(
        stage,
        lambda part: [(ground, GREY), (stage.cover(np.sqrt(np.square(y - cy[part]) + aside) - radius), stage.colour)],
    )
    heard = impacts[impacts < stage.seconds].tolist()
    gains = [flight / 0.85 for flight in flights[: len(heard)]]  # the speed at impact grows with the flight
    audio = sounds.strikes(heard, gains, sounds.thud_pitch(stage.step), sounds.THUD, stage.samples, stage.rate)
    box = stage.boxes(cy - radius, cx - radius, cy + radius, cx + radius)
    return Drawn(frames, audio, heard, box)


def _hammer(stage: Stage) -> Drawn:
    rng, swing, rest, now = stage.rng, 0.2, 0.06, stage.moments
    hits = np.cumsum(rng.uniform(0.55, 1.25, int(stage.seconds / 0.55) + 2)) - rng.uniform(0.1, 0.3)
    coming = np.searchsorted(hits, now)
    since, until = now - np.concatenate([[-9.0], hits])[coming], hits[coming] - now
    lift = np.clip((since - rest) / np.minimum(since + until - swing - rest, 0.45), 0, 1)
    fall = np.clip(1 - until / swing, 0, 1)  # accelerates, then stops at once
    angle = stage.exposed(rng.uniform(0.72, 0.82) * lift * lift * (3 - 2 * lift) * (1 - fall * fall))
    cos, sin = np.cos(angle), np.sin(angle)
    y, x = stage.grid()
    pivot_y, pivot_x, reach = 0.62, -0.42, 0.6
    top, bell_x = pivot_y + 0.15, pivot_x + reach
    bell = stage.cover(np.hypot(y - (top + 0.26), x - bell_x) - 0.26)

    def layers(part: slice) -> Layers:
        along = (x - pivot_x) * cos[part] - (y - pivot_y) * sin[part]
        across = np.abs((x - pivot_x) * sin[part] + (y - pivot_y) * cos[part])
        handle = stage.cover(np.maximum(np.abs(along - reach / 2) - reach / 2, across - 0.045))
        head = stage.cover(np.maximum(np.abs(along - reach) - 0.12, across - 0.15))
        return [(bell, stage.colour), (handle, (120, 80, 45)), (head, (165, 165, 175))]

    heard = hits[hits < stage.seconds].tolist()
    gains, pitch = rng.uniform(0.8, 1.0, len(heard)).tolist(), sounds.bell_pitch(stage.step)
    audio = sounds.strikes(heard, gains, pitch, sounds.BELL, stage.samples, stage.rate)
    box = stage.boxes(top - 0.3, bell_x - 0.26, 1.0, bell_x + 0.26)
    return Drawn(paint(stage, layers), audio, heard, box)


def _mouth(stage: Stage) -> Drawn:
    rng = stage.rng
    count = min(int(rng.integers(4, 9)), max(1, int(stage.seconds / 0.6)))
    spoken = sounds.draw_syllables(rng, stage.seconds, count, sounds.voice_pitch(stage.step))
    tall = 0.02 + 0.19 * stage.exposed(sounds.envelope(spoken, stage.moments))  # half axes of the mouth
    wide = 0.24
    cy, cx = 0.5 + rng.uniform(-0.02, 0.02), rng.uniform(-0.02, 0.02)
    y, x = stage.grid()
    face = stage.cover(np.hypot(y - cy, x - cx) - 0.46)
    eyes = stage.cover(np.hypot(y - cy + 0.17, np.abs(x - cx) - 0.17) - 0.06)
    red, green, blue = (int(0.75 * c + 20) for c in stage.colour)
    down, aside = y - (cy + 0.16), x - cx

    def layers(part: slice) -> Layers:
        beyond = np.square(down / tall[part]) + np.square(aside / wide) - 1  # of the ellipse; 0 on its edge
        slope = 2 * np.sqrt(np.square(down / np.square(tall[part])) + np.square(aside / wide**2)) + 1e-6
        mouth = stage.cover(beyond / slope)
        return [(face, (red, green, blue)), (eyes, DARK), (mouth, (25, 0, 10))]

    audio = sounds.voice(rng, spoken, stage.clock, stage.rate)
    box = stage.boxes(cy - 0.05, cx - wide, cy + 0.37, cx + wide)
    said = " ".join(syllable.text for syllable in spoken)
    return Drawn(paint(stage, layers), audio, [syllable.start for syllable in spoken], box, said)


def _slide(stage: Stage) -> Drawn:
    rng, half, room, cy = stage.rng, 0.22, 0.27, 0.58
    lengths = fitting(rng.uniform(0.3, 0.75, int(rng.integers(4, 7))), stage.seconds, 0.15)
    starts = sounds.spread(rng, lengths, stage.seconds, 0.15)
    stop = float(rng.choice([-1, 1]) * rng.uniform(0.14, room))
    place, speed = np.full(len(stage.moments), stop), np.zeros(stage.samples, np.float32)
    for start, length in zip(starts, lengths, strict=True):
        origin, stop = stop, -np.sign(stop) * rng.uniform(0.14, room)  # to the other side: long enough to see
        part = np.clip((stage.moments - start) / length, 0, 1)
        place += (stop - origin) * (part - np.sin(2 * np.pi * part) / (2 * np.pi))
        moving = slice(*np.searchsorted(stage.clock, (start, start + length)))
        wave = 1 - np.cos(2 * np.pi * (stage.clock[moving] - start) / length)
        speed[moving] = abs(stop - origin) / length * wave
    cx = stage.exposed(place)
    y, x = stage.grid()
    ground, aside = stage.cover(cy + half - y + 0 * x), np.abs(y - cy) - half
    frames = paint(
        stage,
        lambda part: [(ground, GREY), (stage.cover(np.maximum(np.abs(x - cx[part]) - half, aside)), stage.colour)],
    )
    audio = sounds.friction(rng, speed, sounds.scrape_pitch(stage.step), stage.rate)
    box = stage.boxes(cy - half, cx - half, cy + half, cx + half)
    return Drawn(frames, audio, starts, box)


_SCENES: dict[str, Callable[[Stage], Drawn]] = {
    "blink": _blink, "bounce": _bounce, "hammer": _hammer, "mouth": _mouth, "slide": _slide,
}  # fmt: skip
SCENES = tuple(_SCENES)  # of a corpus; `probes` has more, for judging alone

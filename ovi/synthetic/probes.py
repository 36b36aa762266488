"""Six more scenes, which judge how sound and picture are compared and are no part of a corpus.

piano: the place of the key that lights up is the pitch that sounds. two_balls: both bounce, only the named one sounds.
off_screen: a lamp blinks and bells ring elsewhere. silent: a ball bounces without a sound. clock: a flash and
a beep every second. metronome: an arm that beats as often as the caption says. The last two repeat, so an offset is
known up to a period only. It knows nothing of files and codecs.
Try it: `python -c "from ovi.synthetic.scenes import render; s = render('piano', 1); print(s.caption, s.events)"`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ovi.synthetic import sounds
from ovi.synthetic.sounds import Array
from ovi.synthetic.stage import COLOURS, GREY, Drawn, Layers, Stage, fitting, paint

CAPTIONS = {
    "piano": "Keys of an organ light up in {colour}. <AUDCAP>Single notes.<ENDAUDCAP>",
    "two_balls": "A {colour} ball bounces with a thud, a grey one in silence. <AUDCAP>Hard {word} thuds.<ENDAUDCAP>",
    "off_screen": "A {colour} lamp blinks. <AUDCAP>Clear bell strokes from elsewhere.<ENDAUDCAP>",
    "silent": "A {colour} ball bounces on the floor in silence. <AUDCAP>Silence.<ENDAUDCAP>",
    "clock": "An alarm clock flashes {colour} every second. <AUDCAP>One {word} beep a second.<ENDAUDCAP>",
    "metronome": "A {colour} metronome beats {said} times a minute. <AUDCAP>Dry clicks.<ENDAUDCAP>",
}
TEMPI = (80, 92, 108, 120, 138)  # beats a minute
TICK_S, FLASH_S = 1.0, 0.15
CLICK = ((1.0, 1.0, 0.012), (2.3, 0.6, 0.008))  # (ratio, gain, decay s)
KEYS = len(COLOURS)
GRAVITY, FLOOR = 5.0, 0.92


def piano(stage: Stage) -> Drawn:
    rng = stage.rng
    lengths = fitting(rng.uniform(0.2, 0.4, int(rng.integers(5, 9))), stage.seconds, 0.2)
    starts = sounds.spread(rng, lengths, stage.seconds, 0.2)
    keys = rng.integers(KEYS, size=len(starts))
    y, x = stage.grid()
    wide = 1.0 / KEYS
    places = (np.arange(KEYS) + 0.5) * wide - 0.5
    key = [stage.cover(np.maximum(np.abs(x - place) - 0.42 * wide, np.abs(y - 0.5) - 0.4)) for place in places]
    lit = []
    for number in range(KEYS):
        mine = [at for at, k in enumerate(keys) if k == number]
        lit.append(stage.exposed(
            sounds.gates([starts[at] for at in mine], [lengths[at] for at in mine], stage.moments, 1e-6)
        ))  # fmt: skip
    frames = paint(stage, lambda part: [
        *((shape, GREY) for shape in key),
        *((shape * on[part], stage.colour) for shape, on in zip(key, lit, strict=True)),
    ])  # fmt: skip
    pitches = [sounds.beep_pitch(int(k)) for k in keys]
    audio = np.zeros(stage.samples, np.float32)
    for start, length, pitch in zip(starts, lengths, pitches, strict=True):
        audio += sounds.beeps([start], [length], pitch, stage.clock)
    return Drawn(frames, audio, starts, stage.boxes(0.1, -0.5, 0.9, 0.5), pitches=pitches)


def two_balls(stage: Stage) -> Drawn:
    side = float(stage.rng.choice([-1, 1])) * 0.25
    impacts, heights = _bounces(stage)
    _, other_heights = _bounces(stage)
    radius = 0.18
    y, x = stage.grid()
    ground = stage.cover(FLOOR - y + 0 * x)

    def layers(part: slice) -> Layers:
        mine = stage.cover(np.hypot(y - heights[part], x - side) - radius)
        silent = stage.cover(np.hypot(y - other_heights[part], x + side) - radius)
        return [(ground, GREY), (silent, (150, 150, 160)), (mine, stage.colour)]

    audio = _thuds(stage, impacts)
    return Drawn(
        paint(stage, layers),
        audio,
        impacts,
        stage.boxes(heights - radius, side - radius, heights + radius, side + radius),
    )


def off_screen(stage: Stage) -> Drawn:
    rng = stage.rng
    lengths = fitting(rng.uniform(0.12, 0.45, int(rng.integers(4, 9))), stage.seconds, 0.25)
    starts = sounds.spread(rng, lengths, stage.seconds, 0.25)
    lit = stage.exposed(sounds.gates(starts, lengths, stage.moments, 1e-6))
    y, x = stage.grid()
    lamp = stage.cover(np.hypot(y - 0.5, x) - 0.29)
    frames = paint(stage, lambda part: [(lamp * (0.06 + 0.94 * lit[part]), stage.colour)])
    rings = fitting(rng.uniform(0.12, 0.45, int(rng.integers(4, 9))), stage.seconds, 0.25)
    heard = sounds.spread(rng, rings, stage.seconds, 0.25)
    audio = sounds.strikes(
        heard, [1.0] * len(heard), sounds.bell_pitch(stage.step), sounds.BELL, stage.samples, stage.rate
    )
    return Drawn(frames, audio, heard, stage.boxes(0, 0, 0, 0))


def silent(stage: Stage) -> Drawn:
    _, heights = _bounces(stage)
    radius = 0.2
    y, x = stage.grid()
    ground = stage.cover(FLOOR - y + 0 * x)
    frames = paint(
        stage, lambda part: [(ground, GREY), (stage.cover(np.hypot(y - heights[part], x) - radius), stage.colour)]
    )
    return Drawn(frames, np.zeros(stage.samples, np.float32), [], stage.boxes(0, 0, 0, 0))


def clock(stage: Stage) -> Drawn:
    ticks = _regular(stage, TICK_S).tolist()
    lengths = [FLASH_S] * len(ticks)
    lit = stage.exposed(sounds.gates(ticks, lengths, stage.moments, 1e-6))
    y, x = stage.grid()
    face = stage.cover(np.maximum(np.abs(x) - 0.36, np.abs(y - 0.5) - 0.24))
    frames = paint(stage, lambda part: [(face, GREY), (face * lit[part], stage.colour)])
    audio = sounds.beeps(ticks, lengths, sounds.beep_pitch(stage.step), stage.clock)
    return Drawn(frames, audio, ticks, stage.boxes(0.26, -0.36, 0.74, 0.36))


def metronome(stage: Stage) -> Drawn:
    tempo = int(stage.rng.choice(TEMPI))
    period = 60 / tempo
    beats = _regular(stage, period)
    swing = stage.exposed(0.9 * np.cos(np.pi * (stage.moments - beats[0]) / period))  # it turns with every beat
    y, x = stage.grid()
    body = stage.cover(np.maximum(np.abs(x) - 0.16, np.abs(y - 0.87) - 0.1))
    frames = paint(stage, lambda part: [(_arm(stage, 0.85, swing[part], 0.7, 0.05), stage.colour), (body, GREY)])
    audio = sounds.strikes(beats.tolist(), [1.0] * len(beats), 1400.0, CLICK, stage.samples, stage.rate)
    box = stage.boxes(0.1, -0.5, 0.9, 0.5)
    return Drawn(frames, audio, beats.tolist(), box, str(tempo))


def _bounces(stage: Stage) -> tuple[list[float], Array]:
    """Impacts in s, and the ball's height [T, 1, 1]: thrown up again where it would hardly leave the floor."""
    rng = stage.rng
    flights = [float(rng.uniform(0.55, 0.85))]
    while sum(flights) < stage.seconds + 1:
        low = flights[-1] * 0.8 < 0.45
        flights.append(float(rng.uniform(0.6, 0.85) if low else flights[-1] * 0.8))
    impacts = np.cumsum(flights) - rng.uniform(0.1, 0.9) * flights[0]
    flight = np.searchsorted(impacts, stage.moments)
    since, length = stage.moments - (impacts - flights)[flight], np.asarray(flights)[flight]
    heights = stage.exposed(FLOOR - 0.18 - 0.5 * GRAVITY * since * (length - since))
    return impacts[impacts < stage.seconds].tolist(), heights


def _thuds(stage: Stage, impacts: list[float]) -> Array:
    pitch = sounds.thud_pitch(stage.step)
    return sounds.strikes(impacts, [1.0] * len(impacts), pitch, sounds.THUD, stage.samples, stage.rate)


def _regular(stage: Stage, period: float) -> NDArray[np.float64]:
    return np.arange(stage.rng.uniform(0.1, 1.0) * period, stage.seconds, period)


def _arm(stage: Stage, y0: float, angle: Array, reach: float, thick: float) -> Array:
    """Coverage of a bar from height y0 in the middle, `reach` long, at angles from upright."""
    y, x = stage.grid()
    up, aside = y0 - y, x
    along, across = up * np.cos(angle) + aside * np.sin(angle), np.abs(aside * np.cos(angle) - up * np.sin(angle))
    return stage.cover(np.maximum(np.abs(along - reach / 2) - reach / 2, across - thick))


PROBES: dict[str, Callable[[Stage], Drawn]] = {
    "piano": piano, "two_balls": two_balls, "off_screen": off_screen, "silent": silent, "clock": clock,
    "metronome": metronome,
}  # fmt: skip

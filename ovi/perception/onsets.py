"""Are picture and sound in step? A weight-free estimator from activity curves, for clips without a face to read.

The picture gives light, area, speed and impact curves, the sound gives level and onset curves; pairs that have one
cause are cross-correlated over +-1 s. It knows no faces and no words: where SyncNet can judge, that is the measure.
Calibrated on the synthetic scenes; `tests/perception/test_onsets.py` holds the table of what it recovers.
Try it: `pytest tests/perception/test_onsets.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.ndimage import binary_dilation, gaussian_filter1d, uniform_filter

Array = NDArray[np.float32]

STEP = 0.004  # s, the common grid of all curves
SMOOTH = 0.030  # s, standard deviation of the Gaussian over every curve
NEAR_ZERO = 0.060  # s, offsets that count as "in step" for `at_zero`
STEADY = 0.7  # frames, standard deviation of the Gaussian over a moving thing's place: noise looks like impacts
WINDOW = 0.032  # s of sound behind one value
BANDS = 24
SHORT_SIDE = 56  # pictures are averaged down towards this many pixels: finer detail only adds noise

# (picture curve, sound curve) -> the offset in s that truly synchronous scenes show, and how far to trust its timing:
# of pairs that agree almost equally well, an impact tells the time best.
PAIRS: dict[tuple[str, str], tuple[float, float]] = {
    ("light", "level"): (-0.011, 1.0),
    ("area", "level"): (-0.009, 1.0),
    ("rise", "onset"): (-0.025, 1.0),
    ("impact", "onset"): (-0.033, 1.15),
    ("speed", "level"): (-0.009, 1.0),
}


@dataclass(frozen=True)
class Activity:
    """Named curves, float32 [C, N] every STEP seconds from zero, each of zero mean and unit variance (or zero)."""

    names: tuple[str, ...]
    curves: Array


@dataclass(frozen=True)
class SyncEstimate:
    """offset_ms: positive = audio late. score: correlation at the peak, at most 1. at_zero: the best near no offset."""

    offset_ms: float
    score: float
    at_zero: float
    pair: str


def video_activity(frames: NDArray[np.uint8], fps: float) -> Activity:
    """Curves of uint8 [T, H, W, 3]: light (signed), area (of whatever comes and goes), its rise,
    impact (a downward movement that stops or turns) and speed. Tolerant of blur, noise and dim pictures.
    """
    grey = _shrunk(frames)
    change = _change(grey)
    area = change.mean(axis=(1, 2))
    where = change.max(axis=0) > 0
    light = grey[:, where].mean(axis=1) if where.any() else np.zeros(len(grey), np.float32)
    y, x = _centre(change, area)
    fall = np.diff(y, prepend=y[:1])
    impact = np.maximum(-np.diff(fall, append=fall[-1:]), 0)
    there = np.minimum(area, np.roll(area, 1))  # what is not there does not move
    speed = np.hypot(fall, np.diff(x, prepend=x[:1])) * there
    curves = {
        "light": (light, 0.5),
        "area": (area, 0.5),
        "rise": (np.maximum(np.diff(area, prepend=area[:1]), 0), 0.0),
        "impact": (impact, 0.5),
        "speed": (speed, 0.0),
    }
    grid = np.arange(int(len(frames) / fps / STEP)) * STEP
    times = np.arange(len(frames))
    return _activity({name: np.interp(grid, (times + at) / fps, curve) for name, (curve, at) in curves.items()})


def audio_activity(audio: Array, rate: int) -> Activity:
    """Curves of mono float32 [N] in [-1, 1]: level (root of the RMS) and onset (rise of a 24-band log spectrum)."""
    hop, size = STEP * rate, round(WINDOW * rate)
    count, lag = int(len(audio) / hop), round(0.016 / STEP)  # a rise is measured over the lag
    if count <= lag:
        return _activity({"level": np.zeros(1), "onset": np.zeros(1)})
    padded = np.pad(np.asarray(audio, np.float32), size // 2 + 1)
    first = np.round(np.arange(count) * hop).astype(int)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[first] * np.hanning(size).astype(np.float32)
    power = np.square(np.abs(rfft(windows, axis=1))) @ _bands(size, rate).T
    level = np.sqrt(np.sqrt(power.sum(axis=1)))
    floor = np.maximum(np.percentile(power, 20, axis=0), 1e-4 * power.mean(axis=0) + 1e-9)
    loud = np.log1p(power / floor)
    rise = np.maximum(loud[lag:] - loud[:-lag], 0).mean(axis=1)
    onset = np.pad(rise, (lag // 2, lag - lag // 2))
    return _activity({"level": level, "onset": onset})


def sync(video: Activity, audio: Activity, max_offset_ms: float = 1000.0) -> SyncEstimate:
    """The offset at which picture and sound agree best in any of PAIRS. Curves without activity agree with nothing."""
    count = min(video.curves.shape[1], audio.curves.shape[1])
    size = next_fast_len(count + round(max_offset_ms / 1000 / STEP) + 1)
    seen = dict(zip(video.names, rfft(video.curves[:, :count], size, axis=1), strict=True))
    heard = dict(zip(audio.names, rfft(audio.curves[:, :count], size, axis=1), strict=True))
    reach = min(round(max_offset_ms / 1000 / STEP), count - 1)
    lags = np.arange(-reach, reach + 1)
    best, near, rank = SyncEstimate(0.0, 0.0, 0.0, "none"), 0.0, 0.0
    for (picture, sound), (bias, trust) in PAIRS.items():
        agreement = irfft(np.conj(seen[picture]) * heard[sound], size)[lags] / count
        offsets = lags * STEP - bias
        near = max(near, float(agreement[np.abs(offsets) <= NEAR_ZERO].max()))
        top = int(agreement.argmax())
        score = float(agreement[top])
        if score * trust > rank:
            offset_ms = float(1000 * (offsets[top] + STEP * _vertex(agreement, top)))
            best, rank = SyncEstimate(offset_ms, score, 0.0, f"{picture}/{sound}"), score * trust
    return replace(best, at_zero=near)


def _shrunk(frames: NDArray[np.uint8]) -> Array:
    """[T, h, w] grey in 0..1, averaged down to about SHORT_SIDE and slightly blurred."""
    factor = max(1, min(frames.shape[1:3]) // SHORT_SIDE)
    height, width = frames.shape[1] // factor * factor, frames.shape[2] // factor * factor
    total = (
        frames[:, :height, :width, 0].astype(np.uint16) + frames[:, :height, :width, 1] + frames[:, :height, :width, 2]
    )
    if factor > 1:
        total = total.reshape(len(total), height // factor, factor, width // factor, factor).mean(axis=(2, 4))
    grey = total.astype(np.float32) / np.float32(3 * 255)
    blur = 5 if min(grey.shape[1:]) >= 48 else 3
    return uniform_filter(grey, (1, blur, blur))


def _change(grey: Array) -> Array:
    """[T, h, w] how much brighter, or darker, than the still picture; noise is taken off.

    Of the darkest and the brightest that a pixel shows, the still picture is what looks more like the pixels around
    those that change: right also for a lamp that is mostly lit and for a ball that hardly leaves its place.
    """
    dark, bright = _third_darkest(grey), 1 - _third_darkest(1 - grey)
    span = bright - dark
    changing = span > 0.5 * span.max()
    if not changing.any():
        return np.zeros_like(grey)
    near = binary_dilation(changing, iterations=2)
    ring = binary_dilation(near, iterations=max(2, min(span.shape) // 12)) & ~near
    rest = np.median(grey.mean(axis=0)[ring if ring.any() else np.ones_like(ring)])
    lit = float((dark + bright)[changing].mean()) >= 2 * rest
    change = grey - dark if lit else bright - grey
    noise = max(1 / 255, 6 * float(np.median(np.abs(change[:: max(1, len(change) // 16)]))))
    return np.maximum(change - noise, 0)


def _third_darkest(grey: Array) -> Array:
    """[h, w] how dark each pixel of [T, h, w] gets but for two odd pictures: a mouth may open for 0.2 s of five."""
    first, second, third = (np.ones(grey.shape[1:], np.float32) for _ in range(3))
    for picture in grey:
        third = np.minimum(third, np.maximum(second, picture))
        second = np.minimum(second, np.maximum(first, picture))
        first = np.minimum(first, picture)
    return third


def _centre(change: Array, area: Array) -> tuple[Array, Array]:
    """Centre of the change, y and x [T] in picture heights; where little changes it rests at the clip's own centre."""
    height, width = change.shape[1:]
    rows, columns = change.mean(axis=2), change.mean(axis=1)
    y, x = np.arange(height, dtype=np.float32) / height, np.arange(width, dtype=np.float32) / height
    calm = 0.1 * float(area.mean()) + 1e-9
    centres = []
    for profile, places in ((rows, y), (columns, x)):
        moment, mass = profile @ places, profile.sum(axis=1)
        rest = moment.sum() / max(float(mass.sum()), 1e-9)
        weight = calm * len(places)
        centre = (moment + weight * rest) / (mass + weight)
        centres.append(gaussian_filter1d(centre, STEADY).astype(np.float32))
    return centres[0], centres[1]


def _bands(size: int, rate: int) -> Array:
    """[BANDS, size // 2 + 1] triangles on the mel scale from 60 Hz to 0.45 of the rate."""
    low, high = np.log1p(60 / 700), np.log1p(0.45 * rate / 700)
    edges = 700 * np.expm1(np.linspace(low, high, BANDS + 2))
    bins = np.arange(size // 2 + 1) * rate / size
    up = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    down = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return np.maximum(np.minimum(up, down), 0).astype(np.float32)


def _activity(curves: dict[str, NDArray[np.floating]]) -> Activity:
    stacked = gaussian_filter1d(np.stack(list(curves.values())).astype(np.float64), SMOOTH / STEP, axis=1)
    spread = stacked.std(axis=1, keepdims=True)
    scaled = np.where(spread > 1e-6, (stacked - stacked.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-6), 0)
    return Activity(tuple(curves), scaled.astype(np.float32))


def _vertex(curve: NDArray[np.floating], top: int) -> float:
    """Where the parabola through a peak and its neighbours has its top, in steps from the peak."""
    if not 0 < top < len(curve) - 1:
        return 0.0
    left, middle, right = (float(curve[k]) for k in (top - 1, top, top + 1))
    bend = left - 2 * middle + right
    return 0.5 * (left - right) / bend if bend < 0 else 0.0

"""Pictures of a clip as PNG bytes: a strip of its frames, and its waveform above its spectrogram.

Backgrounds are transparent, so that they sit on light and dark pages. It does not know whose clip it is.
Try it: `ovi report --clip out/demo.mp4 --out out/report.html`.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.signal import stft

from ovi.evaluation.figures import envelope
from ovi.media import decode
from ovi.media.audio import to_mono

STRIP_FRAMES = 8
WIDTH = 1056  # pixels of both pictures
GAP = 8
WAVE, SPECTRUM = 96, 128  # heights
INK = (47, 111, 179, 255)  # RGBA of the waveform, readable on white and on black
HEAT = np.array([(20, 14, 54), (86, 28, 109), (170, 51, 106), (237, 105, 60), (250, 193, 60), (252, 252, 200)])
FLOOR_DB = 70.0  # shown below the loudest point

Picture = NDArray[np.uint8]


def strip_and_waveform(mp4: str | Path) -> tuple[bytes, bytes]:
    """(strip PNG, waveform PNG) of a clip on disk. Raises MediaError when picture or sound cannot be read."""
    frames = np.stack([frame.rgb for frame in decode.frames(mp4)])
    sound = decode.audio(mp4)
    return strip(frames), waveform(to_mono(sound.samples), sound.rate)


def strip(frames: Picture) -> bytes:
    """PNG of eight frames spread evenly from the first to the last, side by side; frames uint8 [T, H, W, 3]."""
    chosen = frames[np.linspace(0, len(frames) - 1, STRIP_FRAMES).round().astype(int)]
    width = (WIDTH - GAP * (STRIP_FRAMES - 1)) // STRIP_FRAMES
    height = max(1, round(width * frames.shape[1] / frames.shape[2]))
    way = cv2.INTER_AREA if width < frames.shape[2] else cv2.INTER_CUBIC
    picture = np.zeros((height, WIDTH, 4), np.uint8)
    for index, frame in enumerate(chosen):
        left = index * (width + GAP)
        picture[:, left : left + width, :3] = cv2.resize(frame, (width, height), interpolation=way)
        picture[:, left : left + width, 3] = 255
    return png(picture)


def waveform(audio: NDArray[np.floating], rate: int) -> bytes:
    """PNG of the sound over time: its outline above, its spectrogram (0 to half the rate on a mel scale) below."""
    picture = np.zeros((WAVE + GAP + SPECTRUM, WIDTH, 4), np.uint8)
    low, high = envelope(audio, WIDTH)
    rows = np.arange(WAVE)[:, None]
    top, bottom = (WAVE - 1) / 2 * (1 - high), (WAVE - 1) / 2 * (1 - low)
    picture[:WAVE][(rows >= np.floor(top)) & (rows <= np.ceil(bottom))] = INK
    picture[WAVE + GAP :, :, :3] = _spectrogram(audio, rate)
    picture[WAVE + GAP :, :, 3] = 255
    return png(picture)


def png(picture: Picture) -> bytes:
    """uint8 [H, W, 4] RGBA as PNG."""
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise ValueError(f"no PNG of a picture {picture.shape}")
    return bytes(data)


def _spectrogram(audio: NDArray[np.floating], rate: int) -> Picture:
    """[SPECTRUM, WIDTH, 3]: level in dB below the loudest point, low notes at the bottom."""
    frequencies, _, waves = stft(audio, rate, nperseg=512, noverlap=384)
    level = 20 * np.log10(np.abs(waves) + 1e-7)
    top_mel = 1127 * np.log1p(rate / 2 / 700)
    wanted = 700 * np.expm1(np.linspace(top_mel, 0, SPECTRUM) / 1127)
    bins = np.interp(wanted, frequencies, np.arange(len(frequencies))).round().astype(int)
    shown = cv2.resize(level[bins].astype(np.float32), (WIDTH, SPECTRUM), interpolation=cv2.INTER_LINEAR)
    loudest = max(float(shown.max()), -60.0)  # silence stays dark
    heat = np.clip(1 + (shown - loudest) / FLOOR_DB, 0, 1) * (len(HEAT) - 1)
    channels = [np.interp(heat, np.arange(len(HEAT)), HEAT[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)

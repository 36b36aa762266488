"""Films made on the spot: shots with a moving camera and moving things, joined by cuts, dissolves and fades."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]
HEIGHT, WIDTH = 54, 96


class Joint(NamedTuple):
    """A transition: frames [first, last) belong to neither shot; of a cut, `first` begins the second one and = last."""

    kind: str  # "cut", "dissolve" or "fade"
    first: int
    last: int


def shot(seed: int, count: int) -> NDArray[np.float32]:
    """float32 [count, HEIGHT, WIDTH, 3], levels of 255: a lit place through a camera that pans and zooms, a thing that
    crosses it, light that drifts a little, and grain."""
    rng = np.random.default_rng(seed)
    layers = ((3, 1.0), (8, 0.6), (24, 0.35), (60, 0.15))
    grey, tint = (sum(amount * _texture(rng, size, c) for size, amount in layers) for c in (1, 3))
    place = (grey + rng.uniform(0, 0.7) * tint) * rng.uniform(25, 50) + rng.uniform(60, 170) + rng.uniform(-25, 25, 3)
    pan, zoom = rng.uniform(-0.8, 0.8, 2) * rng.integers(0, 2), rng.uniform(-0.0015, 0.0015) * rng.integers(0, 2)
    thing, speed = rng.uniform(0, 255, 3), rng.uniform(-1.5, 1.5, 2)
    where, radius = rng.uniform((0, 0), (WIDTH, HEIGHT)), rng.uniform(4, 14)
    drift, beat = rng.uniform(0, 0.06), rng.uniform(0.02, 0.2)
    frames = np.empty((count, HEIGHT, WIDTH, 3), np.float32)
    for k in range(count):
        scale = 1.5 * (1 + zoom * k)
        middle = np.array([160, 100]) + pan * (k - count / 2)
        matrix = np.array(
            [[1 / scale, 0, middle[0] - WIDTH / 2 / scale], [0, 1 / scale, middle[1] - HEIGHT / 2 / scale]]
        )
        view = cv2.warpAffine(
            place, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
        )
        x, y = where + speed * k
        cv2.circle(view, (int(x) % WIDTH, int(y) % HEIGHT), int(radius), thing.tolist(), -1)
        frames[k] = view * (1 + drift * np.sin(beat * k))
    return frames + rng.normal(0, 2, frames.shape).astype(np.float32)


def film(seed: int, kinds: tuple[str, ...] = ("cut", "cut", "dissolve", "fade")) -> tuple[Frames, list[Joint]]:
    """uint8 [T, HEIGHT, WIDTH, 3] of three to five shots of 1.5 to 5 s at 24 a second, and the joints between them."""
    rng = np.random.default_rng([seed, 7])
    joints: list[Joint] = []
    made = shot(int(rng.integers(1 << 30)), int(rng.integers(48, 120)))
    for _ in range(int(rng.integers(2, 5))):
        kind = kinds[int(rng.integers(len(kinds)))]
        after = shot(int(rng.integers(1 << 30)), int(rng.integers(84, 140)))
        if kind == "cut":
            joints.append(Joint(kind, len(made), len(made)))
            made = np.concatenate([made, after])
            continue
        length = int(rng.integers(8, 37))
        if kind == "dissolve":
            share = (np.arange(1, length + 1, dtype=np.float32) / (length + 1))[:, None, None, None]
            mixed = (1 - share) * made[-length:] + share * after[:length]
            joints.append(Joint(kind, len(made) - length, len(made)))
            made = np.concatenate([made[:-length], mixed, after[length:]])
        else:
            colour = np.float32(0 if rng.random() < 0.8 else 245)
            length = min(length, 24)
            hold = np.full((int(rng.integers(1, 12)), HEIGHT, WIDTH, 3), colour, np.float32)
            share = (np.arange(1, length + 1, dtype=np.float32) / (length + 1))[:, None, None, None]
            out, back = made[-length:] * (1 - share) + colour * share, after[:length] * share + colour * (1 - share)
            joints.append(Joint(kind, len(made) - length, len(made) + len(hold) + length))
            made = np.concatenate([made[:-length], out, hold, back, after[length:]])
    return np.clip(made, 0, 255).astype(np.uint8), joints


def _texture(rng: np.random.Generator, size: int, channels: int) -> NDArray[np.float32]:
    coarse = rng.normal(0, 1, (size * 5 // 8 + 2, size + 2, channels)).astype(np.float32)
    return cv2.resize(coarse, (320, 200), interpolation=cv2.INTER_CUBIC).reshape(200, 320, channels)

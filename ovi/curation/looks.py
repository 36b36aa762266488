"""What networks say of a clip: flow, pleasing looks, faces, and lips against sound. Those configured, no others.

They are dear, so who asks does so only for clips that passed every cheap test. Networks are loaded once a process, onto
a GPU where there is one; torch is imported only where a network needs it. It knows neither thresholds nor files but
those of the networks.
Try it: `pytest tests/curation/test_looks.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ovi.config import Weights
from ovi.curation import people
from ovi.curation.manifest import Row
from ovi.errors import ConfigError, OviError
from ovi.media.audio import resample
from ovi.media.encode import pcm16
from ovi.perception import faces, tracks
from ovi.perception.motion import APART_S

if TYPE_CHECKING:
    from ovi.perception.aesthetic import Aesthetic
    from ovi.perception.raft import Raft
    from ovi.perception.syncnet import SyncNet

Pixels = NDArray[np.uint8]

UNASKED = "left out before networks were asked"
WANTED = {  # a column wants a network, whose file a setting names
    "flow": ("optical flow network", "raft"), "aesthetic": ("aesthetic network", "aesthetic"),
    "faces": ("face detector", "yunet"), "lip": ("lip reader", "syncnet"),
}  # fmt: skip
LEAST_FACE = 100  # pixels of the source: smaller lips tell nothing
HEARD_RATE = 16_000  # of the sound that SyncNet hears


class Finder(Protocol):
    def find(self, rgb: Pixels) -> faces.Boxes: ...


@dataclass(frozen=True)
class Networks:
    """None where a network is not configured."""

    flow: Raft | None = None
    aesthetic: Aesthetic | None = None
    faces: Finder | None = None
    lips: SyncNet | None = None


@dataclass(frozen=True)
class Pictures:
    """A clip's pictures: `show(k)` makes the k-th, uint8 [H, W, 3] without margins, `scale` times as large as the
    source's."""

    count: int
    fps: int
    scale: float
    show: Callable[[int], Pixels]


@dataclass(frozen=True)
class Talker:
    """The face that lips are read on: uint8 RGB [n, 224, 224, 3] at 25 a second, the first at `start` of them."""

    start: int
    crops: Pixels


def load(weights: Weights, device: str = "cpu") -> Networks:
    """The configured networks. ConfigError, in one line, for a file that is missing or is not the network."""
    finder = faces.FaceFinder(weights.yunet) if weights.yunet else None
    raft = lips = aesthetic = None
    if weights.raft:
        from ovi.perception.raft import load as load_raft

        with _named("raft"):
            raft = load_raft(weights.raft, device)
    if weights.syncnet:
        from ovi.perception.syncnet import load as load_syncnet

        with _named("syncnet"):
            lips = load_syncnet(weights.syncnet, device)
    if weights.clip and weights.aesthetic:
        from ovi.perception.aesthetic import load as load_aesthetic

        with _named("clip, aesthetic"):
            aesthetic = load_aesthetic(weights.clip, weights.aesthetic, device)
    return Networks(raft, aesthetic, finder, lips)


@cache
def of_process(weights: Weights) -> Networks:
    """The same networks at every call in this process, on its GPU where there is one."""
    if not any((weights.raft, weights.syncnet, weights.clip)):
        return load(weights)
    import torch

    return load(weights, "cuda" if torch.cuda.is_available() else "cpu")


def unasked(weights: Weights) -> Row:
    """The columns of a clip that networks are not asked about: why there are no values."""
    return {
        f"{column}_reason": UNASKED if getattr(weights, file) else f"no {what} configured (curation.weights.{file})"
        for column, (what, file) in WANTED.items()
    }


def see(networks: Networks, pictures: Pictures) -> tuple[Row, Talker | None]:
    """The columns that a clip's pictures give, and the face that lips can be read on, if there is one."""
    row: Row = {}
    if networks.flow is not None:
        row |= _flow(networks.flow, pictures)
    if networks.aesthetic is not None:
        row |= _aesthetic(networks.aesthetic, pictures)
    if networks.faces is None:
        return row, None
    if networks.lips is None:
        counts = [len(networks.faces.find(pictures.show(at))) for at in people.spread(pictures.count)]
        return row | _people(counts), None
    found = [networks.faces.find(pictures.show(at)) for at in range(pictures.count)]
    counts = [len(found[at]) for at in people.spread(pictures.count)]
    ticks = tracks.grid(pictures.count, pictures.fps)
    followed = tracks.follow([found[at] for at in ticks])
    face = tracks.main_face(followed, LEAST_FACE * pictures.scale)
    talker = None if face is None else Talker(face.first, _crops(face, pictures, ticks))
    return row | _people(counts) | {"face_tracks": len(followed)}, talker


def hear(networks: Networks, talker: Talker | None, audio: NDArray[np.float32], rate: int) -> Row:
    """The columns of lips against the clip's mono sound float32 [N]; none without a network that reads lips."""
    if networks.lips is None:
        return {}
    if talker is None:
        return {"lip_reason": f"no face of {LEAST_FACE} pixels to follow for {tracks.MIN_LENGTH / tracks.FPS:g} s"}
    from ovi.perception import syncnet

    sound = pcm16(resample(audio, rate, HEARD_RATE))[talker.start * syncnet.SAMPLES_PER_FRAME :]
    found = syncnet.lip_sync(syncnet.distances(*syncnet.embed(networks.lips, talker.crops, sound)))
    return {
        "lip_offset_ms": found.offset_ms, "lip_confidence": found.confidence, "lip_distance": found.distance,
        "lip_masked_offset_ms": found.masked_offset_ms, "lip_masked_confidence": found.masked_confidence,
        "lip_by": syncnet.METHOD, "lip_reason": None,
    }  # fmt: skip


@contextlib.contextmanager
def _named(setting: str) -> Iterator[None]:
    """Errors say which setting names the file that they are about."""
    try:
        yield
    except OviError as error:
        raise ConfigError(f"curation.weights.{setting}: {error}") from None


def _flow(network: Raft, pictures: Pictures) -> Row:
    from ovi.perception.raft import mean_flow

    chosen = range(0, pictures.count, max(1, round(APART_S * pictures.fps)))
    flow = mean_flow(network, [pictures.show(at) for at in chosen], 1 / APART_S)
    return {"flow": flow, "flow_by": network.size.method, "flow_reason": None}


def _aesthetic(network: Aesthetic, pictures: Pictures) -> Row:
    from ovi.perception import aesthetic

    found = aesthetic.scores(network, [pictures.show(at) for at in range(0, pictures.count, pictures.fps)])
    return {
        "aesthetic_min": float(found.min()), "aesthetic_mean": float(found.mean(dtype=np.float64)),
        "aesthetic_by": aesthetic.METHOD, "aesthetic_reason": None,
    }  # fmt: skip


def _people(counts: list[int]) -> Row:
    return {"faces": people.typical(counts), "faces_by": faces.METHOD, "faces_reason": None}


def _crops(face: tracks.Track, pictures: Pictures, ticks: list[int]) -> Pixels:
    shown = zip(ticks[face.first :], tracks.places(face), strict=False)
    return np.stack([tracks.crop(pictures.show(at), *place) for at, place in shown])

"""The metrics that networks see: aesthetics, consistency from picture to picture, dynamic degree.

Each is null with its reason where its networks are not configured. It does not know how clips are made or shown.
Try it: `ovi evaluate --set evaluation.formula_networks=true`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from ovi.evaluation import measured, scores
from ovi.evaluation.catalogue import FLOW_S, LOOK_S
from ovi.evaluation.measured import How, Measured, absent, each
from ovi.evaluation.networks import Networks
from ovi.evaluation.results import NOT_APPLICABLE
from ovi.evaluation.take import Picture, Take
from ovi.perception import aesthetic, raft

SEEN = ("aesthetic_clip_vit_l14", "consistency_clip_vit_l14")
DYNAMIC = "dynamic_degree_raft"
NO_CLIPS = f"{NOT_APPLICABLE}there are no clips"


def look(takes: Sequence[Take], networks: Networks, how: How) -> list[Measured]:
    """All of them, in the catalogue's names."""
    found: list[Measured] = []
    for name, figures, compute in (
        ("aesthetic", SEEN, lambda: _clip(takes, networks, how)),
        ("raft", (DYNAMIC,), lambda: _dynamic(takes, networks, how)),
    ):
        reason = networks.why_not(name) or (None if takes else NO_CLIPS)
        found += [absent(figure, reason) for figure in figures] if reason else compute()
    return found


def _clip(takes: Sequence[Take], networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("aesthetic")

    def seen(take: Take) -> tuple[float, float]:
        beauty, points = aesthetic.look(opened.network, list(_every(take.frames, LOOK_S * take.fps)))
        return float(beauty.mean(dtype=np.float64)), scores.consistency(points)

    looked, failed = each(takes, seen)
    return [
        measured.mean(name, takes, {clip: pair[at] for clip, pair in looked.items()}, failed, how, opened.weights)
        for at, name in enumerate(SEEN)
    ]


def _dynamic(takes: Sequence[Take], networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("raft")

    def dynamic(take: Take) -> float:
        frames = torch.from_numpy(_every(take.frames, FLOW_S * take.fps))
        pairs = pairwise(frames.split(1))
        flows = [raft.flow(opened.network, one, other)[0].cpu().numpy() for one, other in pairs]
        return float(scores.is_dynamic(flows))

    return [measured.mean(DYNAMIC, takes, *each(takes, dynamic), how, opened.weights)]


def _every(frames: Picture, step: float) -> NDArray[np.uint8]:
    """Frames about `step` apart, from the first on."""
    return frames[:: max(1, round(step))]

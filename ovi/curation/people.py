"""How many people clips show, and a set of clips with the mix of them that is asked for (paper 3.2).

A clip shows as many faces as the median of a few pictures spread over it. It knows counts and rows, no detector.
Try it: `pytest tests/curation/test_people.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ovi.config import People
from ovi.curation.manifest import KEPT, REJECTED, Row

LOOKS = 7  # pictures looked at (as many as the captioner of the paper sees)
KINDS = ("none", "single", "multi")
QUOTA = "quota"  # the reason of clips that are left out for the mix


def spread(count: int) -> list[int]:
    """Which of `count` pictures are looked at: LOOKS of them, evenly over the clip."""
    return np.linspace(0, count - 1, min(LOOKS, count)).round().astype(int).tolist()


def typical(counts: Sequence[int]) -> int:
    """The median of the faces in each picture; halves go down."""
    return sorted(counts)[(len(counts) - 1) // 2]


def balance(rows: list[Row], shares: People) -> None:
    """Reject so many kept clips that no kind has more than its share of those that stay, and as few as that takes.

    Which ones go is a matter of their names, so it is the same in every run. Clips without a count are let be.
    """
    counted = [row for row in rows if row["status"] == KEPT and row.get("faces") is not None]
    groups: dict[str, list[Row]] = {kind: [] for kind in KINDS}
    for row in counted:
        groups[kind_of(row["faces"])].append(row)
    room = _room({kind: len(group) for kind, group in groups.items()}, shares.model_dump())
    for kind, group in groups.items():
        for row in sorted(group, key=lambda row: str(row["clip_id"]))[room[kind] :]:
            row |= {"status": REJECTED, "reason": QUOTA}


def summary(rows: Sequence[Row], shares: People) -> dict[str, dict[str, Any]]:
    """For each kind: clips kept, their share of those kept with a count, the most it may be, and clips left out."""
    kept = Counter(kind_of(row["faces"]) for row in rows if row["status"] == KEPT and row.get("faces") is not None)
    out = Counter(kind_of(row["faces"]) for row in rows if row["reason"] == QUOTA)
    total = max(1, sum(kept.values()))
    return {
        kind: {"kept": kept[kind], "share": kept[kind] / total, "most": most, "left_out": out[kind]}
        for kind, most in shares.model_dump().items()
        if kept or out
    }


def kind_of(faces: int) -> str:
    return KINDS[min(faces, 2)]


def _room(counts: dict[str, int], shares: dict[str, float]) -> dict[str, int]:
    """How many of each kind stay: of the largest set in which none has more than its share."""
    for total in range(sum(counts.values()), 0, -1):
        room = {kind: min(count, int(shares[kind] * total + 1e-9)) for kind, count in counts.items()}
        if sum(room.values()) >= total:
            return room
    return dict.fromkeys(counts, 0)

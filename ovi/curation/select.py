"""Thresholds and splits: the only place where a score becomes a verdict. It reads rows and settings, never pixels.

A row is judged by the first rule that it breaks. Splits go by source: by the place of its sha256 between 0 and 1, so
that a source never spans two splits and adding sources moves none of the others.
Try it: `pytest tests/curation/test_select.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from ovi.config import Curation
from ovi.curation import sync
from ovi.curation.manifest import KEPT, REJECTED, Row

MIN_RATE = 12.0  # different pictures a second: fewer do not flow
MAX_UNHEARD_S = 0.2  # encoders begin and end sound a little off the pictures
MIN_CHANGE = 0.006  # a picture that neither flows (min_motion) nor changes by this much is static


def decide(row: Row, curation: Curation) -> Row:
    """What follows from a candidate's scores: status, reason, sync, sync_reason. A null score breaks no rule."""
    verdict, why = sync.judge(row, curation)
    moves = ("motion", curation.min_motion) if row.get("flow") is None else ("flow", curation.min_flow)
    rules = (
        ("too_small", _below(row, "pixels", curation.min_pixels)),
        ("low_rate", _below(row, "picture_rate", MIN_RATE)),
        ("sound_short", (row.get("unheard_s") or 0.0) > MAX_UNHEARD_S),
        ("static", _below(row, *moves) and _below(row, "change", MIN_CHANGE)),
        ("silent", _below(row, "volume_db", curation.min_volume_db)),
        ("plain", curation.min_aesthetic is not None and _below(row, "aesthetic_mean", curation.min_aesthetic)),
        ("unsure_sync", verdict == sync.UNSURE),
        ("out_of_sync", verdict == sync.OUT_OF_SYNC),
        ("no_licence", curation.require_licence and row.get("licence") is None),
        (row.get("caption_reason") or "bad_caption", row.get("caption") is None),
    )
    reason = next((name for name, broken in rules if broken), None)
    return {"status": REJECTED if reason else KEPT, "reason": reason, "sync": verdict, "sync_reason": why}


def assign_splits(rows: list[Row], curation: Curation) -> None:
    """Set every row's split: test below test_share, val in the validation_share above it, train for the rest.

    Small sets bend the rule: of two kept sources or more, the lowest becomes val if none is, and the highest train.
    """
    for sets in (("av",), ("pretrain", "finetune")):  # the audio sets share their sources
        group = [row for row in rows if row["set"] in sets]
        splits = _splits(
            {row["source_sha256"] for row in group},
            {row["source_sha256"] for row in group if row["status"] == KEPT},
            curation.validation_share,
            curation.test_share,
        )
        for row in group:
            row["split"] = splits[row["source_sha256"]]


def place(sha256: str) -> float:
    """Where a hash lies between 0 and 1."""
    return int(sha256[:13], 16) / 16**13


def _splits(sources: Iterable[str], kept: Iterable[str], val: float, test: float) -> dict[str, str]:
    splits = {}
    for sha in sources:
        at = place(sha)
        splits[sha] = "test" if at < test else "val" if at < test + val else "train"
    ranked = sorted(kept)
    if ranked and all(splits[sha] != "train" for sha in ranked):
        splits[ranked[-1]] = "train"
    if len(ranked) > 1 and val > 0 and all(splits[sha] != "val" for sha in ranked):
        splits[ranked[0]] = "val"
    return splits


def _below(row: Row, column: str, threshold: float) -> bool:
    return row.get(column) is not None and row[column] < threshold

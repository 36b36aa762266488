"""Rules at their thresholds, and splits that go by source."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import pytest

from ovi.config import Curation
from ovi.curation.manifest import Row
from ovi.curation.select import MIN_CHANGE, assign_splits, decide

CURATION = Curation(min_pixels=4096, min_motion=0.0005, min_sync_score=0.6, min_aesthetic=4.5)
GOOD: Row = {
    "pixels": 4096, "motion": 0.0005, "change": 0.0, "volume_db": -60.0, "caption": "A. <AUDCAP>B<ENDAUDCAP>",
    "sync_offset_ms": 120.0, "sync_score": 0.6, "sync_at_zero": 0.5,
}  # fmt: skip


def reason(**changed: Any) -> str | None:
    verdict = decide({**GOOD, **changed}, CURATION)
    assert (verdict["status"] == "kept") == (verdict["reason"] is None)
    return verdict["reason"]


def test_a_clip_at_every_threshold_is_kept() -> None:
    assert reason() is None


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"pixels": 4095}, "too_small"),
        ({"motion": 0.00049, "change": MIN_CHANGE - 1e-6}, "static"),
        ({"motion": 0.00049, "change": MIN_CHANGE}, None),
        ({"volume_db": -60.04}, "silent"),
        ({"volume_db": -59.96}, None),
        ({"sync_offset_ms": 141.0}, "out_of_sync"),  # four frames
        ({"sync_offset_ms": -141.0}, "out_of_sync"),
        ({"sync_offset_ms": -139.0}, None),
        ({"lip_offset_ms": 160.0, "lip_confidence": 1.51}, "out_of_sync"),
        ({"lip_offset_ms": 120.0, "lip_confidence": 1.5}, "unsure_sync"),
        ({"lip_offset_ms": 120.0, "lip_confidence": 1.51, "sync_offset_ms": 500.0}, None),
        ({"flow": 0.0009, "motion": 0.1}, "static"),  # where a network saw motion, its word counts
        ({"flow": 0.001, "motion": 0.0}, None),
        ({"flow": 0.0009, "change": MIN_CHANGE}, None),
        ({"aesthetic_mean": 4.4}, "plain"),
        ({"aesthetic_mean": 4.5, "aesthetic_min": 1.0}, None),
        ({"sync_offset_ms": 500.0, "sync_score": 0.59}, None),
        ({"caption": None}, "bad_caption"),
        ({"pixels": 10, "volume_db": -90.0, "caption": None}, "too_small"),
        ({"pixels": None, "motion": None, "change": None, "sync_score": None}, None),
    ],
)
def test_rules(changed: dict[str, Any], expected: str | None) -> None:
    assert reason(**changed) == expected


def test_sync_says_what_it_found() -> None:
    def verdict(**changed: Any) -> tuple[str | None, str | None]:
        found = decide({**GOOD, **changed}, CURATION)
        return found["sync"], found["sync_reason"]

    assert verdict() == ("in_sync", None)
    assert verdict(sync_offset_ms=200.0) == ("out_of_sync", None)
    word, why = verdict(sync_offset_ms=200.0, sync_score=0.3)
    assert word == "not_applicable"
    assert why is not None
    assert "no common cause" in why


def kept(names: list[str], set_name: str = "av", status: str = "kept") -> list[Row]:
    return [
        {"set": set_name, "status": status, "source_sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name in names
    ]


def test_splits_go_by_source_and_have_about_the_shares() -> None:
    rows = kept([f"{n}" for n in range(2000)] * 2)
    assign_splits(rows, Curation(validation_share=0.1, test_share=0.05))
    of_source: dict[str, set[str]] = {}
    for row in rows:
        of_source.setdefault(row["source_sha256"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in of_source.values())
    counts = Counter(row["split"] for row in rows)
    assert counts["val"] / len(rows) == pytest.approx(0.1, abs=0.02)
    assert counts["test"] / len(rows) == pytest.approx(0.05, abs=0.015)


def test_more_sources_move_none() -> None:
    few, many = kept([f"{n}" for n in range(300)]), kept([f"{n}" for n in range(600)])
    assign_splits(few, Curation())
    assign_splits(many, Curation())
    assert [row["split"] for row in few] == [row["split"] for row in many[:300]]


@pytest.mark.parametrize("count", range(2, 12))
def test_small_sets_have_both_training_and_validation(count: int) -> None:
    for start in range(0, 60, 3):
        rows = kept([f"{start + n}" for n in range(count)]) + kept(["x", "y", "z"], status="rejected")
        assign_splits(rows, Curation())
        splits = [row["split"] for row in rows[:count]]
        assert "train" in splits
        assert "val" in splits


def test_one_source_trains() -> None:
    for n in range(20):
        rows = kept([f"{n}"])
        assign_splits(rows, Curation())
        assert rows[0]["split"] == "train"


def test_both_audio_sets_of_a_source_are_in_one_split() -> None:
    names = [f"{n}" for n in range(40)]
    rows = kept(names, "pretrain") + kept(names, "finetune")
    assign_splits(rows, Curation(validation_share=0.3))
    assert [row["split"] for row in rows[:40]] == [row["split"] for row in rows[40:]]

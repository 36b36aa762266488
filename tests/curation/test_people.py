"""Counts, and mixes: no kind has more than its share, as few clips as possible go, always the same ones."""

from __future__ import annotations

from itertools import product

import pytest

from ovi.config import People
from ovi.curation.manifest import Row
from ovi.curation.people import KINDS, QUOTA, balance, spread, summary, typical


def clips(none: int, single: int, multi: int) -> list[Row]:
    faces = [0] * none + [1] * single + [2, 3] * multi
    return [
        {"clip_id": f"{17 * k % 1009:04d}", "status": "kept", "reason": None, "faces": n}
        for k, n in enumerate(faces[: none + single + multi])
    ]


def kept(rows: list[Row]) -> dict[str, int]:
    return {kind: found["kept"] for kind, found in summary(rows, People()).items()}


def test_the_typical_count_is_the_median_and_halves_go_down() -> None:
    assert typical([0, 1, 1, 2, 5, 1, 1]) == 1
    assert typical([1, 2]) == 1
    assert spread(121) == [0, 20, 40, 60, 80, 100, 120]
    assert spread(3) == [0, 1, 2]


def test_any_mix_is_let_be_without_quotas() -> None:
    rows = clips(5, 90, 3)
    before = [dict(row) for row in rows]
    balance(rows, People())
    assert rows == before


@pytest.mark.parametrize("shares", [(0.2, 0.6, 0.2), (0.5, 0.5, 0.5), (1.0, 0.25, 1.0), (0.0, 1.0, 0.3)])
@pytest.mark.parametrize("counts", [(50, 30, 20), (0, 40, 10), (7, 100, 1), (10, 0, 0)])
def test_no_kind_has_more_than_its_share_and_no_larger_set_would_do(
    shares: tuple[float, float, float], counts: tuple[int, int, int]
) -> None:
    mix = People(**dict(zip(KINDS, shares, strict=True)))
    rows = clips(*counts)
    balance(rows, mix)
    left = kept(rows) or dict.fromkeys(KINDS, 0)
    total = sum(left.values())
    assert all(left[kind] <= share * total + 1e-9 for kind, share in zip(KINDS, shares, strict=True))
    best = max(
        sum(some)
        for some in product(*(range(count + 1) for count in counts))
        if all(n <= share * sum(some) + 1e-9 for n, share in zip(some, shares, strict=True))
    )
    assert total == best
    assert all((row["status"] == "kept") == (row["reason"] is None) for row in rows)


def test_the_same_clips_go_in_any_order() -> None:
    rows, turned = clips(50, 10, 10), clips(50, 10, 10)[::-1]
    mix = People(none=0.4, single=0.5, multi=0.5)
    balance(rows, mix)
    balance(turned, mix)
    out = {row["clip_id"] for row in rows if row["reason"] == QUOTA}
    assert out == {row["clip_id"] for row in turned if row["reason"] == QUOTA}
    found = summary(rows, mix)
    assert found["none"]["left_out"] == len(out) == 50 - found["none"]["kept"]
    assert found["none"]["share"] <= found["none"]["most"] == 0.4


def test_clips_without_a_count_and_those_already_out_are_let_be() -> None:
    rows: list[Row] = [
        {"clip_id": "a", "status": "kept", "reason": None, "faces": None},
        {"clip_id": "b", "status": "rejected", "reason": "static", "faces": None},
        {"clip_id": "c", "status": "rejected", "reason": "plain", "faces": 4},
    ]
    before = [dict(row) for row in rows]
    balance(rows, People(none=0.0))
    assert rows == before
    assert summary(rows, People()) == {}

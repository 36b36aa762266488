"""Duplicates: what is the same is found, what is not stays, and which one stays does not depend on chance."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ovi.curation import duplicates
from ovi.curation.duplicates import BITS, picture_hash, reject
from ovi.curation.manifest import Row


def row(name: str, **facts: Any) -> Row:
    common = {"clip_id": name, "set": "av", "status": "kept", "source_path": f"{name}.mp4", "pixels": 100}
    return {**common, "content": name, "picture_hash": None, **facts}


def left_out(rows: list[Row], bits: int | None = None) -> dict[str, str]:
    """clip_id -> the clip it is the same as."""
    reject(rows, bits)
    assert all(one["reason"] == "duplicate" for one in rows if one["status"] == "rejected")
    return {one["clip_id"]: one["duplicate_of"] for one in rows if one["status"] == "rejected"}


def hashed(bits: int) -> str:
    return f"{bits:0{BITS // 4}x}"


def test_equal_content_is_found_and_the_larger_then_the_first_stays() -> None:
    same = {"content": "x"}
    assert left_out([row("a", **same), row("b", **same), row("c")]) == {"b": "a"}
    assert left_out([row("a", **same), row("b", **same, pixels=200), row("c", **same)]) == {"a": "b", "c": "b"}
    assert left_out([row("a", **same), row("b", **same, set="pretrain")]) == {}
    assert left_out([row("a", **same), row("b", **same, source_path="a.mp4")]) == {}
    assert left_out([row("a", **same, status="rejected", reason="duplicate", duplicate_of="z"), row("b", **same)]) == {
        "a": "z"
    }


def test_no_clip_is_rejected_for_one_that_is_itself() -> None:
    """b is near a, c is near b and not near a: only b goes."""
    rows = [row("a", picture_hash=hashed(0)), row("b", picture_hash=hashed(7)), row("c", picture_hash=hashed(63))]
    assert left_out(rows, 3) == {"b": "a"}


def test_pictures_are_compared_only_where_a_distance_is_set() -> None:
    def rows() -> list[Row]:
        return [row("a", picture_hash=hashed(5)), row("b", picture_hash=hashed(5))]

    assert left_out(rows()) == {}
    assert left_out(rows(), 0) == {"b": "a"}


@pytest.mark.parametrize("most", [0, 1, 5, 16, 48])
def test_all_pairs_within_the_distance_are_found(most: int) -> None:
    draw = random.Random(most)
    values = [draw.getrandbits(BITS) for _ in range(12)]
    flips = range(0, most + 3, max(1, most // 3))
    values += [value ^ sum(1 << bit for bit in draw.sample(range(BITS), n)) for value in values for n in flips]
    kept: dict[str, int] = {}
    expected = set()
    for name, value in enumerate(values):
        near = any((value ^ other).bit_count() <= most for other in kept.values())
        expected |= {str(name)} if near else set()
        kept |= {} if near else {str(name): value}
    found = left_out([row(str(name), picture_hash=hashed(value)) for name, value in enumerate(values)], most)
    assert set(found) == expected
    assert all((values[int(a)] ^ values[int(b)]).bit_count() <= most for a, b in found.items())


def strip(path: Path, seed: int, size: tuple[int, int] = (96, 64), gain: float = 1.0, quality: int = 95) -> Path:
    draw = np.random.default_rng(seed)
    parts: list[NDArray[Any]] = []
    for _ in range(duplicates.LOOKS):
        picture = cv2.resize(draw.uniform(20, 200, (8, 12, 3)).astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
        parts.append(np.clip(gain * picture, 0, 255).astype(np.uint8))
    coded = cv2.imencode(".jpg", np.concatenate(parts, axis=1), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    cv2.imwrite(str(path), cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return path


def test_a_hash_survives_coding_scaling_and_brightness(tmp_path: Path) -> None:
    def apart(a: str | None, b: str | None) -> int:
        return (int(a or "", 16) ^ int(b or "", 16)).bit_count()

    first = picture_hash(strip(tmp_path / "a.png", 1))
    assert first is not None
    assert len(first) == BITS // 4
    changes: list[dict[str, Any]] = [{"quality": 30}, {"size": (192, 128)}, {"gain": 0.8}]
    for changed in changes:
        assert apart(first, picture_hash(strip(tmp_path / "b.png", 1, **changed))) <= 16
    others = [picture_hash(strip(tmp_path / "b.png", seed)) for seed in range(2, 12)]
    assert min(apart(first, other) for other in others) > 60


def test_pictures_that_show_nothing_have_no_hash(tmp_path: Path) -> None:
    dark = np.random.default_rng(0).integers(0, 6, (64, 288, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), dark)
    assert picture_hash(tmp_path / "a.png") is None


def test_content_is_of_all_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    assert duplicates.content([tmp_path / "x", tmp_path / "none"]) == duplicates.content([tmp_path / "x"])
    (tmp_path / "y").write_bytes(b"2")
    assert duplicates.content([tmp_path / "x", tmp_path / "y"]) != duplicates.content([tmp_path / "x"])

"""The manifest keeps every row, gives equal bytes for equal rows and one line for a damaged file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from ovi.curation import manifest
from ovi.errors import OviError

ROWS = [
    {"clip_id": "a", "set": "av", "split": "train", "status": "kept", "start": "121/24", "events": [0.5, 1.0]},
    {"clip_id": "b", "set": "av", "split": "val", "status": "kept", "motion": 0.25, "frames": 121},
    {"clip_id": "c", "set": "av", "split": "val", "status": "rejected", "reason": "static"},
    {"clip_id": "d", "set": "pretrain", "split": "train", "status": "kept"},
]


def test_rows_come_back_whole_and_in_order(tmp_path: Path) -> None:
    manifest.write(tmp_path / "m.parquet", ROWS)
    back = manifest.rows(tmp_path / "m.parquet", status=None)
    assert [{k: v for k, v in row.items() if v is not None} for row in back] == ROWS
    assert set(back[0]) == set(manifest.COLUMNS)


def test_rows_are_filtered_by_what_is_asked_for(tmp_path: Path) -> None:
    manifest.write(tmp_path / "m.parquet", ROWS)

    def names(**wanted: str | None) -> list[str]:
        return [row["clip_id"] for row in manifest.rows(tmp_path / "m.parquet", **wanted)]

    assert names() == ["a", "b", "d"]
    assert names(set="av", split="val") == ["b"]
    assert names(set="av", split="val", status=None) == ["b", "c"]
    assert names(status="rejected") == ["c"]


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    manifest.write(tmp_path / "1.parquet", ROWS)
    manifest.write(tmp_path / "2.parquet", [dict(reversed(row.items())) for row in ROWS])
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_no_rows_are_a_manifest(tmp_path: Path) -> None:
    manifest.write(tmp_path / "m.parquet", [])
    assert manifest.rows(tmp_path / "m.parquet") == []


def test_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column colour"):
        manifest.write(tmp_path / "m.parquet", [{"colour": "red"}])


def test_a_clip_has_one_name(tmp_path: Path) -> None:
    name = manifest.clip_id("av", "ab" * 32, Fraction(121, 24), 121)
    assert name == manifest.clip_id("av", "ab" * 32, Fraction(242, 48), 121)
    others = [
        manifest.clip_id("finetune", "ab" * 32, Fraction(121, 24), 121),
        manifest.clip_id("av", "cd" * 32, Fraction(121, 24), 121),
        manifest.clip_id("av", "ab" * 32, Fraction(122, 24), 121),
        manifest.clip_id("av", "ab" * 32, Fraction(121, 24), 125),
    ]
    assert len({name, *others}) == 5


@pytest.mark.parametrize("damage", [b"", b"PAR1 nothing", None])
def test_damage_is_one_line(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "m.parquet"
    manifest.write(path, ROWS)
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    with pytest.raises(OviError, match=r"m\.parquet: not a readable manifest"):
        manifest.read(path)


def test_a_missing_or_foreign_file_is_one_line(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(OviError, match="no such file"):
        manifest.read(tmp_path / "none.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(OviError, match="another version"):
        manifest.read(tmp_path / "x.parquet")

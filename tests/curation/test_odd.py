"""Every odd file ends kept or with its own reason, in good time, and in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovi import config, storage
from ovi.curation.sources import Source, examine
from tests.media.odd import ODD

SETTINGS = config.load(Path(__file__).parents[2] / "params.yaml", None, [])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_ends_as_it_should(tmp_path: Path, name: str) -> None:
    end, make = ODD[name]
    path = tmp_path / name
    make(path)
    source = Source(name, str(path), storage.sha256(path), path.stat().st_size, "av", "CC0-1.0", "test")
    (row,) = examine(source, SETTINGS, str(tmp_path))
    assert (row["reason"] or row["status"]) == end
    message = row.get("message") or ""
    assert str(tmp_path) not in message
    assert "\n" not in message


def test_there_are_enough_of_them() -> None:
    ends = [end for end, _ in ODD.values()]
    assert len(ends) >= 60
    assert set(ends) >= {"kept", "unreadable", "damaged", "truncated", "no_audio", "no_video", "interlaced", "hdr",
                         "no_clock", "changing", "low_rate", "sound_short", "silent", "too_short"}  # fmt: skip

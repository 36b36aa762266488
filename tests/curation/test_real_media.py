"""Real files end as they should. OVI_TEST_MEDIA names the folder that real_media.py describes; without it, nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ovi import config
from tests.curation import real_media

FOLDER = Path(os.environ.get("OVI_TEST_MEDIA", ""))
SETTINGS = config.load(Path(__file__).parents[2] / "params.yaml", None, [])
pytestmark = pytest.mark.skipif("OVI_TEST_MEDIA" not in os.environ, reason="OVI_TEST_MEDIA is not set")


@pytest.mark.parametrize("name", real_media.ENDS)
def test_each_file_ends_as_it_should(tmp_path: Path, name: str) -> None:
    assert real_media.end(FOLDER, name, SETTINGS, tmp_path) == real_media.ENDS[name]


@pytest.mark.parametrize(("name", "stream"), real_media.CUTS)
def test_cuts_are_found(name: str, stream: int) -> None:
    found = real_media.cuts(FOLDER, name, stream)
    assert not found.missed
    assert not found.others or real_media.CUTS[name, stream]


@pytest.mark.parametrize("name", real_media.CROPS)
def test_margins_are_cropped_and_nothing_else(name: str) -> None:
    assert real_media.crops(FOLDER, name, SETTINGS) == {real_media.CROPS[name]}

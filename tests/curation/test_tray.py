"""What clips leave: fingerprints of the raw files, coded ones in their place; a full disk is nobody's fault."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from ovi.curation.duplicates import content
from ovi.curation.manifest import Row
from ovi.curation.tray import tray
from ovi.errors import OviError
from ovi.storage import list_files, read_bytes

ROW: Row = {
    "clip_id": "a", "status": "kept", "frames": 25, "height": 64, "width": 64, "fps": 24, "sample_rate": 16000,
}  # fmt: skip
PICTURES = np.random.default_rng(0).integers(0, 256, (25, 64, 64, 3), np.uint8)
SOUND = bytes(2 * 16800)


@pytest.mark.parametrize(("coding", "kinds"), [("raw", ("frames", "pcm")), ("h264", ("flac", "mp4"))])
def test_a_clip_is_handed_over_when_it_is_finished(
    tmp_path: Path, bucket: str, coding: str, kinds: tuple[str, str]
) -> None:
    found, files = [], []
    for place in (str(tmp_path), f"{bucket}/clips"):
        with tray(place, coding) as left:
            left.lay(ROW, "frames", [PICTURES.tobytes()])
            left.lay(ROW, "pcm", [SOUND])
            assert not list_files(bucket)
            found.append(left.finish(ROW))
        files.append({name.removeprefix(place): read_bytes(name) for name in list_files(place)})
    assert found[0] == found[1]
    assert files[0] == files[1]
    assert set(files[0]) == {f"/a.{kind}" for kind in kinds}
    for name, data in (("frames", PICTURES.tobytes()), ("pcm", SOUND)):
        (tmp_path / name).write_bytes(data)
    assert found[0]["content"] == content((tmp_path / "frames", tmp_path / "pcm"))
    assert ("psnr_db" in found[0]) == (coding == "h264")


def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with tray(str(tmp_path), "raw") as left:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(OviError, match="no space left for clips"):
                left.lay(ROW, "frames", [PICTURES.tobytes()])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

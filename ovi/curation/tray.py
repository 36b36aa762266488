"""What a clip leaves to be packed: raw files, and when all of them are there their fingerprints; then they are coded.

A tray is a folder or a prefix of a bucket. To a bucket files go by way of a folder of this machine, clip by clip, so a
source of hours needs the room of one clip there. It judges nothing.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ovi import storage
from ovi.curation import duplicates, packed
from ovi.curation.manifest import KEPT, Row
from ovi.errors import OviError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Tray:
    """Files `<clip_id>.<kind>` in `folder`, which are handed over to `address` where that is another place."""

    def __init__(self, folder: Path, address: str, coding: str) -> None:
        self._folder, self._address, self._coding = folder, address, coding

    def lay(self, row: Row, kind: str, parts: Iterable[bytes | memoryview]) -> None:
        with _room(self._folder), open(self._folder / f"{row['clip_id']}.{kind}", "wb") as file:
            file.writelines(parts)

    def finish(self, row: Row) -> Row:
        """The clip is judged and its files are there: the columns that are computed of them."""
        found: Row = {}
        raw = {kind: self._folder / f"{row['clip_id']}.{kind}" for kind in ("png", "frames", "pcm")}
        if raw["png"].exists():
            found |= {"picture_hash": duplicates.picture_hash(raw["png"]), "picture_hash_by": duplicates.METHOD}
        if row["status"] == KEPT:
            found |= {"content": duplicates.content((raw["frames"], raw["pcm"])), "coding": self._coding}
            if self._coding != packed.RAW:
                with _room(self._folder):
                    found["psnr_db"] = packed.code(self._folder, row)
        if storage.is_remote(self._address):
            for path in sorted(self._folder.glob(f"{row['clip_id']}.*")):
                storage.upload(path, f"{self._address}/{path.name}")
                path.unlink()
        return found


@contextlib.contextmanager
def tray(address: str, coding: str) -> Iterator[Tray]:
    """A tray for the clips of one source."""
    if not storage.is_remote(address):
        yield Tray(Path(address), address, coding)
        return
    with tempfile.TemporaryDirectory(prefix="ovi-clips-") as folder:
        yield Tray(Path(folder), address, coding)


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[None]:
    """A full disk is no fault of the source."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OviError(f"{folder}: no space left for clips; free some disk and run the same command again") from None

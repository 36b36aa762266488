"""An object of a bucket as a media file: read in blocks, of which the last are held for whoever reads beside.

Pictures and sound are decoded side by side, each from an opening of its own; over the network they come once. It knows
bytes only.
Try it: `python -c "from ovi.media import probe, remote; print(probe.probe(remote.Remote('s3://bucket/clip.mp4')))"`.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

from ovi import storage

BLOCK, HELD = 1 << 20, 32  # bytes of a block; blocks that are held: seconds of film, by which the two are apart


def reached(place: str | Path | Remote) -> str | Remote:
    """A media file by its path or by its address in a bucket."""
    if isinstance(place, Remote):
        return place
    return Remote(str(place)) if storage.is_remote(place) else str(place)


class Remote:
    """One version of the object at an address, from its first opening on. OviError where there is none."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._file: BinaryIO | None = None
        self._held: OrderedDict[int, bytes] = OrderedDict()

    def __str__(self) -> str:
        return self._address

    def exists(self) -> bool:
        return self._file is not None or storage.exists(self._address)

    def open(self) -> BinaryIO:
        """A seekable file of its own."""
        return io.BufferedReader(_View(self))

    @property
    def size(self) -> int:
        return self._opened.seek(0, io.SEEK_END)

    def block(self, number: int) -> bytes:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        self._opened.seek(number * BLOCK)
        self._held[number] = data = self._opened.read(BLOCK)
        if len(self._held) > HELD:
            self._held.popitem(last=False)
        return data

    @property
    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = storage.open_read(self._address)
        return self._file


class _View(storage.Seekable):
    def __init__(self, source: Remote) -> None:
        super().__init__(source.size)
        self._source = source

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size:
            return 0
        number, first = divmod(self._at, BLOCK)
        part = self._source.block(number)[first : first + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

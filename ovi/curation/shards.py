"""Packed shards: deterministic tar files with a side index for random access. Curated clips and latents live in them.

A set NAME is `NAME-00000.tar` + `NAME-00000.index.json`, `NAME-00001.tar` ... Equal members in equal order give equal
bytes (no times, owners or host names inside). Each index tells whether its shard is the last of the set, so a set
whose writing was cut short is found out when it is opened. Addresses go through ovi.storage: folders and s3:// alike.
It does not know what the members mean; members that share a stem (the name up to its first dot) stay in one shard,
as webdataset readers expect.
Try it: `tar tvf data/clips/shards/av-00000.tar`.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ovi import storage
from ovi.errors import OviError

FORMAT = 1
CHECKSUM = "crc32"  # zlib's
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Place:
    """Where a member's bytes lie: file name of the shard, offset and length in bytes, checksum."""

    shard: str
    offset: int
    length: int
    crc32: int


class ShardWriter:
    """Writes the set `prefix` (a folder and a name in one: `out/shards/av`); use it as a context manager.

    A shard is built in memory and written whole when the next member would take it over `max_bytes`; the last one,
    which may be empty, when the block ends well. A block that ends badly leaves a set that no reader opens.
    """

    def __init__(self, prefix: str | Path, max_bytes: int) -> None:
        self._prefix = str(prefix)
        self._name = self._prefix.rpartition("/")[2]
        self._max_bytes = max_bytes
        self._count = 0
        self._stem = ""
        self._seen: set[str] = set()
        self._begin()

    def add(self, member: str, data: bytes) -> Place:
        """Append one member. Names are unique in the set and at most 100 bytes long (ValueError otherwise)."""
        if member in self._seen:
            raise ValueError(f"{self._prefix}: member {member!r} was added before")
        stem = member.partition(".")[0]
        grown = self._tar.tell() + 3 * BLOCK + _padded(len(data))  # this header, and the two blocks that end a tar
        if self._members and grown > self._max_bytes and stem != self._stem:
            self._flush(last=False)
        info = tarfile.TarInfo(member)
        info.size, info.mode = len(data), 0o644
        self._tar.write(info.tobuf(tarfile.USTAR_FORMAT))
        place = Place(self._file("tar"), self._tar.tell(), len(data), zlib.crc32(data))
        self._tar.write(data)
        self._tar.write(bytes(_padded(len(data)) - len(data)))
        self._members[member] = place
        self._seen.add(member)
        self._stem = stem
        return place

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self._flush(last=True)

    def _begin(self) -> None:
        self._tar = io.BytesIO()
        self._members: dict[str, Place] = {}

    def _file(self, kind: str) -> str:
        return f"{self._name}-{self._count:05d}.{kind}"

    def _flush(self, last: bool) -> None:
        self._tar.write(bytes(2 * BLOCK))
        folder = self._prefix.removesuffix(self._name)
        members = {
            name: {"offset": place.offset, "length": place.length, CHECKSUM: place.crc32}
            for name, place in self._members.items()
        }
        index = {"format": FORMAT, "checksum": CHECKSUM, "last": last, "members": members}
        storage.write_bytes(folder + self._file("tar"), self._tar.getvalue())
        storage.write_json(folder + self._file("index.json"), index)
        self._count += 1
        self._begin()


class ShardReader:
    """Random access to the set `name` in `folder`. It holds no open file, so it may be copied to other processes.

    Raises OviError in one line when the set is missing, incomplete or damaged.
    """

    def __init__(self, folder: str | Path, name: str) -> None:
        self._folder = str(folder)
        self._places: dict[str, Place] = {}
        last, count = False, 0
        while not last:
            last = self._open(f"{name}-{count:05d}")
            count += 1

    def members(self) -> list[str]:
        """All member names, in the order they were added."""
        return list(self._places)

    def read(self, member: str) -> bytes:
        """The bytes of one member, checked against its checksum."""
        place = self._places.get(member)
        if place is None:
            raise OviError(f"{self._folder}: no member {member!r} in these shards")
        data = storage.read_bytes(f"{self._folder}/{place.shard}", place.offset, place.length)
        if len(data) != place.length or zlib.crc32(data) != place.crc32:
            raise OviError(f"{self._folder}/{place.shard}: member {member!r} is damaged; make the shards again")
        return data

    def __contains__(self, member: str) -> bool:
        return member in self._places

    def __len__(self) -> int:
        return len(self._places)

    def _open(self, shard: str) -> bool:
        address = f"{self._folder}/{shard}.index.json"
        if not storage.exists(address):
            raise OviError(f"{address}: no such shard; the set is missing or incomplete, make the shards again")
        index = storage.read_json(address)
        try:
            if index["format"] != FORMAT or index["checksum"] != CHECKSUM:
                found = f"{index['format']} ({index['checksum']})"
                raise OviError(f"{address}: index of format {found}; this version reads {FORMAT} ({CHECKSUM})")
            places = {name: Place(f"{shard}.tar", **place) for name, place in index["members"].items()}
            last = bool(index["last"])
        except (KeyError, TypeError, AttributeError):
            raise OviError(f"{address}: not an index of shards; make the shards again") from None
        # The index is sorted by name; the order of adding is the order in the tar.
        self._places |= dict(sorted(places.items(), key=lambda item: item[1].offset))
        return last


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK

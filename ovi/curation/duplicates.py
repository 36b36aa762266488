"""Fingerprints of clips, and which clips are the same as another: by content, and by look where a distance is set.

The look of a clip is 64 bits of each of three pictures (the signs of low DCT coefficients around their median), so it
survives coding, scaling and changes of brightness. Clips of one source are never compared: they do not overlap.
It reads the fingerprints from rows and never opens a source.
Try it: `ovi curate --set curation.duplicate_bits=12`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ovi.curation.manifest import KEPT, REJECTED, Row

METHOD = "dct-signs-3x64-v1"
REASON = "duplicate"
LEVEL = 16.0  # a coefficient of a wave of one grey level: what is less is noise, and would make bits of it
LEAST = 24  # bits: dark or empty pictures have fewer, and look the same whatever they are of
LOOKS, SIDE, LOW = 3, 32, 8  # pictures in a strip; their side when they are compared; coefficients a side
BITS = LOOKS * LOW * LOW
BLOCK = 1 << 20  # bytes of a file that are read at a time


class _Look(NamedTuple):
    bits: int
    row: Row


def picture_hash(strip: Path) -> str | None:
    """48 hex digits for a file of LOOKS pictures side by side; None where they show too little to tell them by."""
    grey = np.asarray(cv2.imread(str(strip), cv2.IMREAD_GRAYSCALE), np.uint8)
    bits: list[bool] = []
    for picture in np.split(grey, LOOKS, axis=1):
        small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
        low = cv2.dct(small)[:LOW, :LOW].reshape(-1)
        bits += list(low > np.median(low[1:]) + LEVEL)  # the first one is the brightness
    if sum(bits) < LEAST:
        return None
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):0{BITS // 4}x}"


def content(files: Iterable[Path]) -> str:
    """32 hex digits for the bytes of those of the files that exist."""
    digest = hashlib.blake2b(digest_size=16)
    for path in files:
        if path.exists():
            with open(path, "rb") as file:
                while block := file.read(BLOCK):
                    digest.update(block)
    return digest.hexdigest()


def reject(rows: list[Row], bits: int | None) -> None:
    """Reject each kept row that is the same as a better one of its set, and note which in `duplicate_of`.

    Equal content is the same always; looks are where at most `bits` of BITS differ (None: they are not compared).
    Better is the one with more source pixels, then the one that comes first in `rows`. No clip is rejected for one
    that is itself rejected.
    """
    kept = [row for row in rows if row["status"] == KEPT]
    order = sorted(range(len(kept)), key=lambda at: (-(kept[at].get("pixels") or 0), at))
    same: dict[tuple[str, str], Row] = {}
    seen = _Seen(bits)
    for row in (kept[at] for at in order):
        key = (row["set"], row.get("content") or row["clip_id"])
        first = same.get(key)
        if first is not None and first["source_path"] != row["source_path"]:
            _drop(row, first)
            continue
        if bits is not None and row.get("picture_hash") is not None:
            near = seen.near(row)
            if near is not None:
                _drop(row, near)
                continue
            seen.add(row)
        same.setdefault(key, row)


class _Seen:
    """Looks found by the parts they share: two that differ in at most n bits share one of n + 1 parts whole."""

    def __init__(self, bits: int | None) -> None:
        self._most = bits or 0
        edges = [BITS * part // (self._most + 1) for part in range(self._most + 2)]
        self._parts = list(pairwise(edges))
        self._table: dict[tuple[int, int], list[_Look]] = {}

    def near(self, row: Row) -> Row | None:
        """The closest of those added from another source, the earliest of equals."""
        bits = int(row["picture_hash"], 16)
        best: tuple[int, Row] | None = None
        for key in self._keys(bits):
            for other in self._table.get(key, ()):
                apart = (bits ^ other.bits).bit_count()
                close = apart <= self._most and other.row["source_path"] != row["source_path"]
                if close and (best is None or apart < best[0]):
                    best = (apart, other.row)
        return best and best[1]

    def add(self, row: Row) -> None:
        bits = int(row["picture_hash"], 16)
        for key in self._keys(bits):
            self._table.setdefault(key, []).append(_Look(bits, row))

    def _keys(self, bits: int) -> list[tuple[int, int]]:
        return [(low, bits >> low & (1 << high - low) - 1) for low, high in self._parts]


def _drop(row: Row, other: Row) -> None:
    row |= {"status": REJECTED, "reason": REASON, "duplicate_of": other["clip_id"]}

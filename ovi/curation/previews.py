"""A few small clips to look at and listen to: some of what is kept, some for each reason to leave clips out.

What is packed is read from its members; of a clip that was left out the file is read again, if the clip lies near its
beginning. It decides nothing and writes nothing.
"""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovi.config import Clip
from ovi.curation import packed
from ovi.curation.manifest import KEPT, Row
from ovi.errors import OviError
from ovi.media import cut, decode
from ovi.media.encode import write_clip, write_m4a
from ovi.media.probe import probe
from ovi.media.remote import reached
from ovi.media.tape import Tape

PLAYED = 2  # clips of each group
NEAR = 60  # s into its source that a clip may begin to be read again
SIDE = 128  # pixels of the shorter side, at most
Media = tuple[NDArray[np.uint8] | None, NDArray[np.float32]]


def chosen(rows: list[Row]) -> list[Row]:
    """The rows that are shown: PLAYED of each set that is kept and of each reason, spread over those that can be."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.get("clip_id") and (row["status"] == KEPT or Fraction(row["start"]) < NEAR):
            group = ("", row["set"]) if row["status"] == KEPT else (row["reason"], "av" if row.get("frames") else "")
            groups.setdefault(group, []).append(row)
    return [group[at * len(group) // PLAYED] for group in groups.values() for at in range(min(PLAYED, len(group)))]


def make(rows: list[Row], members: packed.Members, files: dict[str, str], clip: Clip) -> dict[str, bytes]:
    """clip_id -> MP4 or M4A of each row whose clip can be read; `files` says where a source lies."""
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            try:
                pictures, sound = _packed(row, members) or _read_again(row, files[row["source_path"]], clip)
            except (OviError, KeyError):  # gone or damaged since: the page has one player less
                continue
            path = Path(folder) / ("a.m4a" if pictures is None else "a.mp4")
            if pictures is None:
                write_m4a(path, sound, row["sample_rate"])
            else:
                write_clip(path, pictures, row["fps"], sound, row["sample_rate"], crf=24, preset="ultrafast")
            found[row["clip_id"]] = path.read_bytes()
    return found


def _packed(row: Row, members: packed.Members) -> Media | None:
    if not any(f"{row['clip_id']}.{kind}" in members for kind in packed.SOUNDS):
        return None
    pictures = packed.frames(members, row) if row.get("frames") else None
    return None if pictures is None else _small(pictures), packed.sound(members, row)


def _read_again(row: Row, file: str, clip: Clip) -> Media:
    place, start = reached(file), Fraction(row["start"])
    info, end = probe(place), start + Fraction(row["samples"], row["sample_rate"])
    heard = Tape(decode.sound(place, info)).between(start, end)
    sound = cut.window(heard, start, row["sample_rate"], row["samples"])
    if not row.get("frames"):
        return None, sound
    shown = (frame.within(4 * SIDE * SIDE) for frame in decode.frames(place, info) if frame.end > start)
    return _small(cut.pictures(shown, start, clip.fps, row["frames"], file)), sound


def _small(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pictures.shape[1:3]
    shrink = min(1.0, SIDE / min(height, width))
    size = (max(2, round(width * shrink)), max(2, round(height * shrink)))
    return np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures])

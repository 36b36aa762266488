"""The clip manifest: a Parquet file with one row per candidate clip. Rows never vanish; they say why they are out.

A score that could not be computed is null and a `*_reason` says why; `*_by` names what computed it. Equal rows give
equal bytes. It knows no media and applies no thresholds.
Try it: `python -c "from ovi.curation import manifest as m; print(m.rows('data/clips/manifest.parquet')[0])"`.
"""

from __future__ import annotations

import hashlib
import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ovi import storage
from ovi.errors import OviError

VERSION = 1  # of how a clip is cut and prepared; part of its name
SETS = ("av", "pretrain", "finetune")
SPLITS = ("train", "val", "test")
KEPT, REJECTED, ERROR = STATUSES = ("kept", "rejected", "error")

Row = dict[str, Any]

_TEXT, _COUNT, _SCORE = pa.string(), pa.int64(), pa.float64()
COLUMNS: dict[str, pa.DataType] = {
    # what became of it
    "clip_id": _TEXT, "set": _TEXT, "split": _TEXT, "status": _TEXT, "reason": _TEXT, "message": _TEXT,
    "duplicate_of": _TEXT,  # the clip that it is the same as; the path of a file where all of a file is
    # where it comes from; null where nobody said; path relative to the corpus folder where the file lies in it
    "source_path": _TEXT, "source_sha256": _TEXT, "source_bytes": _COUNT, "licence": _TEXT, "provenance": _TEXT,
    "attribution": _TEXT,
    "scene": _TEXT, "planted": _TEXT, "events": pa.list_(_SCORE),  # events: s from the clip's start
    # where it lies: start in s as an exact fraction; sizes in pixels of what is packed; crop is w:h:x:y of the source
    "start": _TEXT, "frames": _COUNT, "fps": _COUNT, "samples": _COUNT, "sample_rate": _COUNT,
    "width": _COUNT, "height": _COUNT, "crop": _TEXT,
    # the source's streams
    "source_container": _TEXT, "source_video_codec": _TEXT, "source_pix_fmt": _TEXT, "source_width": _COUNT,
    "source_height": _COUNT, "source_rotation": _COUNT, "source_rate": _TEXT, "source_variable_rate": pa.bool_(),
    "source_seconds": _SCORE, "source_cuts": _COUNT,
    "source_audio_codec": _TEXT, "source_audio_rate": _COUNT, "source_channels": _COUNT,
    # what its bytes are: hashes of content and of pictures, how it is coded and how true that is (null: exactly)
    "content": _TEXT, "picture_hash": _TEXT, "picture_hash_by": _TEXT, "coding": _TEXT, "psnr_db": _SCORE,
    # scores
    "pixels": _COUNT,  # of the source, inside its margins
    "picture_rate": _SCORE, "unheard_s": _SCORE,  # different pictures a second; how long its source has no sound
    "motion": _SCORE, "change": _SCORE, "brightness": _SCORE, "motion_by": _TEXT,
    "cut_score": _SCORE, "cut_by": _TEXT,
    "flow": _SCORE, "flow_by": _TEXT, "flow_reason": _TEXT,  # motion as a network sees it
    "faces": _COUNT, "faces_by": _TEXT, "faces_reason": _TEXT,
    "aesthetic_min": _SCORE, "aesthetic_mean": _SCORE, "aesthetic_by": _TEXT, "aesthetic_reason": _TEXT,
    "volume_db": _SCORE, "peak_db": _SCORE,
    "sync_offset_ms": _SCORE, "sync_score": _SCORE, "sync_at_zero": _SCORE, "sync_by": _TEXT,
    "face_tracks": _COUNT, "lip_offset_ms": _SCORE, "lip_confidence": _SCORE, "lip_distance": _SCORE,
    "lip_masked_offset_ms": _SCORE, "lip_masked_confidence": _SCORE, "lip_by": _TEXT, "lip_reason": _TEXT,
    "sync": _TEXT, "sync_reason": _TEXT,
    "sound_shift_ms": _COUNT,  # how much later than the pictures the sound was taken; its scores are those after it
    "caption": _TEXT, "caption_by": _TEXT, "caption_reason": _TEXT,
    "caption_input_tokens": _COUNT, "caption_output_tokens": _COUNT,
    # where its bytes are, kept or once kept: shard file, and per member the offset and length in it
    "shard": _TEXT, "frames_offset": _COUNT, "frames_length": _COUNT, "pcm_offset": _COUNT, "pcm_length": _COUNT,
    "json_offset": _COUNT, "json_length": _COUNT,
}  # fmt: skip
PLACE = ("shard", *(f"{kind}_{what}" for kind in ("frames", "pcm", "json") for what in ("offset", "length")))
SCHEMA = pa.schema(list(COLUMNS.items()))


def clip_id(set_name: str, source_sha256: str, start: Fraction, length: int, shift: Fraction = Fraction(0)) -> str:
    """The clip's name, 32 hex digits: the same content cut the same way has the same name everywhere.

    `length` is in frames for av clips and in samples for the audio sets; `shift` is how much later the sound begins.
    """
    words = f"{VERSION}\0{set_name}\0{source_sha256}\0{start}\0{length}" + (f"\0{shift}" if shift else "")
    return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


def write(path: str | Path, rows: list[Row]) -> None:
    """Write all rows, in their order. ValueError for a column that the schema does not know."""
    for row in rows:
        if unknown := row.keys() - COLUMNS.keys():
            raise ValueError(f"manifest: no column {', '.join(sorted(unknown))}")
    table = pa.Table.from_pylist(rows, SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", version="2.6", row_group_size=1 << 16)
    storage.write_bytes(path, buffer.getvalue())


def read(path: str | Path) -> pa.Table:
    """The whole manifest. OviError in one line when it is missing or damaged."""
    data = storage.read_bytes(path)
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError):
        raise OviError(f"{path}: not a readable manifest; run the curate stage again") from None
    if table.schema.names != SCHEMA.names:
        raise OviError(f"{path}: a manifest of another version; run the curate stage again")
    return table


def rows(path: str | Path, set: str | None = None, split: str | None = None, status: str | None = KEPT) -> list[Row]:
    """Rows as dicts, in the manifest's order, filtered by equality; None does not filter."""
    wanted = {"set": set, "split": split, "status": status}
    return [
        row
        for row in read(path).to_pylist()
        if all(value is None or row[name] == value for name, value in wanted.items())
    ]

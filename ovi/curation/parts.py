"""Work that survives: sources are examined part by part, and a part is done when its file of rows is there.

    <out>-work/<key>/rows/<part>.parquet   the rows of a part, written whole: the part's marker
    <out>-work/<key>/clips/<clip_id>.*     what is left of its clips to pack (packed.py), and strips of pictures
A part's name is a hash of its sources, of the files beside them, of the settings and of this code, so that a part that
is done is done for what would be worked on now; a killed run begins again at its last part. Several processes, on one
machine or many, may each work a share of the parts in one folder.
Try it: `ovi curate --shard 0/2 && ovi curate --shard 1/2 && ovi curate`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2

from ovi.config import Settings
from ovi.curation import captions, duplicates, manifest, packed
from ovi.curation.manifest import ERROR, KEPT, Row
from ovi.curation.sources import Source, examine, failed
from ovi.errors import ConfigError
from ovi.progress import Progress

SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ROOMS = ("curation", "media", "perception")  # whose code makes rows and pixels
# Settings that scores or packed bytes depend on, and those that are asked only when all is examined.
PIXELS = ("target_pixels", "side_multiple", "coding", "pretrain_seconds", "weights", "max_shift_frames")
LATER = (
    "workers", "part_files", "shard_mib", "captions", "validation_share", "test_share", "duplicate_bits", "people",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    name: str
    sources: tuple[Source, ...]


class Work:
    """The parts of some sources under some settings, in the folder beside `out`."""

    def __init__(self, settings: Settings, sources: Sequence[Source], out: Path) -> None:
        self._settings = settings
        self._folder = out.with_name(f"{out.name}-work")
        chosen = settings.curation.model_dump(mode="json", exclude=set(LATER))
        key = _digest(manifest.VERSION, settings.clip.model_dump(mode="json"), chosen, _code())
        self.clips, self._rows = self._folder / key / "clips", self._folder / key / "rows"
        size = settings.curation.part_files
        self.parts = [_part(sources[at : at + size]) for at in range(0, len(sources), size)]

    def done(self, part: Part) -> bool:
        return self._marker(part).exists()

    def examine(self, parts: Sequence[Part], progress: Progress) -> None:
        """Do those of the parts that are not done, one after the other, each by all workers."""
        todo = [part for part in parts if not self.done(part)]
        count = sum(len(part.sources) for part in todo)
        already = sum(len(part.sources) for part in parts) - count
        if already:
            progress.note(f"{already} files were examined before and are not again")
        progress.start("curating", count, "files")
        self.clips.mkdir(parents=True, exist_ok=True)
        kept = 0
        with _Workers(self._settings, str(self.clips)) as workers:
            for part in todo:
                found: dict[int, list[Row]] = {}
                for at, rows in workers.examine(part.sources):
                    found[at] = rows
                    kept += sum(row["status"] == KEPT for row in rows)
                    progress.advance(1, kept=kept)
                manifest.write(self._marker(part), [row for at in range(len(part.sources)) for row in found[at]])

    def rows(self) -> dict[str, list[Row]]:
        """The rows of every source, by its path, when all parts are done."""
        found: dict[str, list[Row]] = {source.path: [] for part in self.parts for source in part.sources}
        for part in self.parts:
            for row in manifest.rows(self._marker(part), status=None):
                found[row["source_path"]].append(row)
        return found

    def remove(self, others: bool = False) -> None:
        """What these settings left; `others`: what other settings and older code left half done as well."""
        shutil.rmtree(self._folder if others else self.clips.parent, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()  # if nothing else is in it

    def _marker(self, part: Part) -> Path:
        return self._rows / f"{part.name}.parquet"


def share_of(text: str) -> tuple[int, int]:
    """(1, 4) of "1/4". ConfigError for anything else."""
    first, _, every = text.partition("/")
    if not (first.isdecimal() and every.isdecimal() and int(first) < int(every)):
        raise ConfigError(f"--shard: {text!r}; write it as i/n with i from 0 to n-1")
    return int(first), int(every)


def made_by(settings: Settings) -> dict[str, Any]:
    """The settings that scores and packed bytes depend on; thresholds are not among them."""
    curation = settings.curation
    return {
        "version": manifest.VERSION,
        "clip": settings.clip.model_dump(mode="json"),
        **curation.model_dump(mode="json", include=set(PIXELS)),
        "moved_sound": [curation.max_offset_frames, curation.min_confidence, curation.min_sync_score]
        if curation.max_shift_frames
        else None,
    }


class _Workers:
    """Fresh processes of one thread each: sources are worked on in parallel, not their arrays."""

    def __init__(self, settings: Settings, scratch: str) -> None:
        self._settings, self._scratch = settings, scratch
        self._count = settings.curation.workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def examine(self, sources: Sequence[Source]) -> Iterator[tuple[int, list[Row]]]:
        """(place, rows) of each source as it is done. When a process dies, the sources that were under way are done
        again one by one, so that only the one that kills its process is lost."""
        waiting, suspects = deque(range(len(sources))), deque[int]()
        while waiting or suspects:
            alone = bool(suspects)
            queue = suspects if alone else waiting
            most = 1 if alone else self._count + 1  # under way: one more than workers, so that none waits
            under_way: dict[Future[list[Row]], int] = {}
            try:
                while queue or under_way:
                    while queue and len(under_way) < most:
                        under_way[self._submit(sources[queue[0]])] = queue[0]
                        queue.popleft()
                    for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                        rows = done.result()
                        yield under_way.pop(done), rows
            except BrokenProcessPool:
                self._pool = None
                if not alone:
                    suspects.extend(sorted(under_way.values()))
                    continue
                for at in under_way.values():
                    yield at, failed(sources[at], ERROR, "crashed", "the process that examined it died")

    def _submit(self, source: Source) -> Future[list[Row]]:
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, spawn, cv2.setNumThreads, (1,))
        with _single_threaded():  # processes are started when there is something to do
            return self._pool.submit(_examined, source, self._settings, self._scratch)


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in SINGLE}
    os.environ.update(SINGLE)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _examined(source: Source, settings: Settings, scratch: str) -> list[Row]:
    """A source's rows with everything in them that comes from its file and from the files beside it."""
    rows = examine(source, settings, scratch)
    beside = _beside(source)
    for row in rows:
        row |= beside
        if row.get("clip_id") is not None:
            row |= _finished(row, settings, Path(scratch))
    return rows


def _finished(row: Row, settings: Settings, scratch: Path) -> Row:
    """What is computed of the files that a clip left: its fingerprints; and they are coded, where that is asked for."""
    found: Row = {}
    strip = scratch / f"{row['clip_id']}.png"
    if row["set"] == "av" and strip.exists():
        found |= {"picture_hash": duplicates.picture_hash(strip), "picture_hash_by": duplicates.METHOD}
    if row["status"] != KEPT:
        return found
    found |= {"content": duplicates.content(scratch / f"{row['clip_id']}.{kind}" for kind in ("frames", "pcm"))}
    found |= {"coding": settings.curation.coding}
    if settings.curation.coding != packed.RAW:
        found["psnr_db"] = packed.code(scratch, row)
    return found


def _beside(source: Source) -> Row:
    """Where it comes from and whom to name, when a sidecar says so."""
    try:
        said = captions.read_sidecar(Path(source.file))
    except (captions.CaptionError, RecursionError):  # which its rows already say
        return {}
    origin = source.provenance if source.provenance is not None else said.get("source")
    return {name: None if value is None else str(value) for name, value in
            (("provenance", origin), ("attribution", said.get("attribution")))}  # fmt: skip


def _part(sources: Sequence[Source]) -> Part:
    described = [
        [{name: value for name, value in asdict(source).items() if name != "file"}, _sidecar(Path(source.file))]
        for source in sources
    ]
    return Part(_digest(described), tuple(sources))


def _sidecar(file: Path) -> str | None:
    for path in (file.with_suffix(".json"), file.with_suffix(".txt")):
        with contextlib.suppress(OSError):
            return hashlib.sha256(path.read_bytes()).hexdigest()
    return None


def _digest(*values: Any) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


@cache
def _code() -> str:
    """A hash of the code that makes rows and pixels: what other code left half done is not gone on with."""
    root = Path(__file__).parents[1]
    files = sorted(path for room in ROOMS for path in (root / room).glob("*.py"))
    return _digest([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])

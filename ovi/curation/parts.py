"""Work that survives: sources are examined part by part, and a part is done when its file of rows is there.

    <work>/<key>/rows/<part>.parquet   the rows of a part, written whole and last: the part's marker
    <work>/<key>/clips/<clip_id>.*     what is left of its clips to pack (packed.py), and strips of pictures
<work> is <curation.work>/clips-work, or <out>-work without that. A part's name is a hash of its sources and of the
files beside them, the key one of the settings and of this code, so that a part that is done is done for what would be
worked on now; a killed run begins again at its last part. Several processes, on one machine or many, may each work a
share of the parts in one folder or bucket.
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
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import cv2

from ovi import storage
from ovi.config import Settings
from ovi.curation import manifest, place
from ovi.curation.manifest import ERROR, KEPT, Row
from ovi.curation.sources import Source, examine, failed
from ovi.errors import ConfigError
from ovi.progress import Progress

SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
ROOMS = ("curation", "media", "perception")  # whose code makes rows and pixels
# Settings that scores or packed bytes depend on, and those that are asked only when all is examined.
PIXELS = ("target_pixels", "side_multiple", "coding", "pretrain_seconds", "weights", "max_shift_frames")
LATER = (
    "workers", "work", "part_files", "shard_mib", "captions", "validation_share", "test_share", "duplicate_bits",
    "people",
)  # fmt: skip


def beside(settings: Settings, out: str, what: str) -> str:
    """Where what outlives a run that is killed is kept: in `curation.work`, else beside the address `out`."""
    work = settings.curation.work
    return f"{place.address(work)}/clips-{what}" if work else f"{out}-{what}"


@dataclass(frozen=True)
class Part:
    sources: tuple[Source, ...]

    @cached_property
    def name(self) -> str:
        """A hash of the sources and of what lies beside them, which is read for it."""
        beside = [source.sidecar for source in self.sources]
        with ThreadPoolExecutor(place.AT_ONCE) as pool:
            said = pool.map(lambda address: address and storage.sha256(address), beside)
            pairs = list(zip(self.sources, said, strict=True))
        return _digest([asdict(source) | {"file": None, "sidecar": digest} for source, digest in pairs])


class Work:
    """The parts of some sources under some settings, beside the address `out`."""

    def __init__(self, settings: Settings, sources: Sequence[Source], out: str) -> None:
        self._settings = settings
        self._all = beside(settings, out, "work")
        chosen = settings.curation.model_dump(mode="json", exclude=set(LATER))
        key = _digest(manifest.VERSION, settings.clip.model_dump(mode="json"), chosen, _code())
        self._mine = f"{self._all}/{key}"
        self.clips, self._rows = f"{self._mine}/clips", f"{self._mine}/rows"
        size = settings.curation.part_files
        self.parts = [Part(tuple(sources[at : at + size])) for at in range(0, len(sources), size)]

    def done(self) -> set[str]:
        """Names of the parts that are."""
        names = (marker.rpartition("/")[2] for marker in storage.list_files(self._rows))
        return {name.removesuffix(".parquet") for name in names if not name.startswith(".")}  # nor half written

    def examine(self, parts: Sequence[Part], progress: Progress) -> None:
        """Do those of the parts that are not done, one after the other, each by all workers."""
        done = self.done()
        todo = [part for part in parts if part.name not in done]
        count = sum(len(part.sources) for part in todo)
        already = sum(len(part.sources) for part in parts) - count
        if already:
            progress.note(f"{already} files were examined before and are not again")
        progress.start("curating", count, "files")
        if not storage.is_remote(self.clips):
            Path(self.clips).mkdir(parents=True, exist_ok=True)
        kept = 0
        with _Workers(self._settings, self.clips) as workers:
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
        where = self._all if others else self._mine
        if storage.is_remote(where):
            place.remove(storage.list_files(where))
            return
        shutil.rmtree(where, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(self._all).rmdir()  # if nothing else is in it

    def _marker(self, part: Part) -> str:
        return f"{self._rows}/{part.name}.parquet"


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

    def __init__(self, settings: Settings, clips: str) -> None:
        self._settings, self._clips = settings, clips
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
            return self._pool.submit(examine, source, self._settings, self._clips)


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in SINGLE}
    os.environ.update(SINGLE)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _digest(*values: Any) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


@cache
def _code() -> str:
    """A hash of the code that makes rows and pixels: what other code left half done is not gone on with."""
    root = Path(__file__).parents[1]
    files = sorted(path for room in ROOMS for path in (root / room).glob("*.py"))
    return _digest([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])

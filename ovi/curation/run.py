"""The curate stage: a corpus folder in, a folder of clips out. Sources are examined in parallel and packed in order.

    out/manifest.parquet   one row per candidate           out/report.html    the same for eyes
    out/shards/{av,pretrain,finetune}-00000.tar + .index.json                 out/summary.json   counts
Members: `<clip_id>.frames` uint8 [T, H, W, 3], `<clip_id>.pcm` s16le mono, `<clip_id>.json`.
The number of workers changes no byte of it. A source that fails, even by killing its process, is a row.
Try it: `ovi corpus --set corpus.clips=20 --out /tmp/corpus && ovi curate --corpus /tmp/corpus --out /tmp/clips`.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2

from ovi import storage
from ovi.config import Curation, Settings
from ovi.curation import manifest, report
from ovi.curation.manifest import ERROR, KEPT, REJECTED, SETS, Row
from ovi.curation.select import assign_splits
from ovi.curation.shards import ShardWriter
from ovi.curation.sources import Source, examine, failed
from ovi.errors import ConfigError, OviError
from ovi.perception.faces import FaceCounter
from ovi.progress import Progress

SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def curate(settings: Settings, corpus: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Curate every file in corpus/index.jsonl into `out`, which is replaced; returns what summary.json holds.

    Raises ConfigError for networks this version does not run, OviError for a missing corpus, for an `out` that holds
    something else, and, after the manifest and the report are written, when nothing is kept.
    """
    _check_networks(settings.curation)
    sources = _sources(corpus)
    _check_out(out)
    with storage.atomic_folder(out) as folder:
        scratch = folder / "scratch"
        scratch.mkdir()
        rows = _examined(sources, settings, scratch, progress)
        assign_splits(rows, settings.curation)
        _pack(rows, folder / "shards", scratch, settings.curation.shard_mib << 20)
        manifest.write(folder / "manifest.parquet", rows)
        summary = _summary(sources, rows)
        storage.write_json(folder / "summary.json", summary)
        storage.write_bytes(folder / "report.html", report.page(settings, rows, summary, scratch).encode())
        shutil.rmtree(scratch)
    if not any(row["status"] == KEPT for row in rows):
        reasons = ", ".join(f"{reason} {n}" for reason, n in Counter(row["reason"] for row in rows).most_common())
        raise OviError(f"{corpus}: no clip was kept ({reasons}); {out / 'report.html'} says why for each")
    progress.result(clips=str(out), **{name: sum(summary["kept"][name].values()) for name in SETS})
    return summary


def _check_networks(curation: Curation) -> None:
    weights = curation.weights
    for name in ("raft", "syncnet", "clip", "aesthetic"):
        if getattr(weights, name) is not None:
            raise ConfigError(f"curation.weights.{name}: this version does not run that network; set it to null")
    if weights.yunet is not None:
        FaceCounter(weights.yunet)


def _check_out(out: Path) -> None:
    if out.exists() and not (out / "manifest.parquet").exists() and (not out.is_dir() or any(out.iterdir())):
        raise OviError(f"{out}: holds something else than clips and would be replaced; choose another folder")


def _sources(corpus: Path) -> list[Source]:
    """The corpus index, sorted by path."""
    index = corpus / "index.jsonl"
    if not index.is_file():
        raise OviError(f"{index}: no such file; run `ovi corpus --out {corpus}` first")
    found = []
    for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
        try:
            item = json.loads(line)
            known = {name: item[name] for name in ("path", "sha256", "bytes", "kind", "licence", "provenance")}
        except (ValueError, KeyError, TypeError):
            raise OviError(f"{index}:{number}: not an entry of a corpus index; run `ovi corpus` again") from None
        found.append(Source(file=str((corpus / known["path"]).resolve()), **known))
    if not found:
        raise OviError(f"{index}: lists no files; there is nothing to curate")
    return sorted(found, key=lambda source: source.path)


def _examined(sources: list[Source], settings: Settings, scratch: Path, progress: Progress) -> list[Row]:
    """All rows, in the order of the sources. The second source with the same content is a duplicate."""
    results: dict[int, list[Row]] = {}
    first: dict[str, str] = {}
    fresh: list[int] = []
    for at, source in enumerate(sources):
        if source.sha256 in first:
            results[at] = failed(source, REJECTED, "duplicate", f"same content as {first[source.sha256]}")
        else:
            first[source.sha256] = source.path
            fresh.append(at)
    progress.start("curating", len(fresh), "files")
    kept = 0
    for at, rows in _in_processes(sources, fresh, settings, str(scratch)):
        results[at] = rows
        kept += sum(row["status"] == KEPT for row in rows)
        progress.advance(1, kept=kept)
    return [row for at in range(len(sources)) for row in results[at]]


def _in_processes(
    sources: list[Source], todo: list[int], settings: Settings, scratch: str
) -> Iterator[tuple[int, list[Row]]]:
    """(place, rows) of each source as it is done. When a process dies, the sources that were under way are done again
    one by one, so that only the one that kills its process is lost."""
    waiting, suspects = deque(todo), deque[int]()
    while waiting or suspects:
        alone = bool(suspects)
        queue = suspects if alone else waiting
        workers = 1 if alone else settings.curation.workers
        most = 1 if alone else workers + 1  # under way: one more than workers, so that none waits
        under_way: dict[Future[list[Row]], int] = {}
        with _pool(workers) as pool:
            try:
                while queue or under_way:
                    while queue and len(under_way) < most:
                        under_way[pool.submit(examine, sources[queue[0]], settings, scratch)] = queue[0]
                        queue.popleft()
                    for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                        rows = done.result()
                        yield under_way.pop(done), rows
            except BrokenProcessPool:
                if not alone:
                    suspects.extend(sorted(under_way.values()))
                    continue
                for at in under_way.values():
                    yield at, failed(sources[at], ERROR, "crashed", "the process that examined it died")


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes of one thread each: sources are worked on in parallel, not their arrays."""
    before = {name: os.environ.get(name) for name in SINGLE}
    os.environ.update(SINGLE)
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), cv2.setNumThreads, (1,)) as pool:
            yield pool
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _pack(rows: list[Row], shards: Path, scratch: Path, max_bytes: int) -> None:
    """Move the kept clips from scratch into shards and note their places in the rows."""
    for name in SETS:
        with ShardWriter(shards / name, max_bytes) as writer:
            for row in rows:
                if row["set"] == name and row["status"] == KEPT:
                    _pack_clip(row, writer, scratch)


def _pack_clip(row: Row, writer: ShardWriter, scratch: Path) -> None:
    members = [kind for kind in ("frames", "pcm") if (scratch / f"{row['clip_id']}.{kind}").exists()]
    described = {
        key: row.get(key) for key in ("clip_id", "set", "caption", "scene", "events", "samples", "sample_rate")
    }
    if "frames" in members:
        described |= {key: row[key] for key in ("width", "height", "frames", "fps")}
    for kind in members:
        path = scratch / f"{row['clip_id']}.{kind}"
        place = writer.add(path.name, path.read_bytes())
        row |= {"shard": place.shard, f"{kind}_offset": place.offset, f"{kind}_length": place.length}
        path.unlink()
    place = writer.add(f"{row['clip_id']}.json", json.dumps(described, sort_keys=True, ensure_ascii=False).encode())
    row |= {"json_offset": place.offset, "json_length": place.length}


def _summary(sources: list[Source], rows: list[Row]) -> dict[str, Any]:
    def counted(*columns: str, status: str | None = None) -> dict[str, dict[str, int]]:
        chosen = [row for row in rows if status is None or row["status"] == status]
        table: dict[str, dict[str, int]] = {}
        for row in chosen:
            inner = table.setdefault(str(row.get(columns[0])), {})
            inner[str(row.get(columns[1]))] = inner.get(str(row.get(columns[1])), 0) + 1
        return table

    planted = [{**row, "verdict": row["reason"] or row["status"]} for row in rows if row.get("planted")]
    sizes = Counter(f"{row['width']}x{row['height']}" for row in rows if row["set"] == "av" and row["status"] == KEPT)
    kept = counted("set", "split", status=KEPT)
    return {
        "sources": len(sources),
        "candidates": len(rows),
        "kept": {name: kept.get(name, {}) for name in SETS},
        "rejected": counted("set", "reason", status=REJECTED),
        "errors": counted("set", "reason", status=ERROR),
        "planted": {
            str(what): dict(Counter(row["verdict"] for row in planted if row["planted"] == what))
            for what in sorted({row["planted"] for row in planted})
        },
        "sizes": dict(sizes),
    }

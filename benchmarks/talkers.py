"""Does curation reject talkers whose sound is off by more than three frames, and keep the others?

Writes talkers (a mouth that opens with the voice; every other one with grain and hiss) as MP4 files with their sound
off by -15 to 15 frames of 40 ms, curates them as `ovi curate` does, and compares every row with what was planted.
SyncNet judges where its weights and YuNet's are named by `--set`, but a drawn mouth is not a face to them: what is
measured here is the estimator that needs no weights. Figures by kind of picture are in the results.
Try it: `.venv/bin/python benchmarks/talkers.py --talkers 62`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ovi import config, storage
from ovi.config import Settings
from ovi.curation import manifest
from ovi.curation.manifest import KEPT, Row
from ovi.curation.run import curate
from ovi.curation.sync import FRAME_MS
from ovi.media.encode import write_clip
from ovi.progress import PlainLines
from ovi.synthetic.talkers import FPS, RATE, talker

ROOT = Path(__file__).resolve().parents[1]
LEAST, KEPT_MIN, FAR_FRAMES = 500, 0.99, 3


def main() -> int:
    options = _options()
    sets = [*options.sets, f"curation.workers={options.workers}"]
    settings = config.load(ROOT / "params.yaml", options.profile, sets)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        planted = write(Path(folder) / "corpus", options.talkers, options.workers)
        rows = curated(settings, Path(folder))
    found = [(planted[row["source_path"]], row) for row in rows]
    results: dict[str, Any] = {
        "command": " ".join(sys.argv), "talkers": options.talkers, "seconds": time.monotonic() - began,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__},
        "judged_by": dict(Counter(str(row["lip_by"] or row["sync_by"]) for _, row in found)),
        "kinds": {kind: figures([(fact, row) for fact, row in found if fact["kind"] == kind])
                  for kind in sorted({fact["kind"] for fact, _ in found})},
        "wrong": [fact | _seen(row) for fact, row in found if _wrong(fact, row)],
    }  # fmt: skip
    for kind, known in results["kinds"].items():
        print(
            f"{kind}: {known['talkers']} talkers, timing off by {known['error_ms_median']:.1f} ms (median), "
            f"{known['error_ms_99']:.1f} ms (99 of 100), score at least {known['score_least']:.2f}"
        )
    for wrong in results["wrong"]:
        print(f"wrong: {wrong}")
    bars = _bars(found, options.talkers)
    results["bars"] = [{"name": name, "passed": passed, "figure": figure} for name, passed, figure in bars]
    for name, passed, figure in bars:
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}")
    storage.write_json(options.out or ROOT / "benchmarks/results/talkers.json", results)
    failed = sum(not passed for _, passed, _ in bars)
    print(f"{len(bars) - failed} passed, {failed} failed")
    return 1 if failed else 0


def write(corpus: Path, count: int, workers: int) -> dict[str, dict[str, Any]]:
    """A corpus folder of `count` talkers; what was planted in each, by its path."""
    corpus.mkdir(parents=True)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(_written, range(count), [corpus] * count, chunksize=8))
    lines = [line for line, _ in made]
    (corpus / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {line["path"]: fact for line, fact in made}


def curated(settings: Settings, folder: Path) -> list[Row]:
    """Every row of the manifest that curation writes."""
    progress = PlainLines(30.0)
    curate(settings, folder / "corpus", folder / "clips", progress)
    progress.close()
    return manifest.rows(folder / "clips/manifest.parquet", status=None)


def figures(found: list[tuple[dict[str, Any], Row]]) -> dict[str, float]:
    errors = np.array([abs(row["sync_offset_ms"] - fact["late_ms"]) for fact, row in found if row["clip_id"]])
    scores = [row["sync_score"] for _, row in found if row["clip_id"]]
    return {
        "talkers": len(found), "wrong": sum(_wrong(fact, row) for fact, row in found),
        "error_ms_median": float(np.median(errors)), "error_ms_99": float(np.percentile(errors, 99)),
        "error_ms_most": float(errors.max()), "score_least": min(scores),
    }  # fmt: skip


def _bars(found: list[tuple[dict[str, Any], Row]], count: int) -> list[tuple[str, bool, str]]:
    far = [(fact, row) for fact, row in found if abs(fact["late_ms"]) > FAR_FRAMES * FRAME_MS]
    near = [(fact, row) for fact, row in found if abs(fact["late_ms"]) <= FAR_FRAMES * FRAME_MS]
    out, stay = (sum(not _wrong(fact, row) for fact, row in part) for part in (far, near))
    off = [(fact["late_ms"], row["sync_offset_ms"]) for fact, row in found if fact["late_ms"] and row["clip_id"]]
    right = sum(late * measured > 0 for late, measured in off)
    return [
        (f"at least {LEAST} talkers, each with one row", len(found) == count >= LEAST, f"{len(found)} of {count}"),
        (f"sound off by more than {FAR_FRAMES} frames is rejected", out == len(far), f"{out} of {len(far)}"),
        (f"at least {KEPT_MIN:.0%} of the others are kept", stay >= KEPT_MIN * len(near), f"{stay} of {len(near)}"),
        ("late sound is measured as late, early as early", right == len(off), f"{right} of {len(off)}"),
    ]


def _wrong(fact: dict[str, Any], row: Row) -> bool:
    far = abs(fact["late_ms"]) > FAR_FRAMES * FRAME_MS
    return bool(row["reason"] != "out_of_sync" if far else row["status"] != KEPT)


def _seen(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("source_path", "reason", "message", "sync_offset_ms", "sync_score")}


def _written(number: int, corpus: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its line of a corpus index, and what was planted in it. Runs in a worker process."""
    one = talker(number)
    path = corpus / f"{number:05d}.mp4"
    write_clip(path, one.frames, FPS, one.audio, RATE)
    line = {
        "path": path.name, "sha256": storage.sha256(path), "bytes": path.stat().st_size, "kind": "av",
        "licence": "CC0-1.0", "provenance": f"ovi.synthetic.talkers {number}",
    }  # fmt: skip
    return line, {"late_ms": one.late_ms, "kind": "poor" if one.poor else "clean"}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Curate talkers whose sound is off by known times.")
    parser.add_argument("--talkers", type=int, default=620, help="how many; 31 have one of every offset")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--profile", default="tiny", help="of params.yaml")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="one setting, as section.key=value")
    parser.add_argument("--out", type=Path, help="results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

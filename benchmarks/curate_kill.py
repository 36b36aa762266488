"""Does curation survive being killed? SIGKILL at random points, the same command again, equal bytes every time.

Renders a small corpus and curates it once without a disturbance. Then, at each of --points points drawn from a seed: a
fresh run is killed with all its processes, what it left is looked at, and the same command is run to its end. The
result must have the bytes of the undisturbed one, and what had been worked on but not marked as done must be one part
at most. Before that: four workers, and shares worked one by one, give those bytes too. The results keep the last
figures of each coding.
Try it: `.venv/bin/python benchmarks/curate_kill.py` (about ten minutes), or with `--points 5`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ovi import storage
from ovi.curation import manifest

ROOT = Path(__file__).resolve().parents[1]
PART = 2  # files: so that there are many parts


class Stage:
    """`ovi curate` of one corpus under one set of words, in processes of its own."""

    def __init__(self, folder: Path, coding: str) -> None:
        self.corpus, self._log = folder / "corpus", folder / "log.txt"
        self._sets = [f"curation.part_files={PART}", f"curation.coding={coding}"]

    def start(self, out: Path, *words: str, workers: int = 2) -> subprocess.Popen[bytes]:
        sets = [word for one in (*self._sets, f"curation.workers={workers}") for word in ("--set", one)]
        command = [sys.executable, "-m", "ovi.cli", "curate", "--corpus", str(self.corpus), "--out", str(out)]
        command += ["--params", str(ROOT / "params.yaml"), *sets, *words]
        with open(self._log, "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def run(self, out: Path, *words: str, workers: int = 2) -> float:
        """Seconds of a run to its end."""
        began = time.monotonic()
        if code := self.start(out, *words, workers=workers).wait():
            sys.exit(f"ovi curate ended with {code}: {self._log.read_text()[-2000:]}")
        return time.monotonic() - began


class Bars:
    def __init__(self) -> None:
        self.done: list[dict[str, object]] = []

    def check(self, name: str, passed: bool, figure: object) -> None:
        self.done.append({"name": name, "passed": passed, "figure": str(figure)})
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}", flush=True)


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--points", type=int, default=50)
    asked.add_argument("--clips", type=int, default=6, help="and as many sounds")
    asked.add_argument("--planted", action="store_true", help="add the files that are bad on purpose")
    asked.add_argument("--coding", default="raw", choices=["raw", "h264"])
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "curate_kill.json")
    chosen = asked.parse_args()
    bars = Bars()
    with tempfile.TemporaryDirectory(prefix="ovi-kill-") as folder:
        stage = Stage(Path(folder), chosen.coding)
        sets = [
            f"corpus.clips={chosen.clips}",
            f"corpus.audio_files={chosen.clips}",
            f"corpus.planted={chosen.planted}",
        ]
        words = [word for one in sets for word in ("--set", one)]
        command = [sys.executable, "-m", "ovi.cli", "corpus", "--params", str(ROOT / "params.yaml"), *words]
        subprocess.run([*command, "--out", str(stage.corpus)], check=True, capture_output=True)
        _undisturbed(stage, Path(folder), bars)
        _killed(stage, Path(folder), bars, chosen.points, random.Random(chosen.seed))
    failed = sum(not bar["passed"] for bar in bars.done)
    print(f"{len(bars.done) - failed} passed, {failed} failed")
    facts = {"cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    asked_for = {name: getattr(chosen, name) for name in ("points", "clips", "planted", "seed")}
    results = storage.read_json(chosen.results) if chosen.results.exists() else {}
    storage.write_json(chosen.results, results | {chosen.coding: {"bars": bars.done, "facts": facts, **asked_for}})
    return 1 if failed else 0


def _undisturbed(stage: Stage, folder: Path, bars: Bars) -> None:
    seconds = stage.run(folder / "whole", workers=1)
    wanted = digests(folder / "whole")
    bars.check("a run to its end leaves no work folder", not (folder / "whole-work").exists(), f"{seconds:.1f} s")
    stage.run(folder / "four", workers=4)
    bars.check("1 and 4 workers give the same bytes", digests(folder / "four") == wanted, f"{len(wanted)} files")
    for share in (2, 0, 1):
        stage.run(folder / "shares", "--shard", f"{share}/3")
    unwritten = not (folder / "shares").exists()
    stage.run(folder / "shares")
    same = unwritten and digests(folder / "shares") == wanted
    bars.check("three shares worked one by one and put together give them too", same, f"{len(wanted)} files")
    steps = storage.read_json(folder / "whole" / "summary.json")["steps"]
    adds_up = all(step["inputs"] == step["kept"] + step["rejected"] + step["errors"] for step in steps)
    words = ", ".join(f"{s['step']} {s['inputs']} = {s['kept']} + {s['rejected']} + {s['errors']}" for s in steps)
    bars.check("inputs = kept + rejected + errors at every step", adds_up, words)


def _killed(stage: Stage, folder: Path, bars: Bars, points: int, draw: random.Random) -> None:
    wanted, rows = digests(folder / "whole"), manifest.rows(folder / "whole" / "manifest.parquet", status=None)
    source = {row["clip_id"]: row["source_path"] for row in rows if row["clip_id"]}
    files = len({row["source_path"] for row in rows})
    out, work = folder / "clips", folder / "clips-work"
    usual = stage.run(folder / "timed")
    redone: list[int] = []
    different: list[list[object]] = []
    halves, landed = 0, Counter[str]()
    for point in range(points):
        with _old_result(folder, out, point % 2 == 1):  # every other time there is one to replace
            before = digests(out)
            process = stage.start(out)
            time.sleep(draw.uniform(0, usual))
            ended = process.poll() is not None
            if not ended:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            landed["after its end" if ended else _where(work, files)] += 1
            halves += out.exists() and digests(out) not in (before, wanted)
            redone.append(len(_unmarked(work, source)))
            stage.run(out)
            found = digests(out)
            if found != wanted or work.exists():
                different.append([point, *(name for name in found | wanted if found.get(name) != wanted.get(name))])
    bars.check(
        f"killed at {points} random points and run again: the same bytes", not different,
        f"{points - len(different)} of {points}; landed {json.dumps(dict(sorted(landed.items())))} {different or ''}",
    )  # fmt: skip
    bars.check("at no point a half-written result", halves == 0, f"{halves} of {points}")
    most = max(redone, default=0)
    bars.check("worked on again: one part at most", most <= PART, f"{most} files at most, a part has {PART}")


@contextmanager
def _old_result(folder: Path, out: Path, there: bool) -> Iterator[None]:
    if there:
        shutil.copytree(folder / "whole", out)
        (out / "report.html").write_text("an older one")
    yield
    shutil.rmtree(out)


def _where(work: Path, files: int) -> str:
    done = len(list(work.glob("*/rows/*.parquet")))
    return (
        "before any part" if not done else "between parts" if done * PART < files - PART else "while putting together"
    )


def _unmarked(work: Path, source: dict[str, str]) -> set[str]:
    """Sources of which something was written, but whose part is not done."""
    marked = {
        row["source_path"] for part in work.glob("*/rows/*.parquet") for row in manifest.rows(part, status=None)
    }  # fmt: skip
    left = {source[path.name.partition(".")[0]] for path in work.glob("*/clips/*")}
    return left - marked


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


if __name__ == "__main__":
    sys.exit(main())

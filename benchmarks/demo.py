"""Does `make demo` keep its promises? Fresh clones, a clean environment, one PASS or FAIL line per bar.

Clones the repository's HEAD into a temporary folder, installs, runs the demo there and looks at what it left behind:
seconds after installation, peak memory of all its processes (sum of proportional set sizes), equal bytes in two
clones, what a second run and a changed parameter re-run, what the model learned, and the served clip. It uses no
knowledge of the flow: a stage ran if the files of its outputs are new, and had to run if its entry in dvc.lock asks for
something else.
Try it: `.venv/bin/python benchmarks/demo.py` (about half an hour), or with `--clones 1`, or with `--source DIR`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet
import yaml

from ovi import storage
from ovi.evaluation.results import NOT_APPLICABLE
from ovi.media import decode
from ovi.media.audio import mean_volume_db
from ovi.media.probe import probe

ROOT = Path(__file__).resolve().parents[1]
MARK = "OVI_BENCHMARK"  # in the environment of every process that we start, however it is re-parented
PASSED_ON = ("PATH", "LANG", "TERM", "SSL_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_", "UV_")
SAMPLE_S = 3.0  # a look holds up what it looks at

SECONDS_MAX, MEMORY_MAX_GIB, AGAIN_MAX_S = 600.0, 6.0, 30.0  # the bars of the demo on two cores
DROP_MIN, AUC_MIN, P_MAX = 0.30, 0.90, 0.01
TOUCH = ("evaluation", "clips_per_scene", 20)  # the parameter that is changed, and to what
SAME_BYTES = {  # what two clones with one seed must have in common
    "manifest": ["data/clips/manifest.parquet"],
    "shards": ["data/clips/shards/*", "data/latents/**/*.tar", "data/latents/**/*.index.json"],
    "checkpoints": [
        "checkpoints/**/*.safetensors",
        "checkpoints/**/*.json",
        "models/**/*.safetensors",
        "models/**/model.json",
    ],
    "evaluation figures": ["out/evaluation/metrics.json"],
}


@dataclass(frozen=True)
class Bar:
    name: str
    passed: bool
    figure: str


@dataclass
class Bars:
    """The bars so far, each said when it is known."""

    done: list[Bar] = field(default_factory=list)

    def check(self, name: str, passed: bool, figure: object) -> None:
        self.done.append(Bar(name, passed, str(figure)))
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}", flush=True)


@dataclass(frozen=True)
class Measured:
    """One command: exit code, wall seconds, peak memory in bytes, processes left behind, the end of what it said."""

    code: int
    seconds: float
    peak: int
    left: int
    tail: str


class Clone:
    """A fresh clone in a folder of its own, with an empty home."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self._home = folder / "home"
        self._log = folder / "log.txt"
        self._home.mkdir(parents=True)
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.root)], check=True)

    def make(self, *words: str) -> Measured:
        """Run make and watch all processes that come of it."""
        token = uuid.uuid4().hex
        env = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(PASSED_ON) or name.lower().endswith("_proxy")
        }
        env |= {"HOME": str(self._home), MARK: token}
        with open(self._log, "wb") as log:
            began = time.monotonic()
            process = subprocess.Popen(
                ["make", *words], cwd=self.root, env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
            peaks: list[int] = [0]
            watcher = threading.Thread(target=_watch, args=(process, token, peaks), daemon=True)
            watcher.start()
            try:
                code = process.wait()
            except BaseException:  # we are told to stop: nothing of ours may go on without us
                for ours in _ours(token):
                    ours.kill()
                raise
            seconds = time.monotonic() - began
        watcher.join()
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-25:])
        left = list(_ours(token))
        for stray in left:
            stray.kill()
        return Measured(code, seconds, max(peaks), len(left), tail)

    def json(self, path: str) -> Any:
        return storage.read_json(self.root / path)

    def digests(self, patterns: Iterable[str]) -> dict[str, str]:
        """Relative path -> sha256 of all files that match."""
        files = {path for pattern in patterns for path in self.root.glob(pattern) if path.is_file()}
        return {path.relative_to(self.root).as_posix(): storage.sha256(path) for path in sorted(files)}

    def lock(self) -> dict[str, dict[str, Any]]:
        """What every stage last ran with: {stage: {cmd, deps, params}} of dvc.lock."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]
        return {name: {key: entry.get(key) for key in ("cmd", "deps", "params")} for name, entry in stages.items()}

    def times(self) -> dict[str, int]:
        """When the newest file among each stage's outputs was written, in ns."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]
        return {
            name: max(_newest(self.root / out["path"]) for out in entry["outs"])
            for name, entry in stages.items()
            if entry.get("outs")
        }


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    bars, began = Bars(), time.time()
    folder = Path(tempfile.mkdtemp(prefix="ovi-demo-", dir=options.work))
    results: dict[str, Any] = {"machine": _machine(), "commit": _commit(), "source": bool(options.source)}
    try:
        if options.source:
            results["runs"] = [_with_source(folder, options.source, bars)]
        else:
            results["runs"] = _synthetic(folder, options.clones, bars)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    results |= {"minutes": round((time.time() - began) / 60, 1), "bars": [asdict(bar) for bar in bars.done]}
    name = "demo_source" if options.source else "demo"  # one does not write over the other
    storage.write_json(options.out or ROOT / f"benchmarks/results/{name}.json", results)
    failed = sum(not bar.passed for bar in bars.done)
    print(f"{len(bars.done) - failed} passed, {failed} failed")
    return 1 if failed or not bars.done else 0


def _synthetic(folder: Path, count: int, bars: Bars) -> list[dict[str, Any]]:
    clones, figures = [], []
    for index in range(count):
        clone = Clone(folder / str(index + 1))
        measured = _first_run(clone, f"clone {index + 1}", [], bars)
        figures.append(measured)
        if measured["exit"] != 0:
            return figures
        clones.append(clone)
    for other in clones[1:]:
        _same_bytes(clones[0], other, bars)
    _learned(clones[0], bars)
    _clip(clones[0], bars)
    figures[0]["again"] = _again(clones[0], bars)
    figures[0]["touched"] = _touched(clones[0], bars)
    return figures


def _with_source(folder: Path, source: Path, bars: Bars) -> dict[str, Any]:
    """The demo on a folder of real files: each is kept, rejected or an error with its reason, and all stages run."""
    clone = Clone(folder / "1")
    figures = _first_run(clone, "real files", [f"SOURCE={source.resolve()}"], bars)
    if figures["exit"] != 0:
        return figures
    listed = [json.loads(line)["sha256"] for line in (clone.root / "data/corpus/index.jsonl").read_text().splitlines()]
    rows = pyarrow.parquet.read_table(clone.root / "data/clips/manifest.parquet").to_pylist()
    unseen = set(listed) - {row["source_sha256"] for row in rows}
    bars.check(
        "every file is in the manifest", bool(listed) and not unseen, f"{len(listed)} files, {len(unseen)} missing"
    )
    silent = [row for row in rows if row["status"] != "kept" and not row["reason"]]
    kept = sum(row["status"] == "kept" for row in rows)
    bars.check(
        "what is not kept has a reason", not silent, f"{kept} of {len(rows)} clips kept, {len(silent)} without reason"
    )
    bars.check("something was kept to train on", kept > 0, kept)
    reasons = clone.json("out/evaluation/metrics_reasons.json")
    odd = [name for name in reasons if name.startswith("sync/") and not reasons[name].startswith(NOT_APPLICABLE)]
    bars.check("scenes that are not there are not scored", not odd, f"{len(reasons)} figures null with a reason")
    _clip(clone, bars)
    return figures | {"kept": kept, "rows": len(rows), "files": len(listed)}


def _first_run(clone: Clone, name: str, words: list[str], bars: Bars) -> dict[str, Any]:
    installed = clone.make("install")
    bars.check(f"{name}: make install", installed.code == 0, f"exit {installed.code}, {installed.seconds:.0f} s")
    if installed.code != 0:
        print(installed.tail)
        return {"exit": installed.code}
    run = clone.make("demo", *words)
    gib = run.peak / 2**30
    bars.check(f"{name}: make demo ends well", run.code == 0, f"exit {run.code}")
    if run.code != 0:
        print(run.tail)
    bars.check(
        f"{name}: at most {SECONDS_MAX:.0f} s after installation", run.seconds <= SECONDS_MAX, f"{run.seconds:.0f} s"
    )
    bars.check(f"{name}: under {MEMORY_MAX_GIB:.0f} GiB", gib < MEMORY_MAX_GIB, f"{gib:.2f} GiB")
    bars.check(f"{name}: nothing is left running", run.left == 0, f"{run.left} processes")
    return {
        "exit": run.code,
        "install_s": round(installed.seconds, 1),
        "demo_s": round(run.seconds, 1),
        "peak_gib": round(gib, 3),
        "stages": {path.stem: storage.read_json(path) for path in sorted((clone.root / "out/runs").glob("*.json"))},
    }


def _same_bytes(first: Clone, other: Clone, bars: Bars) -> None:
    for what, patterns in SAME_BYTES.items():
        ours, theirs = first.digests(patterns), other.digests(patterns)
        different = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
        shown = f"{len(ours)} files" + (f", different: {', '.join(different[:5])}" if different else "")
        bars.check(f"two clones, equal {what}", bool(ours) and not different, shown)


def _learned(clone: Clone, bars: Bars) -> None:
    figures = clone.json("out/evaluation/metrics.json")
    for stage, modality in (("video_backbone", "video"), ("audio_pretrain", "audio")):
        drop = figures.get(f"loss/{stage}/{modality}/drop")
        bars.check(
            f"{stage}: held-out loss falls by {DROP_MIN:.0%}", drop is not None and drop >= DROP_MIN, _number(drop)
        )
    for modality in ("video", "audio"):
        true, shuffled, tower = (
            figures.get(f"loss/fusion/{modality}/{partner}") for partner in ("true", "shuffled", "tower")
        )
        good = true is not None and tower is not None and true <= tower
        bars.check(
            f"fusion: {modality} no worse than its tower",
            good,
            f"{_number(true)} fused, {_number(tower)} alone, {_number(shuffled)} shuffled",
        )
    auc, p_value = figures.get("sync/blink/auc"), figures.get("sync/blink/p_value")
    span = f"{_number(figures.get('sync/blink/auc_ci_low'))} to {_number(figures.get('sync/blink/auc_ci_high'))}"
    bars.check(
        f"blink: AUC at least {AUC_MIN}", auc is not None and auc >= AUC_MIN, f"{_number(auc)}, 95 % interval {span}"
    )
    bars.check(f"blink: p below {P_MAX}", p_value is not None and p_value < P_MAX, _number(p_value))


def _clip(clone: Clone, bars: Bars) -> None:
    path = clone.root / "out/demo.mp4"
    if not path.exists():
        bars.check("out/demo.mp4 is there", False, "missing")
        return
    info = probe(path)
    frames = sum(1 for _ in decode.frames(path))
    level = mean_volume_db(decode.audio(path).samples)
    said = [info.video.codec if info.video else "none", info.audio.codec if info.audio else "none"]
    bars.check("out/demo.mp4 is H.264 and AAC", said == ["h264", "aac"], " and ".join(said))
    rate = info.video.average_rate if info.video else None
    bars.check("out/demo.mp4 has 121 frames at 24 fps", frames == 121 and rate == 24, f"{frames} frames at {rate}")
    bars.check("out/demo.mp4 has sound", level > -60, f"{level:.1f} dB")
    page = (clone.root / "out/report.html").read_text()
    outside = [word for word in ('src="http', 'href="http', "url(http", "<script") if word in page]
    bars.check(
        "out/report.html shows it and fetches nothing",
        "data:video/mp4" in page and not outside,
        f"{len(page) / 2**20:.1f} MiB",
    )


def _again(clone: Clone, bars: Bars) -> dict[str, Any]:
    """A second run: nothing is stale."""
    lock, times = clone.lock(), clone.times()
    run = clone.make("demo")
    ran = _ran(times, clone.times())
    bars.check(
        "second make demo ends well and runs no stage",
        run.code == 0 and not ran and clone.lock() == lock,
        ", ".join(ran) or "none ran",
    )
    bars.check(f"second make demo within {AGAIN_MAX_S:.0f} s", run.seconds <= AGAIN_MAX_S, f"{run.seconds:.1f} s")
    return {"seconds": round(run.seconds, 1)}


def _touched(clone: Clone, bars: Bars) -> dict[str, Any]:
    """One parameter changes: exactly the stages whose inputs thereby differ run."""
    path = clone.root / "params.yaml"
    section, key, value = TOUCH
    values = yaml.safe_load(path.read_text())
    values[section][key] = value
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    lock, times = clone.lock(), clone.times()
    run = clone.make("demo")
    ran, after = _ran(times, clone.times()), clone.lock()
    due = sorted(name for name in after if name in times and after[name] != lock.get(name))
    figure = f"ran {', '.join(ran) or 'nothing'}; due {', '.join(due) or 'nothing'}"
    exact = run.code == 0 and bool(ran) and ran == due
    bars.check(f"{section}.{key}={value} re-runs exactly what depends on it", exact, figure)
    return {"seconds": round(run.seconds, 1), "ran": ran}


def _ran(before: dict[str, int], after: dict[str, int]) -> list[str]:
    return sorted(name for name in after if after[name] != before.get(name))


def _watch(process: subprocess.Popen[bytes], token: str, peaks: list[int]) -> None:
    while process.poll() is None:
        peaks.append(sum(_memory(ours) for ours in _ours(token)))
        time.sleep(SAMPLE_S)


def _ours(token: str) -> Iterable[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == token:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _memory(process: psutil.Process) -> int:
    """Proportional set size: pages shared by several processes count once in their sum."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def _newest(path: Path) -> int:
    files = [Path(name) for name in storage.list_files(path)] if path.is_dir() else [path]
    return max((file.stat().st_mtime_ns for file in files), default=0)


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:.4g}"


def _machine() -> dict[str, Any]:
    """What the figures depend on; no names of machines."""
    return {
        "cores": len(os.sched_getaffinity(0)), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "architecture": platform.machine(), "python": platform.python_version(), "torch": version("torch"),
    }  # fmt: skip


def _commit() -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check what `make demo` promises, in fresh clones of HEAD.")
    parser.add_argument("--clones", type=int, default=2, choices=(1, 2), help="2 also compares the bytes of two runs")
    parser.add_argument("--source", type=Path, help="a folder of real files: check that mode instead")
    parser.add_argument("--out", type=Path, help="results as JSON")
    parser.add_argument("--work", type=Path, help="where the clones go (default: the system's temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave the clones for a look")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

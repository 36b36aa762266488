"""Does a training that is killed end as one that is not? And is a damaged checkpoint ever loaded?

Trains a tiny fusion model for 40 steps with two DeepSpeed ranks, ZeRO 2 and bf16, without a break and then again and
again with every process killed: once at a random moment, once while a checkpoint is being written. Model folder,
checkpoint (weights, moments, running mean, history) and MLflow's metrics must be equal to the bit. Then damages
checkpoints in every way and looks at what is loaded.
Try it: `.venv/bin/python benchmarks/resume.py --trials 2 --faults 20`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mlflow import MlflowClient  # noqa: E402

from ovi import storage  # noqa: E402
from ovi.errors import OviError  # noqa: E402
from ovi.progress import Silent  # noqa: E402
from ovi.training import loop  # noqa: E402
from ovi.training.checkpoint import Checkpoint, Checkpoints  # noqa: E402
from ovi.training.engine import MOMENTS, Place, State  # noqa: E402
from ovi.training.job import Job  # noqa: E402
from ovi.training.rank import Mute  # noqa: E402
from tests.training import made  # noqa: E402

STEPS, EVERY = 40, 4
SETS = [
    "training.engine=deepspeed", "training.ranks=2", "training.zero_stage=2", "training.precision=bf16",
    f"training.fusion.steps={STEPS}", f"training.fusion.checkpoint_every={EVERY}", "training.fusion.ema=0.9",
    "training.fusion.validate_every=20",
]  # fmt: skip
CLOCKED = ("samples_per_second", "loader_share", "tflops", "peak_memory_gib", "seconds", "seconds_to_start")
KEY = {"settings": "a", "data": "b"}
FILES = ("weights", "exp_avg", "exp_avg_sq", "ema")


def main() -> int:
    options = _options()
    draw = random.Random(options.seed)
    results: dict[str, Any] = {"command": " ".join(sys.argv), "torch": torch.__version__, "seed": options.seed}
    bars = []
    if options.trials:
        with tempfile.TemporaryDirectory() as folder:
            results["kills"] = killed(Path(folder), options.trials, draw)
        equal, inside = (sum(trial[name] for trial in results["kills"]) for name in ("equal", "inside_a_write"))
        bars.append((f"{options.trials} of {options.trials} killed trainings end equal to the bit",
                     equal == options.trials, f"{equal}, with {inside} kills inside a checkpoint's write"))  # fmt: skip
    if options.faults:
        results["faults"] = faults(options.faults, draw)
        wrong = [fault for fault in results["faults"] if fault["wrong"]]
        kinds = dict(Counter(fault["kind"] for fault in results["faults"]))
        bars.append((f"{options.faults} faults: the newest good checkpoint each time, and one line",
                     not wrong, f"{len(wrong)} wrong; {kinds}"))  # fmt: skip
    for name, passed, figure in bars:
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}")
    results["bars"] = [{"name": name, "passed": passed, "figure": figure} for name, passed, figure in bars]
    storage.write_json(options.out or ROOT / "benchmarks/results/resume.json", results)
    failed = sum(not passed for _, passed, _ in bars)
    print(f"{len(bars) - failed} passed, {failed} failed")
    return 1 if failed or not bars else 0


def killed(folder: Path, trials: int, draw: random.Random) -> list[dict[str, Any]]:
    """Of each trial: whether it ended as the straight run, where it was killed, and what differed."""
    start = _start(folder / "start")
    straight = _place(folder / "straight", start)
    began = time.perf_counter()
    _finish(_launched(straight))
    took = time.perf_counter() - began
    want = outcome(straight)
    found = []
    for number in range(trials):
        place = _place(folder / f"trial{number}", start)
        moments = [_at_random(draw, took), _in_a_write(place, draw)]
        draw.shuffle(moments)
        inside = 0
        for moment in moments:
            process = _launched(place)
            moment(process)
            _kill(process)
            inside += any((place / "checkpoints/fusion").glob(".*"))
        steps = sorted(path.name for path in (place / "checkpoints/fusion").glob("step-*"))
        _finish(_launched(place))
        got = outcome(place)
        different = [name for name in want if got.get(name) != want[name]]
        found.append({"equal": got == want, "inside_a_write": inside, "from": steps[-1:], "different": different})
        print(
            f"trial {number + 1}: {'equal' if got == want else different}; {inside} inside a write, then {steps[-1:]}"
        )
        shutil.rmtree(place)
    return found


def outcome(place: Path) -> dict[str, Any]:
    """All that a training leaves behind, but for how long it took."""
    last = place / f"checkpoints/fusion/step-{STEPS:06d}"
    files = {file.name: storage.sha256(file) for folder in (place / "models/fusion", last) for file in folder.iterdir()}
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    (run,) = client.search_runs(["1"])
    names = sorted(name for name in run.data.metrics if name not in CLOCKED)
    history = {
        name: [(point.step, point.timestamp, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in names
    }
    return {**files, **history, "status": run.info.status}


def faults(count: int, draw: random.Random) -> list[dict[str, Any]]:
    """Of each fault: its kind, what the store said, and what was wrong with that (None: nothing)."""
    found = []
    for number in range(count):
        kind = draw.choice(sorted(DAMAGES))
        with tempfile.TemporaryDirectory() as folder:
            notes: list[str] = []
            store = Checkpoints(Path(folder) / "fusion", KEY, 3, notes.append)
            for step in (5, 10, 15):
                store.save(_checkpoint(step))
            good, lines = DAMAGES[kind](store, Path(folder) / "fusion", draw)
            newest = store.newest()
            said = notes + lines
            if newest is None or not _same(newest, _checkpoint(newest.step)):
                wrong = "a checkpoint that is not whole was loaded"
            elif newest.step != good:
                wrong = f"step {newest.step} was loaded instead of {good}"
            elif any("\n" in line for line in said) or (len(said) != 1 and kind != "killed"):
                wrong = f"said {said}"
            else:
                wrong = None
        found.append(
            {"number": number, "kind": kind, "said": [line.replace(folder, "") for line in said], "wrong": wrong}
        )
    return found


Damage = Callable[[Checkpoints, Path, random.Random], tuple[int, list[str]]]


def _truncated(_: Checkpoints, folder: Path, draw: random.Random) -> tuple[int, list[str]]:
    file = _victim(folder, draw)
    os.truncate(file, draw.randrange(file.stat().st_size))
    return 10, []


def _flipped(_: Checkpoints, folder: Path, draw: random.Random) -> tuple[int, list[str]]:
    file = _victim(folder, draw)
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)
    return 10, []


def _missing(_: Checkpoints, folder: Path, draw: random.Random) -> tuple[int, list[str]]:
    _victim(folder, draw).unlink()
    return 10, []


def _full_disk(store: Checkpoints, folder: Path, draw: random.Random) -> tuple[int, list[str]]:
    """No file may grow beyond some size, which every way of writing notices as it notices a full disk."""
    sizes = sorted(file.stat().st_size for file in (folder / "step-000015").iterdir())
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (draw.randrange(sizes[-1]), hard))
    try:
        store.save(_checkpoint(20))
        lines = ["nothing was noticed"] * 2
    except OviError as error:
        lines = [str(error)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    return 15, lines


def _killed(store: Checkpoints, folder: Path, draw: random.Random) -> tuple[int, list[str]]:
    """While it saves one checkpoint after the other."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        for step in range(20, 1000):
            store.save(_checkpoint(step))
            os.write(write, b"%d\n" % step)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        last = int(said.readline())
        time.sleep(draw.random() * 0.05)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        last = max([last, *map(int, said.read().split())])
    shown = max(int(path.name[5:]) for path in folder.glob("step-*"))
    return max(last, shown), []  # one that was renamed before its word came through is whole as well


DAMAGES: dict[str, Damage] = {
    "truncated": _truncated, "flipped byte": _flipped, "missing file": _missing, "full disk": _full_disk,
    "killed": _killed,
}  # fmt: skip


def _victim(folder: Path, draw: random.Random) -> Path:
    """A file of the newest checkpoint."""
    return draw.choice(sorted((folder / "step-000015").iterdir()))


def _checkpoint(step: int) -> Checkpoint:
    draw = torch.Generator().manual_seed(step)
    weights, first, second, ema = (
        {name: torch.randn(16, 9, generator=draw) for name in ("a.weight", "b.weight")} for _ in FILES
    )
    moments = dict(zip(MOMENTS, (first, second), strict=True))
    return Checkpoint(step, State(step, weights, moments, ema), {"curve": [{"step": step, "loss": 0.5}]}, step + 1)


def _same(one: Checkpoint, two: Checkpoint) -> bool:
    def tensors(c: Checkpoint) -> list[torch.Tensor]:
        groups = (c.state.weights, *(c.state.moments[kind] for kind in MOMENTS), c.state.ema)
        return [group[name] for group in groups for name in sorted(group)]

    ours, theirs = tensors(one), tensors(two)
    facts = [(c.step, c.next_batch, c.history, c.state.step) for c in (one, two)]
    return facts[0] == facts[1] and len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def _start(folder: Path) -> Path:
    """Latents, codecs and the towers that fusion starts from; and an MLflow store with its tables."""
    made.latents(folder / "latents")
    made.codec(folder / "models" / "codec", made.settings("training.precision=bf16"))
    for stage in made.STAGES[:3]:
        settings = made.settings("training.precision=bf16", steps=2)
        job = Job.make(stage, settings, folder / "latents", folder / "models", folder / "checkpoints")
        loop.train(job, Place(), Silent(), Mute(), lambda: False)
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder


def _place(folder: Path, start: Path) -> Path:
    shutil.copytree(start, folder, ignore=shutil.ignore_patterns("checkpoints"))
    return folder


def _launched(place: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.training.run_stage", "fusion", str(place), *SETS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _finish(process: subprocess.Popen[str]) -> None:
    _, stderr = process.communicate(timeout=600)
    if process.returncode:
        raise SystemExit(f"a run failed by itself: {stderr[-2000:]}")


def _at_random(draw: random.Random, took: float) -> Callable[[subprocess.Popen[str]], None]:
    def wait(process: subprocess.Popen[str]) -> None:
        """A random step, and then a random part of a few steps; or a random moment of the start."""
        step, after = draw.randrange(-STEPS // 8, STEPS - 2), draw.random() * 0.2
        if step < 0:
            time.sleep(draw.random() * took / 2)
            return
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "progress" and event["done"] >= step:
                break
        time.sleep(after)

    return wait


def _in_a_write(place: Path, draw: random.Random) -> Callable[[subprocess.Popen[str]], None]:
    def wait(process: subprocess.Popen[str]) -> None:
        """A checkpoint's folder exists under its hidden name only while it is written."""
        left = draw.randrange(1, 4)
        was = False
        while process.poll() is None:
            now = any(True for _ in (place / "checkpoints/fusion").glob(".step-*"))
            left -= now and not was
            was = now
            if left <= 0 and now:
                return
            time.sleep(0.0002)

    return wait


def _kill(process: subprocess.Popen[str]) -> None:
    """All of its processes at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)
    process.communicate()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Kill trainings and damage checkpoints; compare with the straight run."
    )
    parser.add_argument("--trials", type=int, default=10, help="trainings that are killed, twice each")
    parser.add_argument("--faults", type=int, default=100, help="checkpoints that are damaged")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the damages")
    parser.add_argument("--out", type=Path, help="results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

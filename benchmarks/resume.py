"""Does a training that is killed end as one that is not? And is a damaged checkpoint ever loaded?

Trains a tiny fusion model for 40 steps with two DeepSpeed ranks, ZeRO 2 and bf16, without a break and then again and
again with every process killed: once at a random moment, once while a checkpoint is being written. Model folder,
checkpoint (weights, moments, running mean, history) and MLflow's metrics must be equal to the bit. Then damages
checkpoints, their copies in a real S3 server on loopback, the way there, and latent shards, in every way, and looks at
what is loaded and said.
Try it: `.venv/bin/python benchmarks/resume.py --trials 2 --faults 20`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mlflow import MlflowClient  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

from ovi import s3, storage  # noqa: E402
from ovi.errors import OviError  # noqa: E402
from ovi.progress import Silent  # noqa: E402
from ovi.training import loop  # noqa: E402
from ovi.training.checkpoint import Checkpoint  # noqa: E402
from ovi.training.job import Job  # noqa: E402
from ovi.training.latents import LatentSet, Sample  # noqa: E402
from ovi.training.place import Place  # noqa: E402
from ovi.training.rank import Mute  # noqa: E402
from ovi.training.state import MOMENTS, State  # noqa: E402
from ovi.training.store import Checkpoints  # noqa: E402
from tests.training import made  # noqa: E402
from tests.training.rough_way import RoughWay, rough_way, well  # noqa: E402

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
        bars.append((f"{options.faults} faults: no corrupt load, the newest good checkpoint each time, and one line",
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
    """Of each fault: its kind, what was said, and what was wrong with that (None: nothing).

    Every kind comes about equally often. Steps 5, 10 and 15 are saved; `DAMAGES` say which is the newest good one then.
    """
    every = sorted({**DAMAGES, **WAYS, **SHARDS})
    kinds = list(itertools.islice(itertools.cycle(every), count))
    draw.shuffle(kinds)
    found = []
    with s3_server() as server, rough_way(server) as way, mock.patch("botocore.endpoint.time.sleep"):
        os.environ.update(AWS_ENDPOINT_URL=way.url, AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")
        os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
        for number, kind in enumerate(kinds):
            address = f"s3://trial-{number}"
            s3.client().create_bucket(Bucket=f"trial-{number}")
            with tempfile.TemporaryDirectory() as folder:
                trial = Trial(Path(folder), address, way, draw)
                wrong = trial.shard(kind) if kind in SHARDS else trial.checkpoint(kind)
                said = [line.replace(folder, "").replace(address, "s3:/") for line in trial.said]
            way.mood = well
            found.append({"number": number, "kind": kind, "said": said, "wrong": wrong})
    return found


class Trial:
    """One fault, in a folder and a bucket of its own."""

    def __init__(self, folder: Path, address: str, way: RoughWay, draw: random.Random) -> None:
        self.folder, self.address, self.way, self.draw = folder, address, way, draw
        self.said: list[str] = []

    def checkpoint(self, kind: str) -> str | None:
        """What was wrong with what was loaded, None when nothing was."""
        mirror = self.address if kind in WAYS else None
        store = Checkpoints(self.folder / "fusion", KEY, 3, self.said.append, mirror)
        for step in (5, 10, 15):
            store.save(_checkpoint(step))
            store.close()
        if kind in WAYS:
            good, lines, store = WAYS[kind](self, store)
        else:
            good, more = DAMAGES[kind](store, self.folder / "fusion", self.draw)
            self.said += more
            lines = 0 if kind == "killed" else 1
        try:
            newest = store.newest()
        except OviError as error:
            self.said.append(str(error))
            newest = None
        if newest is not None and not _same(newest, _checkpoint(newest.step)):
            return "a checkpoint that is not whole was loaded"
        if (newest and newest.step) != good:
            return f"step {newest and newest.step} was loaded instead of {good}"
        if len(self.said) != lines or any("\n" in line for line in self.said):
            return f"said {self.said}"
        return None

    def shard(self, kind: str) -> str | None:
        """A set of latents is opened and read to its end, in the folder or in the bucket."""
        made.latents(self.folder / "latents", {"av": {"train": 6}})
        files = sorted(path for path in (self.folder / "latents").iterdir() if "av-train" in path.name)
        place: str | Path = self.folder / "latents"
        want = [sample.audio for sample in _read(place)]
        if self.draw.random() < 0.5:
            place = f"{self.address}/latents"
            for path in files:
                storage.upload(path, f"{place}/{path.name}")
        SHARDS[kind](self, f"{place}/{files[0].stem.split('.')[0]}.tar")
        try:
            got = [sample.audio for sample in _read(place)]
        except OviError as error:
            self.said.append(str(error))
            return f"said {self.said}" if "\n" in str(error) else None
        whole = len(got) == len(want) and all(map(torch.equal, got, want))
        return None if kind in PASSING and whole else "the fault was not noticed"


def _read(place: str | Path) -> list[Sample]:
    latents = LatentSet.open(place, "av", "train")
    return [latents.read(index) for index in range(len(latents))]


def _emptied(trial: Trial) -> Checkpoints:
    """The store of another machine, which has nothing but the copies."""
    return Checkpoints(trial.folder / "other", KEY, 3, trial.said.append, trial.address)


def _passing(mood: str) -> Way:
    def fault(trial: Trial, _store: Checkpoints) -> tuple[int | None, int, Checkpoints]:
        """Some of the requests go wrong, but none twice."""
        seen: set[tuple[str, str]] = set()

        def sometimes(method: str, path: str) -> str:
            again = (method, path) in seen
            seen.add((method, path))
            return "well" if again or trial.draw.random() < 0.5 else mood

        trial.way.mood = sometimes
        store = _emptied(trial)
        store.save(_checkpoint(20))
        store.close()
        return 20, 0, Checkpoints(trial.folder / "third", KEY, 3, trial.said.append, trial.address)

    return fault


def _lasting(mood: str) -> Way:
    def fault(trial: Trial, store: Checkpoints) -> tuple[int | None, int, Checkpoints]:
        """While a copy is made, from some request on; then the store is back. That copy is one line."""
        left = trial.draw.randrange(8)

        def lasting(_method: str, _path: str) -> str:
            nonlocal left
            left -= 1
            return mood if left < 0 else "well"

        trial.way.mood = lasting
        store.save(_checkpoint(20))
        store.close()
        trial.way.mood = well
        return 15, 1, _emptied(trial)

    return fault


def _unreachable(trial: Trial, _store: Checkpoints) -> tuple[int | None, int, Checkpoints]:
    """A store that cannot be asked which copy is the newest: one line, and nothing is loaded."""
    mood = trial.draw.choice(["500", "503", "cut"])
    trial.way.mood = lambda _method, _path: mood
    return None, 1, _emptied(trial)


def _copy_damaged(trial: Trial, _store: Checkpoints) -> tuple[int | None, int, Checkpoints]:
    victim = trial.draw.choice([file for file in storage.list_files(trial.address) if "step-000015" in file])
    data = bytearray(storage.read_bytes(victim))
    data[trial.draw.randrange(len(data))] ^= 1 << trial.draw.randrange(8)
    storage.write_bytes(victim, data[: trial.draw.randrange(len(data))] if trial.draw.random() < 0.3 else bytes(data))
    return 10, 1, _emptied(trial)


def _copy_missing(trial: Trial, _store: Checkpoints) -> tuple[int | None, int, Checkpoints]:
    files = [file for file in storage.list_files(trial.address) if "step-000015" in file]
    victim = trial.draw.choice(files)
    storage.delete(victim)
    undescribed = victim.endswith("checkpoint.json")  # then it is no copy at all
    return 10, 0 if undescribed else 1, _emptied(trial)


def _killed_copying(trial: Trial, _store: Checkpoints) -> tuple[int | None, int, Checkpoints]:
    """While it saves and copies one checkpoint after the other."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        store = _emptied(trial)
        for step in range(20, 1000):
            store.save(_checkpoint(step))
            store.close()
            os.write(write, b"%d\n" % step)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        said.readline()
        time.sleep(trial.draw.random() * 0.3)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        last = max([20, *map(int, said.read().split())])
    whole = [file for file in storage.list_files(trial.address) if file.endswith("checkpoint.json")]
    shown = max(int(file.split("/")[-2][5:]) for file in whole)
    other = Checkpoints(trial.folder / "third", KEY, 3, trial.said.append, trial.address)
    return max(last, shown), 0, other


def _shard_gone(trial: Trial, shard: str) -> None:
    storage.delete(trial.draw.choice([shard, shard.replace(".tar", ".index.json")]))


def _shard_flipped(_trial: Trial, shard: str) -> None:
    data = bytearray(storage.read_bytes(shard))
    data[len(data) // 2] ^= 1
    storage.write_bytes(shard, bytes(data))


def _shard_short(trial: Trial, shard: str) -> None:
    data = storage.read_bytes(shard)
    storage.write_bytes(shard, data[: trial.draw.randrange(len(data) // 2)])


def _shard_slow(trial: Trial, _shard: str) -> None:
    moods = [trial.draw.choice(["500", "503", "slow", "cut"]) for _ in range(2)]
    trial.way.mood = lambda _method, _path: moods.pop() if moods else "well"


Damage = Callable[[Checkpoints, Path, random.Random], tuple[int, list[str]]]
# -> step that is to be loaded, lines that are to be said, and the store to ask
Way = Callable[[Trial, Checkpoints], tuple[int | None, int, Checkpoints]]


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
WAYS: dict[str, Way] = {
    "S3 answers 500": _passing("500"), "S3 answers 503": _passing("503"), "S3 is slow": _passing("slow"),
    "S3 cuts connections": _passing("cut"), "S3 goes down in a copy": _lasting("503"), "S3 is down": _unreachable,
    "killed in a copy": _killed_copying,
    "copy damaged": _copy_damaged, "copy's file missing": _copy_missing,
}  # fmt: skip
SHARDS: dict[str, Callable[[Trial, str], None]] = {
    "shard missing": _shard_gone, "shard's byte flipped": _shard_flipped, "shard truncated": _shard_short,
    "shard by a rough way": _shard_slow,
}  # fmt: skip
PASSING = ("shard by a rough way",)


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


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """URL of an S3 server on loopback that keeps all in memory."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Kill trainings and damage checkpoints; compare with the straight run."
    )
    parser.add_argument("--trials", type=int, default=10, help="trainings that are killed, twice each")
    parser.add_argument("--faults", type=int, default=100, help="faults of checkpoints, copies, S3 and shards")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the damages")
    parser.add_argument("--out", type=Path, help="results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""Does the pipeline survive a cluster? The Kubernetes executor against the API double, with real pods and real ranks.

Parts: `pipeline` (the whole small pipeline with two training pods, equal to the local executor's bytes), `evict` (a
two-pod training evicted at seeded steps resumes at exactly that step, its curve equal to the bit), `cancel` (flows
stopped at random moments leave nothing; killed ones are reaped), `cost` (GPU-hours against the double's truth).
Try it: `.venv/bin/python benchmarks/cluster.py cancel --moments 4`.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flows.cluster import Cluster  # noqa: E402
from flows.jobs import JobSpec, Outcome  # noqa: E402
from flows.lease import reap  # noqa: E402
from flows.local import LocalExecutor  # noqa: E402
from flows.server import free_port, start_mlflow  # noqa: E402
from flows.workspace import Workspace  # noqa: E402
from ovi import storage  # noqa: E402
from ovi.config import Tracking  # noqa: E402
from ovi.models.folder import digest  # noqa: E402
from ovi.progress import Silent  # noqa: E402
from ovi.tracking import model_source  # noqa: E402
from ovi.training.job import Job  # noqa: E402
from ovi.training.loop import train  # noqa: E402
from ovi.training.place import Place  # noqa: E402
from ovi.training.rank import Mute  # noqa: E402
from tests.cluster.double import NAMESPACE, Double  # noqa: E402
from tests.flows.clustered import CLAIM, TRAIN, Bench, bench  # noqa: E402
from tests.training import made  # noqa: E402
from tests.waiting import wait_for  # noqa: E402

RESULTS = ROOT / "benchmarks/results/cluster.json"
PIPELINE_MAX_S, AFTER_GRACE_S, REAP_MAX_S, COST_MAX = 240.0, 5.0, 15.0, 0.01
TRAINING = ("video_backbone", "pretrain_audio", "finetune_audio", "train_fusion")
SMALL = [
    "corpus.clips=16", "corpus.audio_files=12", "corpus.planted=false", "promotion.thresholds={}", "model.layers=2",
    "training.video_backbone.steps=4", "training.audio_pretrain.steps=4", "training.audio_finetune.steps=4",
    "training.fusion.steps=4", "codec.fit_clips=8", "training.video_backbone.cooldown=1",
    "training.video_backbone.warmup=1",
    "training.audio_pretrain.cooldown=1", "training.audio_finetune.cooldown=1", "training.fusion.cooldown=1",
    "training.audio_pretrain.warmup=1", "training.audio_finetune.warmup=1", "training.fusion.warmup=1",
    "sampling.steps=2", "service.port=0", "evaluation.clips_per_scene=2", "evaluation.permutations=100",
    "evaluation.draws=50",
]  # fmt: skip
CLUSTERED = ["executor=kubernetes", *(f"resources.{stage}={{nodes: 2}}" for stage in TRAINING)]
EQUAL = ("models/fusion", "models/audio_finetune", "models/audio_pretrain", "models/video_backbone")
STEPS = 24
FUSION = [
    "training.engine=deepspeed", "training.ranks=2", "training.zero_stage=2", f"training.fusion.steps={STEPS}",
    "training.fusion.checkpoint_every=100", "training.fusion.validate_every=100",
]  # fmt: skip


def main() -> int:
    options = _options()
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, Any] = storage.read_json(RESULTS) if RESULTS.exists() else {}
    found["machine"] = {"cpus": os.cpu_count(), "python": platform.python_version()}
    bars: list[tuple[str, bool, str]] = []
    with tempfile.TemporaryDirectory(prefix="ovi-cluster-") as folder:
        for part in options.parts or list(PARTS):
            result, ours = PARTS[part](Path(folder) / part, options)
            found[part] = {**result, "bars": [{"name": n, "passed": p, "figure": f} for n, p, f in ours]}
            bars += ours
            for name, passed, figure in ours:
                print(f"{'PASS' if passed else 'FAIL'}  {name}: {figure}", flush=True)
    storage.write_json(options.out or RESULTS, found)
    failed = sum(not passed for _, passed, _ in bars)
    print(f"{len(bars) - failed} passed, {failed} failed")
    return 1 if failed else 0


# The whole pipeline


def pipeline(folder: Path, _: argparse.Namespace) -> Any:
    local, remote = _clone(folder / "local"), _clone(folder / "remote")
    took = {"local": _demo(local, [], {})}
    with Double(folder / "double", {CLAIM: remote}) as double:
        double.node.env["PYTHONPATH"] = str(remote)
        took["cluster"] = _demo(remote, CLUSTERED, {"KUBECONFIG": str(double.kubeconfig)})
        left = double.left()
        pods = len(double.kubelet.containers)
    same = [path for path in EQUAL if storage.sha256_folder(local / path) == storage.sha256_folder(remote / path)]
    newest = {name: _newest(clone / "checkpoints/fusion") for name, clone in (("local", local), ("cluster", remote))}
    return {"seconds": took, "pods": pods, "checkpoint": newest, "same": same}, [
        (f"the small pipeline in a cluster within {PIPELINE_MAX_S:.0f} s", took["cluster"] < PIPELINE_MAX_S,
         f"{took['cluster']:.0f} s in {pods} pods ({took['local']:.0f} s locally)"),
        ("the final checkpoint's sha256 is the local executor's", newest["local"] == newest["cluster"],
         f"{newest['cluster'][:16]} and {newest['local'][:16]}"),
        ("every model folder is the local executor's", len(same) == len(EQUAL), ", ".join(same)),
        ("nothing is left in the cluster", not left, str(left)),
    ]  # fmt: skip


def away(folder: Path, _: argparse.Namespace) -> Any:
    """The same in pods with an empty folder each; between them and the flow a bucket and an MLflow server."""
    local, remote = _clone(folder / "local"), _clone(folder / "remote")
    took = {"local": _demo(local, [], {})}
    with _bucket("team") as keys, _mlflow(remote) as tracking, Double(folder / "double") as double:
        double.node.env["PYTHONPATH"] = str(remote)
        double.add_secret("ovi-s3", keys)
        sets = ["cluster.claim=null", "cluster.secrets=[ovi-s3]", "data.remote=s3://team/ovi",
                "training.mirror=s3://team/mirror", "promotion.weights=s3://team/models",
                f"tracking.uri={tracking.uri}", f"tracking.artifacts={tracking.artifacts}"]  # fmt: skip
        took["away"] = _demo(remote, [*CLUSTERED, *sets], {**keys, "KUBECONFIG": str(double.kubeconfig)})
        left = double.left()
        pods = len(double.kubelet.containers)
        champion = model_source(tracking, "models:/ovi@champion")
    same = [path for path in EQUAL if storage.sha256_folder(local / path) == storage.sha256_folder(remote / path)]
    made_here = digest(local / "models/fusion")
    return {"seconds": took, "pods": pods, "same": same}, [
        ("the small pipeline in empty folders, by a bucket, has the local executor's model folders, to the bit",
         len(same) == len(EQUAL), f"{', '.join(same)}; {took['away']:.0f} s in {pods} pods"),
        ("the champion lies in the bucket by the digest of the local executor's model",
         champion == (f"s3://team/models/{made_here[:16]}", made_here), champion[0]),
        ("nothing is left in that cluster", not left, str(left)),
    ]  # fmt: skip


@contextlib.contextmanager
def _bucket(name: str) -> Iterator[dict[str, str]]:
    """An S3 server on loopback with one bucket; what a client's environment needs."""
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port := free_port())],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    keys = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    try:
        wait_for(lambda: _put(f"{keys['AWS_ENDPOINT_URL']}/{name}"))
        yield keys
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def _mlflow(clone: Path) -> Iterator[Tracking]:
    """An MLflow server on loopback, as a team has one."""
    store = Tracking(uri=f"sqlite:///{clone}/out/mlflow.db", artifacts="s3://team/mlflow")
    running = start_mlflow(Workspace(clone), store, free_port())
    try:
        running.ready()
        yield store.model_copy(update={"uri": running.url})
    finally:
        running.stop()


def _put(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(urllib.request.Request(url, method="PUT")):
        return True
    return False


def _clone(root: Path) -> Path:
    """The working tree's files under git's eyes, without results."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().splitlines():
        if (ROOT / name).is_file() and not name.startswith(("benchmarks/results", "tests/golden")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    return root


def _demo(clone: Path, sets: list[str], env: dict[str, str]) -> float:
    words = [word for value in [*SMALL, *sets] for word in ("--set", value)]
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(clone), **env}
    command = [Path(sys.executable).with_name("ovi"), "demo", *words]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ovi demo failed: {done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.monotonic() - began


def _newest(checkpoints: Path) -> str:
    return storage.sha256_folder(max(checkpoints.glob("step-*")))


# Evictions


def evict(folder: Path, options: argparse.Namespace) -> Any:
    draw = random.Random(options.seed)
    start = folder / "start"
    made.latents(start / "latents")
    made.codec(start / "models" / "codec", made.settings())
    for stage in made.STAGES[:3]:
        job = Job.make(stage, made.settings(steps=2), start / "latents", start / "models", start / "checkpoints")
        train(job, Place(), Silent(), Mute(), lambda: False)
    whole = _trained(folder / "whole", start, None, 0)
    local = _trained_here(folder / "local", start)
    print({"two pods": whole["model"][:16], "two local ranks": local["model"][:16]}, flush=True)
    trials = []
    for number in range(options.evictions):
        step, rank = draw.randrange(1, STEPS - 2), draw.randrange(2)
        trial = _trained(folder / f"trial{number}", start, step, rank, jobset=bool(number % 2))
        trial["equal"] = trial["model"] == whole["model"] and trial["curve"] == whole["curve"]
        trials.append(trial)
        print({key: trial[key] for key in ("evicted_at", "rank", "from", "equal", "attempts")}, flush=True)
    right = [trial for trial in trials if trial["equal"] and trial["attempts"] == 2 and _resumed(trial)]
    same = whole["model"] == local["model"] and whole["curve"] == local["curve"]
    return {"trials": [{k: v for k, v in t.items() if k not in ("curve", "model")} for t in trials]}, [
        ("two pods train the local executor's model and checkpoint, to the bit", same, whole["curve"][:16]),
        (f"{len(trials)} of {len(trials)} evicted trainings resume at the saved step, curve and model equal to the bit",
         len(right) == len(trials), f"{len(right)}"),
    ]  # fmt: skip


def _resumed(trial: dict[str, Any]) -> bool:
    """At exactly the step that was saved, and no step twice."""
    return len(trial["from"]) == 1 and set(trial["saved"]) == set(trial["from"]) and not trial["repeated"]


def _trained_here(place: Path, start: Path) -> dict[str, Any]:
    """The same training by the local executor, in two ranks of this machine."""
    shutil.copytree(start, place, ignore=shutil.ignore_patterns("checkpoints"))
    command = (sys.executable, "-m", "tests.training.run_stage", "fusion", str(place), *FUSION)
    spec = JobSpec("train_fusion", command, grace_s=60, deadline_s=600, env={"PYTHONPATH": str(ROOT)})
    outcome = LocalExecutor(place).run(spec, lambda _: None)
    if outcome.status != "succeeded":
        raise SystemExit(str(outcome.error("train_fusion", "")))
    newest = max((place / "checkpoints/fusion").glob("step-*"))
    return {"model": storage.sha256_folder(place / "models/fusion"), "curve": storage.sha256_folder(newest)}


def _trained(place: Path, start: Path, step: int | None, rank: int, jobset: bool = True) -> dict[str, Any]:
    with bench(place, jobset) as b:
        shutil.copytree(start, b.work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoints"))
        b.double.node.env["PYTHONPATH"] = str(ROOT)
        if step is not None:
            b.at_step(step, lambda pod: b.double.kubelet.evict(NAMESPACE, pod["metadata"]["name"]), rank)
        command = (sys.executable, "-m", "tests.training.run_stage", "fusion", str(b.work), *FUSION)
        outcome = b.run(JobSpec("train_fusion", command, nodes=2, grace_s=60, deadline_s=600))
        if outcome.status != "succeeded":
            raise SystemExit(str(outcome.error("train_fusion", "")))
        steps = [int(word["done"]) for word in b.heard if word["event"] == "progress"]
        said = " | ".join(str(word["text"]) for word in b.heard if "text" in word)
        newest = max((b.work / "checkpoints/fusion").glob("step-*"))
        return {
            "evicted_at": step, "rank": rank, "attempts": outcome.attempts,
            "saved": re.findall(r"stopped after step (\d+)", said),
            "from": re.findall(r"continuing after step (\d+)", said),
            "repeated": sum(later < before for before, later in itertools.pairwise(steps)),
            "model": storage.sha256_folder(b.work / "models/fusion"), "curve": storage.sha256_folder(newest),
        }  # fmt: skip


# Cancels

FLOW = """
import sys
from flows.cluster import Cluster
from flows.jobs import JobSpec
from flows.remote import ClusterExecutor
from flows.signals import one_line_stop
from ovi import config
kubeconfig, work, *command = sys.argv[1:]
with one_line_stop("stopped"):
    executor = ClusterExecutor(work, Cluster("ovi", kubeconfig=kubeconfig), config.Cluster())
    executor.run(JobSpec("train_fusion", tuple(command), nodes=2, grace_s=5), lambda word: None)
"""


def cancel(folder: Path, options: argparse.Namespace) -> Any:
    draw = random.Random(options.seed)
    stops, kills = [], []
    for number in range(options.moments):
        with bench(folder / str(number), jobset=bool(number % 2)) as b:
            how = (signal.SIGTERM, signal.SIGINT)[number % 2] if number % 5 != 4 else signal.SIGKILL
            moment = draw.uniform(0.0, 4.0)  # after it first spoke to the cluster
            command = ["python", "-c", TRAIN, "100000", "0.02"]
            flow = subprocess.Popen(
                [sys.executable, "-c", FLOW, str(b.double.kubeconfig), str(b.work), *command], cwd=ROOT,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            wait_for(lambda b=b: b.double.store.list("leases"))
            time.sleep(moment)
            phase = _phase(b)
            flow.send_signal(how)
            began = time.monotonic()
            flow.wait(60)
            there = b.double.left()
            if how is signal.SIGKILL:
                reap(Cluster(NAMESPACE, kubeconfig=str(b.double.kubeconfig)), -60.0)
            with contextlib.suppress(AssertionError):
                wait_for(lambda b=b: not b.double.left(), REAP_MAX_S)
            took = time.monotonic() - began
            trial = {
                "signal": how.name,
                "at_s": round(moment, 2),
                "phase": phase,
                "gone_s": round(took, 2),
                "left": b.double.left(),
            }
            if how is not signal.SIGKILL:
                trial["left"] = there  # when the flow has ended, nothing may be there
            (kills if how is signal.SIGKILL else stops).append(trial)
            print(trial, flush=True)
    good = [trial for trial in stops if not trial["left"] and trial["gone_s"] < 5 + AFTER_GRACE_S]
    reaped = [trial for trial in kills if not trial["left"]]
    return {"stops": stops, "kills": kills}, [
        (f"{len(stops)} flows stopped at random moments leave nothing within grace + {AFTER_GRACE_S:.0f} s",
         len(good) == len(stops), f"{len(good)}, the slowest {max(t['gone_s'] for t in stops)} s"),
        (f"{len(kills)} killed flows are reaped", len(reaped) == len(kills), f"{len(reaped)}"),
    ]  # fmt: skip


def _phase(b: Bench) -> str:
    pods = b.double.pods()
    if not pods:
        return "job made" if b.double.store.list("jobs") else "submitting"
    return "running" if len(b.double.pods("Running")) == 2 else "starting"


# Costs


def cost(folder: Path, _: argparse.Namespace) -> Any:
    """A stage of two pods with four GPUs each: evicted, lost with its node, out of memory and well, added up."""
    acts: list[tuple[str, Callable[[Bench], Any]]] = [
        ("well", lambda _: None),
        ("evicted", lambda b: b.at_step(60, lambda pod: b.double.kubelet.evict(NAMESPACE, pod["metadata"]["name"]))),
        ("out of memory", lambda b: b.at_step(
            80, lambda pod: b.double.kubelet.run_out_of_memory(NAMESPACE, pod["metadata"]["name"]))),
    ]  # fmt: skip
    told = truth = lost = 0.0
    runs = []
    for name, act in acts:
        with bench(folder / name.replace(" ", "-")) as b:
            act(b)
            spec = JobSpec("train_fusion", ("python", "-c", TRAIN, "200", "0.15"), nodes=2, gpus=4, grace_s=5)
            outcome: Outcome = b.run(spec)
            real = sum(container.seconds * 4 for container in b.double.kubelet.containers.values())
            runs.append(
                {"run": name, "told": outcome.gpu_seconds, "truth": round(real, 1), "lost": outcome.gpu_seconds_lost}
            )
            told, truth, lost = told + outcome.gpu_seconds, truth + real, lost + outcome.gpu_seconds_lost
            print(runs[-1], flush=True)
    off = abs(told - truth) / truth
    return {"runs": runs}, [
        ("GPU-hours within 1 % of the truth", off < COST_MAX, f"{told:.0f} of {truth:.0f} GPU-s: {off:.2%} off"),
        ("what was lost is told", 0 < lost < truth, f"{lost:.0f} GPU-s"),
    ]  # fmt: skip


PARTS = {"pipeline": pipeline, "away": away, "evict": evict, "cancel": cancel, "cost": cost}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The Kubernetes executor against the API double.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--moments", type=int, default=25, help="flows that are stopped; every fifth is killed")
    parser.add_argument("--evictions", type=int, default=10, help="trainings that are evicted")
    parser.add_argument("--seed", type=int, default=0, help="of moments, steps and ranks")
    parser.add_argument("--out", type=Path, help="results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

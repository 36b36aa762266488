"""A stage for the cluster tests, and what runs it: a double, an executor on it, and what was heard."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.cluster import Cluster
from flows.jobs import JobSpec, Outcome, Word
from flows.remote import ClusterExecutor
from ovi import config
from tests.cluster.double import NAMESPACE, Double
from tests.cluster.store import Object
from tests.waiting import wait_for

CLAIM = "ovi-work"

# A training in small: a curve that depends on every step before, saved when it is asked to stop, gone on with later.
# argv: steps, seconds a step. While there is a file hold-N, no pod goes beyond step N.
TRAIN = """
import hashlib, json, os, pathlib, signal, sys, time
steps, pause = int(sys.argv[1]), float(sys.argv[2])
rank = int(os.environ["PET_NODE_RANK"] or 0)
kept = pathlib.Path(f"state-{rank}.json")
state = json.loads(kept.read_text()) if kept.exists() else {"step": 0, "curve": ["start"]}
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
print(json.dumps({"event": "start", "what": "train", "total": steps}), flush=True)
print(f"from step {state['step']}", flush=True)
while state["step"] < steps:
    while pathlib.Path(f"hold-{state['step']}").exists() and not asked:
        time.sleep(0.01)
    if asked:
        kept.with_suffix(".new").write_text(json.dumps(state))
        os.replace(kept.with_suffix(".new"), kept)
        print(f"saved step {state['step']}", flush=True)
        sys.exit(75)
    time.sleep(pause)
    state["curve"].append(hashlib.sha256(state["curve"][-1].encode()).hexdigest())
    state["step"] += 1
    print(json.dumps({"event": "progress", "done": state["step"], "total": steps}), flush=True)
pathlib.Path(f"curve-{rank}.json").write_text(json.dumps(state["curve"]))
print(json.dumps({"event": "result", "steps": steps}), flush=True)
"""


def train(steps: int = 20, pause: float = 0.02, **more: Any) -> JobSpec:
    command = ("python", "-c", TRAIN, str(steps), str(pause))
    return JobSpec("train_fusion", command, **{"grace_s": 5.0, "deadline_s": 60.0, "nodes": 2, **more})


def curve(steps: int) -> list[str]:
    found = ["start"]
    for _ in range(steps):
        found.append(hashlib.sha256(found[-1].encode()).hexdigest())
    return found


@dataclass
class Bench:
    """One double and one executor."""

    double: Double
    work: Path
    where: config.Cluster
    heard: list[Word] = field(default_factory=list)

    def executor(self) -> ClusterExecutor:
        cluster = Cluster(NAMESPACE, kubeconfig=str(self.double.kubeconfig), patience_s=5.0)
        return ClusterExecutor(self.work, cluster, self.where)

    def run(self, spec: JobSpec) -> Outcome:
        return self.executor().run(spec, self.hear)

    def hear(self, word: Word) -> None:
        self.heard.append(dict(word))

    @property
    def notes(self) -> str:
        return " | ".join(str(word["text"]) for word in self.heard if word["event"] == "note")

    def done(self) -> int:
        """The newest step the first pod spoke of."""
        return max((int(word["done"]) for word in self.heard if word["event"] == "progress"), default=0)

    def curve(self, rank: int = 0) -> list[str]:
        return list(json.loads((self.work / f"curve-{rank}.json").read_text()))

    def meanwhile(self, action: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=action, daemon=True)
        thread.start()
        return thread

    def at_step(self, step: int, action: Callable[[Object], None], rank: int = 0) -> threading.Thread:
        """Do something to the pod of that rank when the first pod has come to a step; until then none goes on."""
        hold = self.work / f"hold-{step}"
        hold.touch()

        def act() -> None:
            wait_for(lambda: self.done() >= step, 600)
            action(self.pod(rank))
            hold.unlink()

        return self.meanwhile(act)

    def pod(self, rank: int = 0) -> Object:
        def found() -> list[Object]:
            key = "batch.kubernetes.io/job-completion-index"
            return [it for it in self.double.pods("Running") if it["metadata"]["annotations"][key] == str(rank)]

        wait_for(found)
        return found()[-1]


@contextlib.contextmanager
def bench(folder: Path, jobset: bool = True, **where: Any) -> Iterator[Bench]:
    work = folder / "work"
    work.mkdir(parents=True)
    with Double(folder / "double", {CLAIM: work}, jobset) as double:
        yield Bench(double, work, config.Cluster(**where))

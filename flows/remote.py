"""The executor of a cluster: a stage as a JobSet or Job, its words as they come, its deadlines, its end.

A preemption is no failure: the stage is started again and goes on at its last checkpoint (exit code 75 says that it
saved one), as often as `cluster.preemptions` allows. A stage whose nodes work apart is two Jobs: all the shares, each
retried alone, and then the command itself, which finds them done. Whatever ends the flow, its Lease ends all it owns.
Knows nothing of Prefect, DVC or MLflow, and of Kubernetes only dictionaries (flows/cluster.py is the door).
Try it: `pytest tests/flows/test_cluster.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import socket
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TextIO

from flows import manifests
from flows.cluster import JOBSET, Cluster, ClusterError, Object
from flows.diagnose import Diagnosis, ending, exit_code, finished, waiting
from flows.jobs import JobSpec, Listener, Outcome, Status, judge
from flows.lease import Lease
from flows.local import log_path
from flows.watching import Broken, Changed, Follower, Listed, News, Said, Watch
from flows.words import Words
from ovi import config
from ovi.errors import EXIT_FAILED, EXIT_PREEMPTED

POLL_S = 0.2
LOOK_S = 2.0  # between two looks at what keeps it waiting
LAST_WORDS_S = 15.0  # for the logs of pods that have ended
SILENT_S = 600.0  # without a word of any pod: a stage that hangs may have weeks to its deadline
RESTART = "jobset.sigs.k8s.io/restart-attempt"
SHOWN_PODS = 16  # above, only the first pod is shown; the log has them all


class ClusterExecutor:
    """Runs jobs one at a time, each logging to `root`/out/logs/<stage>.log with the pod's number before each line."""

    def __init__(self, root: str | Path, cluster: Cluster, where: config.Cluster) -> None:
        self._root, self._cluster = Path(root), cluster
        self._where = where if where.clone or where.claim else where.model_copy(update={"clone": _clone(self._root)})
        self._jobset = where.kind == "jobset" or (where.kind == "auto" and cluster.serves(JOBSET))

    def run(self, spec: JobSpec, listen: Listener) -> Outcome:
        """The outcome of the job. Whatever is raised meanwhile, nothing of it is left in the cluster first."""
        began = time.monotonic()
        name = f"{manifests.dns(spec.stage)}-{os.urandom(4).hex()}"
        log = log_path(self._root, spec.stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        attempts: list[Attempt] = []
        with (
            log.open("w", encoding="utf-8") as sink,
            Lease(self._cluster, self._where, name, spec, lambda: _drain(attempts)) as lease,
        ):
            steps, spare = _steps(spec), self._where.preemptions
            while True:
                number = f"{name}-{len(attempts) + 1}"
                attempt = Attempt(self._cluster, self._where, steps[0], number, lease, sink, listen)
                attempts.append(attempt)
                found = attempt.run(self._jobset, spare + 1)
                spare -= attempt.starts - 1
                if found.status is Status.SUCCEEDED and len(steps) > 1:
                    steps.pop(0)
                elif found.status is Status.PREEMPTED and spare > 0:
                    spare -= 1
                    listen({"event": "note", "text": f"{found.said or 'stopped after saving'}; starting it again"})
                else:
                    break
                attempt.remove()
        costs = [attempt.gpu_seconds() for attempt in attempts]
        words = attempts[-1].words
        return Outcome(
            found.status, found.exit_code, time.monotonic() - began, 0, found.said or words.last_line, found.advice,
            words.result, attempts=1 + self._where.preemptions - spare,
            gpu_seconds=sum(whole for whole, _ in costs), gpu_seconds_lost=sum(lost for _, lost in costs),
            image=attempts[-1].image(),
        )  # fmt: skip


def _clone(root: Path) -> str:
    """A name for this folder of this machine that Kubernetes takes as a label."""
    return hashlib.sha256(f"{socket.gethostname()}:{root.absolute()}".encode()).hexdigest()[:16]


def _steps(spec: JobSpec) -> list[JobSpec]:
    """What is run one after the other: nodes that work apart, then the command that puts their shares together."""
    whole = replace(spec, nodes=1, apart=False)
    return [spec, whole] if spec.apart and spec.nodes > 1 else [whole if spec.apart else spec]


def _drain(attempts: list[Attempt]) -> None:
    for attempt in attempts:
        attempt.drain()


@dataclass
class Pod:
    """The last that was heard of a pod."""

    item: Object
    words: Words
    follower: Follower | None = None
    gone: bool = False
    silent: bool = False  # its log has ended
    seen: float = field(default_factory=time.time)

    @property
    def index(self) -> int:
        return int(self.item["metadata"].get("annotations", {}).get(manifests.INDEX, 0))

    @property
    def age(self) -> tuple[int, str]:
        """(which start of its JobSet it belongs to, when it was made)."""
        meta = self.item["metadata"]
        return int(meta["labels"].get(RESTART, 0)), meta["creationTimestamp"]

    @property
    def phase(self) -> str:
        return str(self.item["status"].get("phase", "Pending"))

    @property
    def ended(self) -> bool:
        return self.gone or self.phase in ("Succeeded", "Failed")

    def seconds(self) -> float:
        """From its container's start to its end; of one whose end nobody saw, to the last that was heard of it."""
        for container in self.item["status"].get("containerStatuses", []):
            state = container.get("state", {})
            if "terminated" in state and state["terminated"].get("startedAt"):
                return _stamp(state["terminated"]["finishedAt"]) - _stamp(state["terminated"]["startedAt"])
            if "running" in state:
                return max(self.seen - _stamp(state["running"]["startedAt"]), 0.0)
        return 0.0


class Attempt:
    """One Job or JobSet and its pods, from its creation to its end."""

    def __init__(
        self, cluster: Cluster, where: config.Cluster, spec: JobSpec, name: str, lease: Lease, log: TextIO,
        listen: Listener,
    ) -> None:  # fmt: skip
        self._cluster, self._where, self._spec, self._name, self._lease = cluster, where, spec, name, lease
        self._log, self._listen = log, listen
        self._number = name.rpartition("-")[2]
        self._labels = f"{manifests.RUN}={lease.name},ovi.dev/attempt={self._number}"
        self._news: News = queue.Queue()
        self._pods: dict[str, Pod] = {}
        self._top: Object | None = None
        self._kind = "Job"
        self._gone = False
        self._deadline: float | None = None
        self._told: str | None = None
        self._heard = time.monotonic()
        self.words = Words(listen)  # of the first pod

    def run(self, jobset: bool, budget: int) -> Diagnosis:
        """How it ended; its objects are still there. A JobSet starts again by itself, at most `budget` times in all."""
        spec = replace(self._spec, labels={**self._spec.labels, "ovi.dev/attempt": self._number})
        objects = manifests.render(spec, self._name, self._lease.name, self._where, jobset, self._lease.reference)
        self._kind = objects[-1]["kind"]
        for item in objects:
            self._cluster.create(item)
        watches = [Watch(self._cluster, kind, self._labels, self._news) for kind in (self._kind, "Pod")]
        for watch in watches:
            watch.start()
        try:
            return self._follow(budget)
        finally:
            for watch in watches:
                watch.stop()

    def remove(self) -> None:
        """Delete its objects and wait until they and their pods are gone."""
        self._cluster.delete(self._kind, self._name)
        if self._kind == "Job":
            self._cluster.delete("Service", self._name)
        until = time.monotonic() + self._spec.grace_s + LAST_WORDS_S
        while self._cluster.get(self._kind, self._name) is not None and time.monotonic() < until:
            time.sleep(POLL_S)

    @property
    def starts(self) -> int:
        """How often it was started: a JobSet starts again by itself, and a pod that needs no others is replaced."""
        return max(Counter(pod.index for pod in self._pods.values()).values(), default=1)

    def gpu_seconds(self) -> tuple[float, float]:
        """(all, lost): lost is what pods ran that neither succeeded nor saved their state."""
        costs = [(pod.seconds() * self._spec.gpus, exit_code(pod.item) in (0, 75)) for pod in self._pods.values()]
        return sum(cost for cost, _ in costs), sum(cost for cost, kept in costs if not kept)

    def image(self) -> str:
        """What the first pod ran, by digest where its node told."""
        for pod in self._pods.values():
            for container in pod.item["status"].get("containerStatuses", []):
                return str(container.get("imageID") or container.get("image"))
        return self._spec.image or self._where.image

    def drain(self) -> None:
        """Hear everything that has come by now."""
        while True:
            try:
                self._hear(self._news.get_nowait())
            except queue.Empty:
                return

    def _follow(self, budget: int) -> Diagnosis:
        began = time.monotonic()
        looked = began - LOOK_S
        stuck_since: float | None = None
        while True:
            self._wait()
            self.drain()
            self._lease.check()
            now = time.monotonic()
            if self._gone:
                return Diagnosis(
                    Status.CANCELLED, EXIT_FAILED, "somebody deleted its Job", "run the same command again"
                )
            if self._top is not None and finished(self._top) and self._all_ended():
                self._last_words()
                return self._ending()
            if self.starts > budget:
                return Diagnosis(Status.PREEMPTED, EXIT_PREEMPTED, "taken away too often", "raise cluster.preemptions")
            if self._running():
                self._deadline = self._deadline or now + self._spec.deadline_s
                if now > self._deadline:
                    return Diagnosis(Status.TIMED_OUT, EXIT_FAILED, "", judge(0, timed_out=True)[1])
                stuck_since = None
                began = now
                self._note_silence(now)
            elif self._top is not None and now - looked > LOOK_S:
                looked = now
                self._deadline = None  # as in the cluster: what waits again gets its whole time again
                held = self._what_holds_it()
                if held is None or held.mends_itself:
                    stuck_since = None
                elif now - (stuck_since := stuck_since or now) > self._where.stuck_s:
                    return held
                if now - began > self._where.start_s:
                    said = held.said if held else "its pods do not start"
                    advice = held.advice if held else "`kubectl describe` them"
                    return Diagnosis(Status.TIMED_OUT, EXIT_FAILED, f"it did not start in time: {said}", advice)

    def _all_ended(self) -> bool:
        """Asked once more when its end is known: news of pods may lag behind that of their owner."""
        if not all(pod.ended for pod in self._pods.values()):
            return False
        self._hear(Listed("Pod", self._cluster.list("Pod", self._labels)[0]))
        return all(pod.ended for pod in self._pods.values())

    def _running(self) -> bool:
        """Whether all pods have begun, and one that has ended has; of pods that need no others, whether any runs."""
        begun = [pod.phase for pod in self._current() if pod.phase != "Pending"]
        enough = "Running" in begun if self._spec.apart else len(begun) == self._spec.nodes
        if self._suspended() or not enough:
            return False
        if self._told != "runs":
            self._told, self._heard = "runs", time.monotonic()
            several = f"{self._spec.nodes} pods {'work a share each' if self._spec.apart else 'run'}"
            where = several if self._spec.nodes > 1 else "its pod runs"
            self._listen({"event": "note", "text": f"{where} ({self._name})"})
        return True

    def _note_silence(self, now: float) -> None:
        if now - self._heard > SILENT_S:
            self._heard = now
            text = f"no word for {SILENT_S / 60:.0f} minutes; if it hangs, stop it: it goes on at its last checkpoint"
            self._listen({"event": "note", "text": text})

    def _current(self) -> list[Pod]:
        """The newest pod of each index."""
        newest = {pod.index: pod for pod in sorted(self._pods.values(), key=lambda pod: pod.age)}
        last = max((pod.age[0] for pod in newest.values()), default=0)
        return [pod for pod in newest.values() if pod.age[0] == last]

    def _suspended(self) -> bool:
        return bool(self._top and self._top["spec"].get("suspend"))

    def _what_holds_it(self) -> Diagnosis | None:
        assert self._top is not None
        pods = [pod.item for pod in self._pods.values() if not pod.ended]
        events: list[Object] = []
        if not pods:
            try:
                events, _ = self._cluster.list("Event", fields="reason=FailedCreate")
            except ClusterError:
                events = []  # not worth more than a missing explanation
            events = [it for it in events if str(it.get("involvedObject", {}).get("name")).startswith(self._name)]
        held = waiting(pods, self._top, events)
        if held is not None and held.said != self._told:
            self._told = held.said
            self._listen({"event": "note", "text": f"{held.said}; {held.advice}"})
        return held

    def _ending(self) -> Diagnosis:
        assert self._top is not None
        pods = self._current()
        found = ending([pod.item for pod in pods], self._top)
        culprits = [pod for pod in pods if exit_code(pod.item) == found.exit_code and pod.words.last_line]
        if found.said or not culprits or found.status is Status.SUCCEEDED:
            return found
        return replace(found, said=culprits[0].words.last_line)

    def _last_words(self) -> None:
        until = time.monotonic() + LAST_WORDS_S
        while time.monotonic() < until and not all(pod.silent or pod.follower is None for pod in self._pods.values()):
            self._wait()

    def _wait(self) -> None:
        with contextlib.suppress(queue.Empty):
            self._hear(self._news.get(timeout=POLL_S))

    def _hear(self, news: object) -> None:
        if isinstance(news, Said):
            self._say(self._pods[news.uid], news.line)
        elif isinstance(news, Broken):
            raise news.error
        elif isinstance(news, Listed):
            for item in news.items:
                self._see(news.kind, item, False)
            uids = {item["metadata"]["uid"] for item in news.items}
            if news.kind == "Pod":
                for uid, pod in self._pods.items():
                    if uid not in uids:
                        self._lost(pod)
            elif not news.items and self._top is not None:
                self._gone = True
        elif isinstance(news, Changed):
            self._see(news.kind, news.item, news.gone)

    def _see(self, kind: str, item: Object, gone: bool) -> None:
        if kind != "Pod":
            if item["metadata"]["name"] == self._name:
                self._top, self._gone = item, gone and not finished(item)
            return
        uid = item["metadata"]["uid"]
        pod = self._pods.get(uid)
        if pod is None:
            first = int(item["metadata"].get("annotations", {}).get(manifests.INDEX, 0)) == 0
            pod = self._pods[uid] = Pod(item, self.words if first else Words(_nothing))
        pod.item, pod.seen = item, time.time()
        begun = any("running" in it["state"] or "terminated" in it["state"] for it in _containers(item))
        if begun and pod.follower is None:
            pod.follower = Follower(self._cluster, item["metadata"]["name"], uid, self._news)
            pod.follower.start()
        if gone:
            self._lost(pod)
        elif pod.ended and pod.follower is not None:
            pod.follower.finish()

    def _lost(self, pod: Pod) -> None:
        pod.gone = True
        if pod.follower is not None:
            pod.follower.finish()

    def _say(self, pod: Pod, line: str | None) -> None:
        if line is None:
            pod.silent = True
            return
        pod.seen, self._heard = time.time(), time.monotonic()
        self._log.write(f"[{pod.index}] {line.rstrip()}\n")
        self._log.flush()
        before = pod.words.last_line
        pod.words.hear(line)
        if pod.index and pod.words.last_line != before and self._spec.nodes <= SHOWN_PODS:
            self._listen({"event": "line", "text": f"[{pod.index}] {pod.words.last_line}"})


def _nothing(_word: object) -> None:
    """Of the other pods only plain lines are shown, with their number; see _say."""


def _containers(item: Object) -> list[Object]:
    return [it for it in item["status"].get("containerStatuses", []) if it.get("state")]


def _stamp(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()

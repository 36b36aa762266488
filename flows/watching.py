"""Threads that bring a cluster's news to one queue: a Watch of objects, a Follower of a pod's log.

A Watch lists, watches, and lists again whenever the connection breaks, the server has forgotten where it was (410), or
it was quiet for a while; so what it tells is late at worst, never lost. A Follower goes on where its connection broke,
by the time of the last line it told.
Try it: `pytest tests/flows/test_cluster.py`.
"""

from __future__ import annotations

import datetime
import queue
import random
import threading
import time
from dataclasses import dataclass
from typing import Any

from flows.cluster import EXPIRED, Cluster, ClusterError, Object
from ovi.errors import OviError

WATCH_S = 240  # a watch is renewed so often; a connection that died silently is noticed then
AGAIN_S = 0.5  # between two tries
HICCUP_S = 5.0  # longest pause of a follower between two tries


@dataclass(frozen=True)
class Listed:
    """All objects there are now."""

    kind: str
    items: list[Object]


@dataclass(frozen=True)
class Changed:
    kind: str
    gone: bool
    item: Object


@dataclass(frozen=True)
class Said:
    """A line of a pod's log; None: there is no more to come."""

    uid: str
    line: str | None


@dataclass(frozen=True)
class Broken:
    """A watch that gave up, with its reason."""

    error: OviError


News = queue.Queue[Any]


class Watch(threading.Thread):
    """Tells Listed once a listing, Changed once a change, Broken at most once."""

    def __init__(self, cluster: Cluster, kind: str, labels: str, news: News) -> None:
        super().__init__(daemon=True, name=f"watch {kind}")
        self._cluster, self._kind, self._labels, self._news = cluster, kind, labels, news
        self._stopped = threading.Event()

    def stop(self) -> None:
        """It tells nothing from now on; the thread ends by itself."""
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                items, version = self._cluster.list(self._kind, self._labels)
                self._tell(Listed(self._kind, items))
                self._follow(version)
            except ClusterError as error:
                if error.code not in (0, 401, EXPIRED, 429) and error.code < 500:
                    self._tell(Broken(error))
                    return
                if error.code == 0 and "does not answer" in str(error):  # the listing has waited for it long enough
                    self._tell(Broken(error))
                    return
            except OviError as error:
                self._tell(Broken(error))
                return
            self._stopped.wait(AGAIN_S * random.uniform(0.5, 1.5))

    def _follow(self, version: str) -> None:
        for change, item in self._cluster.watch(self._kind, self._labels, version, WATCH_S):
            if self._stopped.is_set():
                return
            if change != "BOOKMARK":
                self._tell(Changed(self._kind, change == "DELETED", item))

    def _tell(self, news: Any) -> None:
        if not self._stopped.is_set():
            self._news.put(news)


class Follower(threading.Thread):
    """Tells the lines of one pod's container, each once, and their end."""

    def __init__(self, cluster: Cluster, pod: str, uid: str, news: News) -> None:
        super().__init__(daemon=True, name=f"log of {pod}")
        self._cluster, self._pod, self._uid, self._news = cluster, pod, uid, news
        self._over = threading.Event()
        self._last = ""

    def finish(self) -> None:
        """The pod has ended: what is left to read is read, and a log that cannot be had is given up."""
        self._over.set()

    def run(self) -> None:
        try:
            self._follow()
        finally:
            self._news.put(Said(self._uid, None))

    def _follow(self) -> None:
        wait = 0.1
        while True:
            over = self._over.is_set()
            try:
                for moment, line in self._cluster.logs(self._pod, _age(self._last), follow=not over):
                    if moment > self._last:
                        self._last, wait = moment, 0.1
                        self._news.put(Said(self._uid, line))
                if over:
                    return
            except ClusterError as error:
                if error.code == 404 or (over and error.code == 400):
                    return
            wait = min(wait * 2, HICCUP_S)
            if over:
                time.sleep(wait)  # the server hiccups, and the rest of the log is still to be had
            else:
                self._over.wait(wait)


def _age(moment: str) -> int | None:
    """Seconds since `moment`, with a margin for clocks that differ; None when there is none."""
    if not moment:
        return None
    then = datetime.datetime.fromisoformat(moment).timestamp()  # nanoseconds, and the node's own time zone
    return max(int(time.time() - then), 0) + 30

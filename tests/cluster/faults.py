"""What goes wrong between a client and the double: rules that the server asks before and while it answers.

A rule counts the requests it hits and is used up after `times`. Faults of pods and nodes are in kubelet.py.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class Fault:
    """Requests whose "METHOD /path?query" contains `hits`."""

    hits: str
    code: int = 0  # answered instead; 0: none
    after: bool = False  # the request is carried out, and then answered with `code`
    cut_after: int | None = None  # events or log lines until the connection breaks without an end
    delay_s: float = 0.0
    retry_after_s: int | None = None
    times: int = 1


@dataclass
class Faults:
    rules: list[Fault] = field(default_factory=list)
    hit: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self.rules.extend(faults)

    def take(self, request: str) -> Fault | None:
        with self._lock:
            for fault in self.rules:
                if fault.hits in request and fault.times > 0:
                    fault.times -= 1
                    self.hit.append(request)
                    return fault
        return None

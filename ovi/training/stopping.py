"""SIGTERM and SIGINT as a wish to stop: remembered, passed on to child processes, and looked at between two steps.

Try it: `kill -TERM` a running `ovi train`; it saves a checkpoint and exits with 75.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """A context manager that, called, says whether a stop was asked for since it was entered.

    Only a process's main thread may take signals; elsewhere it never says so.
    """

    def __init__(self) -> None:
        self._asked = False
        self._old: dict[signal.Signals, Any] = {}
        self._pids: list[int] = []

    def __call__(self) -> bool:
        return self._asked

    def pass_on_to(self, pids: list[int]) -> None:
        """Signal these processes too, at once if a stop was already asked for."""
        self._pids = pids
        if self._asked:
            self._forward()

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        self._forward()

    def _forward(self) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

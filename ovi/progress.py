"""How long work reports itself: a bar with ETA on a terminal, plain lines elsewhere, JSON lines for programs.

A stage takes a `Progress` and calls `start`, `advance` and `note`; it never prints. `result` is the stage's
answer: the last JSON line on stdout under `--json`, a short human line otherwise.
Try it: `ovi curate --json | tail -1`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichBar


class Progress(Protocol):
    """What a stage may say while it works."""

    def start(self, what: str, total: int, unit: str = "") -> None:
        """Begin a piece of work of `total` units; ends the piece before it."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """`n` more units are done; `figures` are the numbers worth showing now (loss, PSNR, ...)."""

    def note(self, text: str) -> None:
        """One line worth keeping in the log."""

    def result(self, **values: Any) -> None:
        """The stage's answer, once, at its end."""

    def close(self) -> None: ...


class Silent:
    """Says nothing; for tests and for calls from Python."""

    def start(self, what: str, total: int, unit: str = "") -> None: ...
    def advance(self, n: int = 1, **figures: float) -> None: ...
    def note(self, text: str) -> None: ...
    def result(self, **values: Any) -> None: ...
    def close(self) -> None: ...


class PlainLines(Silent):
    """A line every few seconds, for logs and pipes."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._what, self._total, self._done, self._unit = "", 0, 0, ""
        self._began = self._spoke = time.monotonic()

    def start(self, what: str, total: int, unit: str = "") -> None:
        self._what, self._total, self._done, self._unit = what, total, 0, unit
        self._began = self._spoke = time.monotonic()

    def advance(self, n: int = 1, **figures: float) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._spoke < self._every_s and self._done < self._total:
            return
        self._spoke = now
        left = (now - self._began) / max(self._done, 1) * max(self._total - self._done, 0)
        shown = "".join(f"  {name} {value:.4g}" for name, value in figures.items())
        self._say(f"{self._what}  {self._done}/{self._total} {self._unit}  about {left:.0f} s left{shown}")

    def note(self, text: str) -> None:
        self._say(text)

    def result(self, **values: Any) -> None:
        self._say("  ".join(f"{name}={value}" for name, value in values.items() if not isinstance(value, (dict, list))))

    @staticmethod
    def _say(text: str) -> None:
        print(" ".join(text.split()) if "\n" in text else text, flush=True)


class JsonLines(Silent):
    """Every word as one JSON object on stdout: {"event": "start"|"progress"|"note"|"result", ...}."""

    def __init__(self, every_s: float = 1.0) -> None:
        self._every_s, self._spoke = every_s, 0.0
        self._what, self._total, self._done = "", 0, 0

    def start(self, what: str, total: int, unit: str = "") -> None:
        self._what, self._total, self._done, self._spoke = what, total, 0, 0.0
        self._say(event="start", what=what, total=total, unit=unit)

    def advance(self, n: int = 1, **figures: float) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._spoke < self._every_s and self._done < self._total:
            return
        self._spoke = now
        self._say(event="progress", what=self._what, done=self._done, total=self._total, **figures)

    def note(self, text: str) -> None:
        self._say(event="note", text=text)

    def result(self, **values: Any) -> None:
        self._say(event="result", **values)

    @staticmethod
    def _say(**record: Any) -> None:
        line = json.dumps(record, sort_keys=False, default=str) + "\n"
        print(line, end="", flush=True)  # in one piece even when unbuffered: ranks may share the stream


class Bar(Silent):
    """A rich progress bar with ETA on stderr; notes above it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar = RichBar(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=self._console,
        )  # fmt: skip
        self._task: Any = None

    def start(self, what: str, total: int, unit: str = "") -> None:
        if self._task is None:
            self._bar.start()
        self._task = self._bar.add_task(what, total=total, shown=unit)

    def advance(self, n: int = 1, **figures: float) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._bar.advance(self._task, n)
        if shown:
            self._bar.update(self._task, shown=shown)

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def result(self, **values: Any) -> None:
        self.close()
        print("  ".join(f"{name}={value}" for name, value in values.items() if not isinstance(value, (dict, list))))

    def close(self) -> None:
        self._bar.stop()


def reporter(as_json: bool = False) -> Progress:
    """The right voice for where stdout goes: JSON lines if asked for, a bar on a terminal, plain lines otherwise."""
    if as_json:
        return JsonLines()
    return Bar() if sys.stdout.isatty() else PlainLines()

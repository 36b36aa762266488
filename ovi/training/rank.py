"""One rank of a stage: a process that reads its task from stdin and says everything on stdout as JSON lines.

stdin stays open as long as the process that started it lives; when it ends, for whatever reason, the rank ends too.
Lines: {"to": "progress"|"run", "call", "args", "named"} are calls for the real progress and run over there;
{"done": result}, {"error": line, "code": exit code} and {"crash": line, "lost_peer": bool} end the conversation.
Libraries that print reach stderr, which is the rank's log file.
Try it: nothing to try by hand; `ovi train STAGE` with training.ranks=2 starts two of these.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

from ovi.errors import OviError, one_line
from ovi.progress import Silent
from ovi.training.job import Job
from ovi.training.place import Place
from ovi.training.stopping import Stopping


class Relay(Silent):
    """Stands for a progress or a run that lives in the process that started this one."""

    def __init__(self, stream: TextIO, to: str) -> None:
        self._stream, self._to = stream, to

    def start(self, what: str, total: int, unit: str = "") -> None:
        self._call("start", what, total, unit)

    def advance(self, n: int = 1, **figures: float) -> None:
        self._call("advance", n, **figures)

    def note(self, text: str) -> None:
        self._call("note", text)

    def log_metrics(self, values: dict[str, float | None], step: int = 0) -> None:
        self._call("log_metrics", values, step)

    def log_file(self, path: str | Path, folder: str = "") -> None:
        self._call("log_file", str(path), folder)

    def _call(self, call: str, *args: Any, **named: Any) -> None:
        say(self._stream, to=self._to, call=call, args=args, named=named)


class Mute(Silent):
    """The progress and run of every rank but the first."""

    def log_metrics(self, values: dict[str, float | None], step: int = 0) -> None: ...
    def log_file(self, path: str | Path, folder: str = "") -> None: ...


def say(stream: TextIO, **line: Any) -> None:
    print(json.dumps(line), file=stream, flush=True)


def main() -> int:
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    with Stopping() as stopping:
        try:
            from ovi.training import loop

            place = Place(task["rank"], task["ranks"], Path(task["meeting"]), task["rank"])
            first = place.rank == 0
            progress, run = (Relay(stream, to) if first else Mute() for to in ("progress", "run"))
            result = loop.train(Job.from_json(task["job"]), place, progress, run, stopping)
        except OviError as error:
            say(stream, error=one_line(error), code=error.exit_code)
            return error.exit_code
        except Exception as error:
            traceback.print_exc()
            say(stream, crash=f"{type(error).__name__}: {one_line(error)}", lost_peer=lost_peer(error))
            return 1
        if first:
            say(stream, done=result)
        return 0


def _end_with_the_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def lost_peer(error: Exception) -> bool:
    """Whether a collective failed because another rank was gone: the reason is to be found over there."""
    return any(word in str(error) for word in ("Connection closed by peer", "Connection reset", "gloo", "NCCL"))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # not through the libraries' exit handlers: what matters is on disk and said

"""SIGTERM and a closed terminal as an exception, so that every `finally` between here and the process's end runs.

Try it: `ovi ui`, then `kill` it from another terminal.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextlib.contextmanager
def one_line_stop(words: str) -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise Stopped; they and Ctrl-C end the process with a line, exit 128 + n."""
    before = {number: signal.signal(number, _raise) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        print(f"\novi: stopped by Ctrl-C; {words}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Stopped as stop:
        print(f"ovi: stopped by {stop}; {words}", file=sys.stderr)
        sys.exit(stop.exit_code)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)

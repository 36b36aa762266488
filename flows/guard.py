"""Runs one command and sees to it that nothing of it outlives us: the process between the flow and a stage or server.

`python guard.py PARENT_PID GRACE_S command ...`. On Linux it adopts orphans (PR_SET_CHILD_SUBREAPER), because ranks and
workers start sessions of their own; it looks whether its parent still lives, because a flow may be killed with -9. A
SIGTERM, or that death, is passed to the command alone, as Kubernetes does with a container's first process; GRACE_S
later, or at a second SIGTERM, everything is killed. What the command leaves behind when it ends is stopped too. Exits
with the command's code, 128 + n for signal n. Knows nothing of stages; psutil is its only import, so it starts at once.
Try it: `python flows/guard.py $$ 5 sleep 100`, then Ctrl-C.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL_S = 0.05
STRAY_EXIT_S, STRAY_TERM_S = 1.0, 5.0  # what a left-over gets to end by itself, and to obey SIGTERM


class Guard:
    def __init__(self, parent: int, grace_s: float, command: list[str]) -> None:
        self._parent, self._grace_s = parent, grace_s
        self._code: int | None = None
        self._kill_at: float | None = None  # set by the first request to stop
        self._asked = False
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_stop)
        self._child = subprocess.Popen(command, preexec_fn=_die_with_guard)

    def watch(self) -> int:
        """The command's exit code once nothing of it is left."""
        while self._code is None:
            if self._asked:
                self._asked = False
                self._pass_on()
            if self._kill_at is None and os.getppid() != self._parent:
                self._pass_on()
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                _signal_all(signal.SIGKILL)
            self._reap()
            time.sleep(POLL_S)
        self._clear_strays()
        return self._code if self._code >= 0 else 128 - self._code

    def _on_stop(self, *_: object) -> None:
        self._asked = True  # acted upon in the loop: a handler must not race with reaping

    def _pass_on(self) -> None:
        if self._kill_at is not None:  # asked twice
            self._kill_at = time.monotonic()
            return
        self._kill_at = time.monotonic() + self._grace_s
        # Not Popen's own: it would bury a command that has just ended, and `_reap` would wait for that for ever.
        os.kill(self._child.pid, signal.SIGTERM)

    def _reap(self) -> None:
        """Collect ended children, ours and adopted ones."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._child.pid:
                self._code = self._child.returncode = os.waitstatus_to_exitcode(status)

    def _clear_strays(self) -> None:
        began = time.monotonic()
        termed = False
        while psutil.Process().children():
            waited = time.monotonic() - began
            if waited > STRAY_EXIT_S + STRAY_TERM_S or self._asked:
                _signal_all(signal.SIGKILL)
            elif waited > STRAY_EXIT_S and not termed:
                termed = True
                _signal_all(signal.SIGTERM)
            self._reap()
            time.sleep(POLL_S)


def _signal_all(number: signal.Signals) -> None:
    for process in psutil.Process().children(recursive=True):
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_guard() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(parent: int, grace_s: float, command: list[str]) -> int:
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        guard = Guard(parent, grace_s, command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        return 127
    return guard.watch()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))

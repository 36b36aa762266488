"""Processes that end when they should: with their parent, or as a whole tree.

Try it: `pytest tests/services/test_processes.py`.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time

import psutil

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """From now on the calling process is killed when the one that started it ends. Linux only; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def stop_tree(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """SIGTERM to the process, `patience_s` to end in order, then SIGKILL to it and all it ever started that is left."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    if process.poll() is None:
        process.terminate()
    deadline = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    _, left = psutil.wait_procs(family[1:], timeout=0.5 if process.poll() is not None else 0.0)
    if process.poll() is None:
        process.kill()
    for member in left:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=5)
    process.wait()

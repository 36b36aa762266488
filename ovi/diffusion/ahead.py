"""Work one item ahead: a thread makes the next item of an iterator while the caller is busy with this one.

Try it: `pytest tests/diffusion/test_ahead.py`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

Item = TypeVar("Item")
DEPTH = 1  # items made and not yet taken, beside the one in the making


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items in the same order; an error in the making comes where the item would have come.

    A caller that stops early stops the making too, after the item at hand.
    """
    made: queue.Queue[tuple[str, object]] = queue.Queue(DEPTH)
    stopped = threading.Event()

    def make() -> None:
        last: tuple[str, object] = ("end", None)
        try:
            for item in items:
                if not _put(made, ("item", item), stopped):
                    return
        except BaseException as error:
            last = ("error", error)
        _put(made, last, stopped)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while (got := made.get())[0] == "item":
            yield got[1]  # type: ignore[misc]
        if got[0] == "error":
            raise got[1]  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()


def _put(made: queue.Queue[tuple[str, object]], what: tuple[str, object], stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            made.put(what, timeout=0.05)
            return True
        except queue.Full:
            continue
    return False

"""Batches made ahead of time by threads. What a batch holds is a function of its number, so threads change nothing.

It does not know what a batch is or who asks; its whole state is the number that is asked for.
Try it: `python -c "from ovi.training.loader import Loader; print(Loader(lambda n: n * n, 2).take(3))"`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Loader(Generic[Item]):
    """`make(number)` on demand; with workers, the numbers after the one asked for are made meanwhile."""

    def __init__(self, make: Callable[[int], Item], workers: int) -> None:
        self._make, self._workers = make, workers
        self._threads = ThreadPoolExecutor(workers) if workers else None
        self._ahead: dict[int, Future[Item]] = {}

    def take(self, number: int) -> Item:
        if self._threads is None:
            return self._make(number)
        wanted = range(number, number + 1 + self._workers)
        for other in set(self._ahead) - set(wanted):
            self._ahead.pop(other).cancel()
        for each in wanted:
            if each not in self._ahead:
                self._ahead[each] = self._threads.submit(self._make, each)
        return self._ahead.pop(number).result()

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

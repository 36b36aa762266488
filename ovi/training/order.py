"""Which samples a batch holds and every random number they see: pure functions of the seed and a position.

Nothing here has state that must be saved: the loader's position is the number of the next batch, and a noise is
fixed by (seed, stage, sample, visit, name). So inputs are the same for any number of ranks and after any restart.
It does not know what a sample is: it deals in indices, and draws by a sample's id.
Try it: `python -c "from ovi.training.order import Order; print(Order(['a'] * 5, seed=0, batch=3).batch(1))"`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pick:
    """Sample `index`, seen for the `visit`-th time (from 0)."""

    index: int
    visit: int


class Order:
    """An endless row of batches over samples that are only batched with their own group (same latent shape).

    Within a group the samples come in a fresh keyed permutation a visit; batches run on across its end, so a group
    smaller than a batch repeats. Groups take turns so that over len(groups) batches every sample is seen `batch` times.
    """

    def __init__(self, groups: Sequence[Hashable], seed: int, batch: int) -> None:
        if not groups:
            raise ValueError("an order needs at least one sample")
        self._seed, self._batch = seed, batch
        names = sorted(set(groups), key=repr)
        self._members = [np.array([i for i, g in enumerate(groups) if g == name]) for name in names]
        self._turns = _turns([len(members) for members in self._members])

    def batch(self, k: int) -> list[Pick]:
        """The samples of batch `k` = 0, 1, ...; a function of the constructor's arguments and `k` alone."""
        cycle, turn = divmod(k, len(self._turns))
        group, nth = self._turns[turn]
        members = self._members[group]
        start = (cycle * len(members) + int(nth)) * self._batch  # a group has len(members) turns in a cycle
        picks = []
        for position in range(start, start + self._batch):
            visit, place = divmod(position, len(members))
            picks.append(Pick(int(members[permutation(len(members), self._seed, int(group), visit)[place]]), visit))
        return picks


def dealt(sizes: Sequence[int], hands: int) -> list[list[int]]:
    """The places of `sizes` in so many hands of nearly equal sums: the largest first, each to the least so far.

    Equal sizes are dealt in turn. In a hand, places are in their own order.
    """
    sums = [(0, hand) for hand in range(hands)]
    found: list[list[int]] = [[] for _ in range(hands)]
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        total, hand = heappop(sums)
        found[hand].append(place)
        heappush(sums, (total + sizes[place], hand))
    return [sorted(hand) for hand in found]


class Draws:
    """Everything chance decides about one visit of one sample, by name."""

    def __init__(self, seed: int, stage: str, sample: str, visit: int) -> None:
        self._key = (seed, stage, sample, visit)

    def normal(self, name: str, shape: Sequence[int]) -> NDArray[np.float32]:
        return np.random.Generator(_philox(*self._key, name)).standard_normal(tuple(shape), dtype=np.float32)

    def uniform(self, name: str) -> float:
        """In [0, 1)."""
        return float(np.random.Generator(_philox(*self._key, name)).random())


@lru_cache(maxsize=16)
def permutation(n: int, *key: Hashable) -> NDArray[np.int64]:
    """A permutation of range(n) fixed by `key`; built on Philox's raw output, which numpy promises never to change."""
    return np.argsort(_philox("permutation", *key).random_raw(n), kind="stable")


def keyed_seed(*key: Hashable) -> int:
    """A 63-bit seed for generators that are not ours, such as torch's when it initialises weights."""
    return int.from_bytes(_digest(key)[:8], "big") >> 1


def _philox(*key: Hashable) -> np.random.Philox:
    return np.random.Philox(key=int.from_bytes(_digest(key), "big"))


def _digest(key: Sequence[Hashable]) -> bytes:
    return blake2b(repr(tuple(key)).encode(), digest_size=16).digest()


def _turns(sizes: list[int]) -> NDArray[np.int64]:
    """[sum(sizes), 2] of (group, its nth batch), spread evenly: a group's nth turn is due at (nth + 1/2) / size."""
    if len(sizes) == 1:
        return np.stack([np.zeros(sizes[0], np.int64), np.arange(sizes[0])], axis=1)
    turns = [((nth + 0.5) / size, group, nth) for group, size in enumerate(sizes) for nth in range(size)]
    return np.array([(group, nth) for _, group, nth in sorted(turns)], np.int64)

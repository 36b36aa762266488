"""What a figure is of: a metric's identity, and a score with how many clips it stands for.

Two scores may be compared only where their identities agree; the hash says so in one word. It computes nothing.
Try it: `python -c "from ovi.evaluation.metric import Identity; print(Identity('clap', 'clap-laion-htsat').hash)"`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

from ovi.errors import OviError
from ovi.evaluation.results import Results

NONE = "none"


@dataclass(frozen=True)
class Identity:
    """All that changes a metric's numbers for the same clips."""

    metric: str  # e.g. fd
    backbone: str = NONE  # the network and what is taken of it, e.g. panns-cnn14-16k
    weights: str = NONE  # sha256 of its file
    resampler: str = NONE  # from the clip's rate to the network's
    normaliser: str = NONE  # of sound or text before the network or the comparison
    protocol: str = ""  # everything else: which clips against which, splits, crops, seeds

    @property
    def hash(self) -> str:
        """16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Score:
    """A number, or None with the reason; of n clips that counted and n_failed that did not."""

    identity: Identity
    value: float | None
    n: int
    n_failed: int
    reason: str = ""

    @classmethod
    def of(cls, identity: Identity, n: int, n_failed: int, compute: Callable[[], float]) -> Score:
        """What `compute` gives; null for the reason that it raises as OviError, or for a number that is not finite."""
        try:
            value = compute()
        except OviError as error:
            return cls(identity, None, n, n_failed, str(error))
        if not math.isfinite(value):
            return cls(identity, None, n, n_failed, f"came out as {value}")
        return cls(identity, float(value), n, n_failed)

    def write(self, name: str, results: Results) -> None:
        """<name>, <name>/n and <name>/n_failed."""
        results.take(name, self.value, self.reason)
        results.set(f"{name}/n", self.n)
        results.set(f"{name}/n_failed", self.n_failed)

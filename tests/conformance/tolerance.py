"""How far two things are apart, and how much of a stated tolerance that uses.

Tolerances come as an index states them: {"rtol", "atol"}, {"metric": "relative L2", "max"}, "exact", or a text such as
"rtol 1e-4 atol 1e-4*max|x|", where the absolute part is a share of the largest expected value.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
TEXT = re.compile(rf"(?:rtol {NUMBER})?[\s,]*(?:atol {NUMBER}(\*max\|[^|]*\|)?)?")


class Unfit(Exception):
    """A case that cannot be run as it is; the message says why, in one line."""


@dataclass(frozen=True)
class Tolerance:
    """|got - want| <= atol + rtol * |want|, or |got - want|_2 <= l2 * |want|_2. All zero: exact."""

    rtol: float = 0.0
    atol: float = 0.0
    of_largest: bool = False  # atol is a share of the largest |want|
    l2: float | None = None

    @classmethod
    def of(cls, stated: Any) -> Tolerance:
        """Raises Unfit for a form that is not known."""
        if isinstance(stated, dict) and stated and stated.keys() <= {"rtol", "atol"}:
            return cls(**stated)
        if isinstance(stated, dict) and stated.get("metric") == "relative L2" and "max" in stated:
            return cls(l2=stated["max"])
        if stated == "exact":
            return cls()
        found = TEXT.match(stated) if isinstance(stated, str) else None
        if not found or not found[0].strip():
            raise Unfit(f"the tolerance {stated!r} is of no known form")
        return cls(float(found[1] or 0), float(found[2] or 0), of_largest=found[3] is not None)

    def __str__(self) -> str:
        if self.l2 is not None:
            return f"relative L2 {self.l2:g}"
        parts = (f"rtol {self.rtol:g}" * (self.rtol > 0), f"atol {self.atol:g}" * (self.atol > 0))
        return " ".join(filter(None, parts)) + "*max" * self.of_largest or "exact"


@dataclass(frozen=True)
class Finding:
    """One comparison. error: the largest absolute difference (relative L2 where that is the measure; how many differ,
    of things that are no numbers). share: of the tolerance that this uses; above 1 it fails.
    """

    what: str
    error: float
    share: float
    tolerance: Tolerance


def measure(what: str, got: Any, want: Any, tolerance: Tolerance) -> Finding:
    """Numbers and arrays by their differences; dicts and lists of other things by how many entries differ."""
    if isinstance(want, dict):
        different = [key for key in {**want, **got} if key not in got or key not in want or got[key] != want[key]]
        return _counted(f"{what} {different[0]}" if different else what, len(different))
    got, want = _array(got), _array(want)
    if got.shape != want.shape:
        return Finding(f"{what} is {list(got.shape)}, should be {list(want.shape)}", math.inf, math.inf, tolerance)
    if want.dtype.kind not in "biuf" or got.dtype.kind not in "biuf":
        return _counted(what, int((got != want).sum()))
    got, want = got.astype(np.float64), want.astype(np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))  # infinite or undefined, as expected
    with np.errstate(invalid="ignore"):
        error = np.nan_to_num(np.where(same, 0.0, np.abs(got - want)), nan=math.inf)
    if tolerance.l2 is not None:
        apart = float(np.linalg.norm(error) / np.linalg.norm(want)) if error.any() else 0.0
        used = apart / tolerance.l2 if tolerance.l2 else math.inf if apart else 0.0
        return Finding(what, apart, used, tolerance)
    size = np.nan_to_num(np.abs(want), posinf=0.0)
    largest = size.max(initial=0.0) if tolerance.of_largest else 1.0
    allowed = tolerance.atol * largest + tolerance.rtol * size
    with np.errstate(divide="ignore", invalid="ignore"):
        used = np.where(error == 0, 0.0, error / allowed)
    return Finding(what, float(error.max(initial=0.0)), float(used.max(initial=0.0)), tolerance)


def _counted(what: str, different: int) -> Finding:
    return Finding(what, different, math.inf if different else 0.0, Tolerance())


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() and value.itemsize < 4 else value).numpy()
    return np.asarray(value)

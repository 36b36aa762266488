"""The figures of one evaluation: each a number, or null with the reason why it could not be computed.

A figure never stands for its own absence (no -1, no 0, no NaN). It does not know how figures are computed.
Try it: `python -c "from ovi.evaluation.results import Results; r = Results(); r.set('wer', 0.035); print(r)"`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovi import storage

APART = "not_comparable/"  # before the name of a figure by a formula: it never stands under the bare one
NOT_APPLICABLE = "not applicable: "  # the prefix of reasons that lie in the data or the setup, not in a failure
DIGITS = 6  # significant ones kept, so that the file does not change with the last bits of a sum


def rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


@dataclass
class Results:
    """Flat figures by slash-separated name; every None in `values` has its line in `reasons`."""

    values: dict[str, float | None] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)  # of figures that are there: what to know before using them

    def set(self, name: str, value: float) -> None:
        """A computed figure. One that is not finite becomes null with that as its reason."""
        if not math.isfinite(value):
            self.null(name, f"came out as {value}")
            return
        self.values[name] = value if isinstance(value, int) else rounded(value)
        self.reasons.pop(name, None)

    def null(self, name: str, reason: str) -> None:
        self.values[name] = None
        self.reasons[name] = reason

    def note(self, name: str, text: str) -> None:
        self.notes[name] = text

    def take(self, name: str, value: Any, reason: str) -> None:
        """`value` if it is a number, else null with `reason`."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            self.set(name, float(value))
        else:
            self.null(name, reason)

    def write(self, out: Path) -> None:
        """metrics.json (flat numbers and nulls) and metrics_reasons.json (a line for every null and every note)."""
        storage.write_json(out / "metrics.json", self.values)
        storage.write_json(out / "metrics_reasons.json", self.reasons | self.notes)

"""Runs the cases of a golden folder, one after the other, and says how each went in one line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ovi.errors import one_line
from tests.conformance import codecs, curation, listening, positions, sampling, scoring, tables, towers
from tests.conformance.case import Case, Folder
from tests.conformance.kind import kind_of
from tests.conformance.tolerance import Unfit

FAMILIES = (positions, towers, sampling, codecs, tables, curation, listening, scoring)
KINDS = tuple(kind for family in FAMILIES for kind in family.KINDS)


@dataclass(frozen=True)
class Result:
    id: str
    passed: bool
    about: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'}  {self.id:40}  {self.about}"


def run_folder(path: Path) -> Iterator[Result]:
    """Raises Unfit when the folder has no index."""
    for case in Folder(path).cases:
        yield run(case)


@torch.no_grad()
def run(case: Case) -> Result:
    try:
        kind_of(case, KINDS).run(case)
    except Unfit as error:
        return Result(case.id, False, str(error))
    except Exception as error:  # whatever a damaged or foreign case makes of the code under test
        return Result(case.id, False, f"{type(error).__name__}: {one_line(error)[:300]}")
    if missed := case.unchecked():
        return Result(case.id, False, f"nothing here computes {', '.join(missed)[:200]}")
    if not case.findings:
        return Result(case.id, False, "nothing was compared")
    worst = max(case.findings, key=lambda finding: (finding.share, finding.error))
    share = "inf" if math.isinf(worst.share) else f"{100 * worst.share:.3g} %"
    about = f"error {worst.error:9.3g} in {worst.what}; tolerance {worst.tolerance}, used {share}"
    return Result(case.id, worst.share <= 1, "; ".join(filter(None, (about, case.left_out))))

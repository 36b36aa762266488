"""A kind of case: by which arrays it is recognised, and how it is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.conformance.case import Case
from tests.conformance.tolerance import Unfit


@dataclass(frozen=True)
class Kind:
    """`words` are those that ids of this kind begin with; `needs` are patterns, each of the name of some array."""

    words: str
    needs: tuple[str, ...]
    run: Callable[[Case], None]

    def lacks(self, case: Case) -> list[str]:
        return [need for need in self.needs if next(case.matches(need), None) is None]


def kind_of(case: Case, kinds: Iterable[Kind]) -> Kind:
    """The kind whose arrays the case has: of several the one that its id names, or else needs most.

    An id alone does not make a case known. Raises Unfit when it is of no kind.
    """
    fitting = [kind for kind in kinds if not kind.lacks(case)]
    if fitting:
        return max(fitting, key=lambda kind: (_leads(kind, case) * len(kind.words), len(kind.needs)))
    named = [kind for kind in kinds if _leads(kind, case)]
    if named:
        closest = max(named, key=lambda kind: len(kind.words))
        raise Unfit(f"its id is that of a {closest.words} case, but {case.file} has no {closest.lacks(case)[0]}")
    raise Unfit("unknown kind of case")


def _leads(kind: Kind, case: Case) -> bool:
    return re.match(re.escape(kind.words) + r"(?![a-z])", case.id) is not None

"""A metric as evaluation leaves it: its score, its interval, what both rest on, and which clips failed why.

It does not know how clips are scored or where the figures go.
Try it: `pytest tests/evaluation/test_quality.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ovi.errors import OviError, one_line
from ovi.evaluation import catalogue, intervals
from ovi.evaluation.evidence import Evidence, Frechet, Mean
from ovi.evaluation.intervals import Interval
from ovi.evaluation.metric import NONE, Score
from ovi.evaluation.networks import FORMULA, NOT_COMPARABLE
from ovi.evaluation.results import APART, NOT_APPLICABLE, Results
from ovi.evaluation.take import Take

Value = TypeVar("Value")


@dataclass(frozen=True)
class Measured:
    """`clips` are those that counted, in the order of `evidence`; `failed` says of each other one why."""

    name: str
    score: Score
    evidence: Evidence | None = None
    clips: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    interval: Interval | None = None
    no_interval: str = ""
    at_infinity: float | None = None  # of a Fréchet distance
    no_extrapolation: str = ""

    @property
    def comparable(self) -> bool:
        return self.score.identity.weights != FORMULA

    @property
    def key(self) -> str:
        """Its name where a number stands beside it."""
        return self.name if self.comparable or self.score.value is None else f"{APART}{self.name}"

    @property
    def per_clip(self) -> dict[str, float]:
        """Values of single clips, where the figure is made of such."""
        if not isinstance(self.evidence, Mean):
            return {}
        return dict(zip(self.clips, self.evidence.rates.tolist(), strict=True))

    def write(self, results: Results) -> None:
        """<key>, <key>/n and n_failed, ci_low and ci_high; of a Fréchet distance <key>/at_infinity.

        Of one that is comparable with nothing the bare name is null, so that no reader takes it for a score.
        """
        self.score.write(self.key, results)
        given: dict[str, tuple[float | None, str]] = {
            "ci_low": (self.interval.low if self.interval else None, self.no_interval),
            "ci_high": (self.interval.high if self.interval else None, self.no_interval),
        }
        if isinstance(self.evidence, Frechet):
            given["at_infinity"] = (self.at_infinity, self.no_extrapolation)
        if self.score.value is not None:
            for what, (value, reason) in given.items():
                results.take(f"{self.key}/{what}", value, reason)
        if self.key != self.name:
            results.null(self.name, NOT_COMPARABLE)


@dataclass(frozen=True)
class How:
    """How sure to be told: the seed, and how many draws; and what a benchmark does otherwise, for the identities."""

    seed: int
    draws: int
    protocol: str = ""


def each(takes: Sequence[Take], compute: Callable[[Take], Value]) -> tuple[dict[str, Value], dict[str, str]]:
    """(what came out by clip, why nothing did by clip)."""
    done, failed = {}, {}
    for take in takes:
        try:
            done[take.name] = compute(take)
        except OviError as error:
            failed[take.name] = one_line(error)
    return done, failed


def absent(name: str, reason: str) -> Measured:
    return Measured(name, Score(catalogue.identity(name), None, 0, 0, reason))


def mean(
    name: str, takes: Sequence[Take], found: dict[str, float], failed: dict[str, str], how: How, weights: str = NONE
) -> Measured:
    """The mean of the clips' values."""
    return of(name, takes, list(found), Mean.of(list(found.values())), failed, how, weights)


def of(
    name: str, takes: Sequence[Take], clips: Sequence[str], evidence: Evidence, failed: dict[str, str], how: How,
    weights: str = NONE,
) -> Measured:  # fmt: skip
    """A figure of `clips`, some of `takes`, with its interval where it has one."""
    identity = catalogue.identity(name, weights, how.protocol)
    if not clips:
        first = next(iter(failed.values()), None)
        reason = f"no clip could be scored; the first: {first}" if first else f"{NOT_APPLICABLE}there are no clips"
        return Measured(name, Score(identity, None, 0, len(failed), reason), failed=failed)
    score = Score.of(identity, len(clips), len(failed), evidence.exact)
    if score.value is None:
        return Measured(name, score, failed=failed)
    captions = {take.name: take.caption for take in takes}
    found, reason = _try(lambda: intervals.interval(evidence, [captions[clip] for clip in clips], how.seed, how.draws))
    far, no_far = None, ""
    if isinstance(evidence, Frechet):
        far, no_far = _try(lambda: intervals.at_infinity(evidence, how.seed))
    return Measured(name, score, evidence, tuple(clips), failed, found, reason, far, no_far)


def _try(compute: Callable[[], Value]) -> tuple[Value | None, str]:
    try:
        return compute(), ""
    except OviError as error:
        return None, str(error)

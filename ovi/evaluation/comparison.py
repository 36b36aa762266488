"""Is one evaluated model better than another, and how sure is that? Paired, clip by clip, over all metrics at once.

Both runs are asked for the same prompts; which of the two made which clips is exchanged prompt by prompt, and the
p-value says how often that tells them apart as well. Holm's correction makes up for looking at many metrics. Where
nothing is found, the smallest effect that would have been is told. Figures of different identities are refused.
Try it: `ovi compare out/evaluation other/evaluation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from ovi.errors import OviError
from ovi.evaluation import catalogue, intervals
from ovi.evaluation.evidence import Evidence, Frechet, Mean
from ovi.evaluation.intervals import FEWEST, Interval
from ovi.evaluation.record import Record
from ovi.evaluation.statistics import LEVEL

POWER = 0.8  # with which the smallest detectable effect is found
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """The second run less the first in one metric. p_value is Holm's over all metrics that were compared."""

    metric: str
    first: float
    second: float
    n: int  # clips of both
    lost: int  # clips with a value in one run only, which do not count
    prompts: int
    difference: float
    interval: Interval | None  # None: every clip differs by the same
    p_value: float
    p_alone: float  # before Holm's correction
    detectable: float | None  # a true difference of this size is found in POWER of such comparisons
    verdict: str  # better, worse (the second), different (where neither is better), indistinguishable
    comparable: bool  # False: by networks that a formula filled


def compare(first: Record, second: Record, seed: int = 0, draws: int = 1000) -> list[Difference]:
    """Every metric that both runs have a value for, by name.

    Raises OviError when identities or references differ, or the runs share fewer than FEWEST prompts in all metrics.
    """
    names = sorted(set(first.evidence) & set(second.evidence))
    _same_metrics(first, second, names)
    prompts = {name: _prompts(name, first, second) for name in names}
    if max(prompts.values()) < FEWEST:
        raise OviError(
            f"{first.folder} and {second.folder} cannot be compared: at most {max(prompts.values())} prompts are in "
            f"both runs, a comparison needs {FEWEST}"
        )
    found = [_difference(name, first, second, seed, draws) for name in names if prompts[name] >= FEWEST]
    corrected = holm([one.p_alone for one in found])
    return [
        replace(one, p_value=p, verdict=_verdict(one, p, first.metric(one.metric)["better"]))
        for one, p in zip(found, corrected, strict=True)
    ]


def left_out(first: Record, second: Record) -> dict[str, str]:
    """Why a metric is not compared: of those that one run alone has a value for, and those of too few prompts."""
    both = {name: _prompts(name, first, second) for name in sorted(set(first.evidence) & set(second.evidence))}
    few = {
        name: f"{count} prompts are in both runs, a comparison needs {FEWEST}"
        for name, count in both.items()
        if count < FEWEST
    }
    return few | {
        name: f"{other.folder} has no value: {other.about['metrics'].get(name, {}).get('reason', 'not measured')}"
        for run, other in ((first, second), (second, first))
        for name in sorted(set(run.evidence) - set(other.evidence))
    }


def words(one: Difference) -> str:
    """A line for people."""
    sure = "" if one.interval is None else f", 95 % interval {one.interval.low:.4g} to {one.interval.high:.4g}"
    line = (
        f"{one.metric}: {one.verdict}; {one.first:.4g} -> {one.second:.4g} ({one.difference:+.4g}{sure}), "
        f"p = {one.p_value:.2g}, {one.n} clips of {one.prompts} prompts"
    )
    if one.verdict == "indistinguishable" and one.detectable is not None:
        line += f"; a difference of {one.detectable:.2g} would have been found"
    if one.lost:
        line += f"; {one.lost} clips that failed in one run do not count"
    return line if one.comparable else f"{line}; not comparable with anything else: networks by formula"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm, 1979): as small as the largest family-wise level at which each is still rejected."""
    order, corrected, largest = np.argsort(p_values, kind="stable"), [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def permutation_p(first: Evidence, second: Evidence, groups: NDArray[np.int64], seed: int, draws: int) -> float:
    """Two-sided: how often exchanging whole groups between the runs tells them apart as well. All ways, if few."""
    count = int(groups.max()) + 1
    if 2**count <= draws:
        exchanges = (np.arange(2**count)[:, None] >> np.arange(count) & 1).astype(bool)
    else:
        drawn = np.random.default_rng([seed, 7]).random((draws, count)) < 0.5
        exchanges = np.concatenate((np.zeros((1, count), bool), drawn))  # the seen one counts once: p is never zero
    if isinstance(first, Mean) and isinstance(second, Mean):
        apart = _means_apart(first, second, groups, exchanges)
    else:
        once = np.ones(first.clips, np.int64)
        apart = np.array([
            second.exchanged(first, places).value(once) - first.exchanged(second, places).value(once)
            for places in exchanges[:, groups]
        ])  # fmt: skip
    seen = abs(apart[0])
    return float(np.mean(np.abs(apart) >= seen * (1 - 1e-9)))


def _difference(name: str, first: Record, second: Record, seed: int, draws: int) -> Difference:
    one, other, clips = _paired(name, first, second)
    groups = intervals.grouped([first.captions[clip] for clip in clips])
    prompts = int(groups.max()) + 1
    values, lost = (one.exact(), other.exact()), _lost(name, first, second)
    found = _interval(one, other, groups, seed, draws)
    p = permutation_p(one, other, groups, seed, draws)
    reach = float(norm.ppf((1 + LEVEL) / 2) + norm.ppf(POWER))
    return Difference(
        name, *values, len(clips), lost, prompts, values[1] - values[0], found, p, p,
        None if found is None else reach * found.deviation, "", first.metric(name)["comparable"],
    )  # fmt: skip


def _interval(one: Evidence, other: Evidence, groups: NDArray[np.int64], seed: int, draws: int) -> Interval | None:
    if isinstance(one, Mean) and isinstance(other, Mean) and np.ptp(other.rates - one.rates) == 0:
        return None
    if isinstance(one, Mean) and isinstance(other, Mean) and (one.parts == 1).all() and (other.parts == 1).all():
        return intervals.interval(Mean.of(other.values - one.values), [str(group) for group in groups], seed, draws)
    found = intervals.drawn([one, other], groups, np.random.default_rng([seed, 8]), draws)
    return intervals.basic(other.exact() - one.exact(), found[:, 1] - found[:, 0])


def _paired(name: str, first: Record, second: Record) -> tuple[Evidence, Evidence, list[str]]:
    """Both runs' evidence on the clips that counted in both and were made for one prompt, in one order."""
    places = [{clip: at for at, clip in enumerate(run.metric(name)["clips"])} for run in (first, second)]
    shared = [clip for clip in places[0] if clip in places[1] and first.captions[clip] == second.captions[clip]]
    one, other = (
        run.evidence[name].chosen(np.array([at[clip] for clip in shared], np.int64))
        for run, at in zip((first, second), places, strict=True)
    ) if shared else (first.evidence[name], second.evidence[name])  # fmt: skip
    return one, other, shared


def _prompts(name: str, first: Record, second: Record) -> int:
    """How many prompts have clips that counted in both runs."""
    *_, clips = _paired(name, first, second)
    return len({first.captions[clip] for clip in clips})


def _lost(name: str, first: Record, second: Record) -> int:
    """Clips that both runs made, and that failed in one of them."""
    counted = [set(run.metric(name)["clips"]) for run in (first, second)]
    return len((counted[0] ^ counted[1]) & set(first.captions) & set(second.captions))


def _same_metrics(first: Record, second: Record, names: Sequence[str]) -> None:
    if not names:
        raise OviError(f"{first.folder} and {second.folder} have no metric in common")
    other = [name for name in names if first.metric(name)["hash"] != second.metric(name)["hash"]]
    if other:
        raise OviError(
            f"{first.folder} and {second.folder} cannot be compared: of {', '.join(other)} the network, weights, "
            "resampler or protocol differ; evaluate both in one way"
        )
    for name in names:
        one, two = first.evidence[name], second.evidence[name]
        if isinstance(one, Frechet) and isinstance(two, Frechet) and not np.array_equal(one.reference, two.reference):
            raise OviError(f"{first.folder} and {second.folder} cannot be compared: {name} has another reference set")
        if first.metric(name)["identity"]["protocol"].startswith(catalogue.PAIRS) and _other_partners(first, second):
            raise OviError(f"{first.folder} and {second.folder} cannot be compared: {name} has other real clips")


def _other_partners(first: Record, second: Record) -> bool:
    """Whether a clip of both runs has other real clips in them, which paired metrics compare with."""
    one, other = ({clip["name"]: (clip["caption"], clip["real_clip"]) for clip in run.about["clips"]}
                  for run in (first, second))  # fmt: skip
    shared = [(one[name], other[name]) for name in one if name in other]
    return any(a[0] == b[0] and a[1] != b[1] for a, b in shared)


def _means_apart(first: Mean, second: Mean, groups: NDArray[np.int64], exchanges: NDArray[np.bool_]) -> Array:
    """Second less first for each exchange [draws, groups], all at once."""
    count = exchanges.shape[1]
    a, b, a_parts, b_parts = (
        np.bincount(groups, column, count) for column in (first.values, second.values, first.parts, second.parts)
    )
    moved, moved_parts = exchanges @ (b - a), exchanges @ (b_parts - a_parts)
    return (b.sum() - moved) / (b_parts.sum() - moved_parts) - (a.sum() + moved) / (a_parts.sum() + moved_parts)


def _verdict(found: Difference, p_value: float, better: int) -> str:
    if p_value >= 1 - LEVEL:
        return "indistinguishable"
    if not better:
        return "different"
    return "better" if found.difference * better > 0 else "worse"

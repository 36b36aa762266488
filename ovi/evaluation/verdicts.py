"""What a comparison found, in MLflow: on the run that is judged, beside its figures.

A run is known by its report.json, whose hash `ovi evaluate` left as a tag; folders that no run of the store wrote stay
out of it. It computes nothing.
Try it: `ovi compare out/before out/evaluation`, then `ovi ui`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ovi import storage
from ovi.config import Tracking
from ovi.evaluation import logbook, record
from ovi.evaluation.comparison import Difference
from ovi.evaluation.results import APART
from ovi.tracking import Run, find_runs


def log(tracking: Tracking, first: Path, second: Path, found: Sequence[Difference], told: Path) -> str | None:
    """Verdicts as tags, differences as metrics and `told`, the comparison's JSON, to the run that left `second`.

    The run's id; None, and nothing is logged, where either folder is of no run of this store.
    """
    before, judged = (_run(tracking, folder) for folder in (first, second))
    if before is None or judged is None:
        return None
    run = Run.at(tracking, judged)
    for one in found:
        name = f"compare/{key(one)}"
        run.set_tags({f"ovi.verdict.{key(one)}": one.verdict})
        ends = (one.interval.low, one.interval.high) if one.interval else (None, None)
        run.log_metrics({
            f"{name}/difference": one.difference, f"{name}/ci_low": ends[0], f"{name}/ci_high": ends[1],
            f"{name}/p_value": one.p_value, f"{name}/n": one.n,
        })  # fmt: skip
    run.set_tags({"ovi.compared_with": before})
    run.log_file(told)
    run.close()
    return judged


def key(one: Difference) -> str:
    """The metric's name where a number or a verdict stands beside it."""
    return one.metric if one.comparable else f"{APART}{one.metric}"


def _run(tracking: Tracking, folder: Path) -> str | None:
    """The newest run that wrote this report."""
    runs = find_runs(tracking, f"tags.`{logbook.REPORT}` = '{storage.sha256(folder / record.REPORT)}'")
    return runs[0]["id"] if runs else None

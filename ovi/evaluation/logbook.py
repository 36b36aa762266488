"""What an evaluation tells MLflow: figures, identities of the metrics, which are comparable with nothing, files.

It computes nothing. Try it: `ovi evaluate`, then `ovi ui`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ovi import storage
from ovi.evaluation import record
from ovi.evaluation.measured import Measured
from ovi.evaluation.results import Results
from ovi.tracking import Run

REPORT = "ovi.report"  # the tag that a run is found by: sha256 of its report.json
FILES = ("report.html", record.REPORT, record.EVIDENCE, "metrics_reasons.json")  # all that `ovi compare` reads, too


def write(run: Run, out: Path, results: Results, found: Sequence[Measured]) -> None:
    """Log what `out` holds."""
    run.log_metrics(results.values)
    run.set_tags(_tags(found) | {REPORT: storage.sha256(out / record.REPORT)})
    for name in FILES:
        run.log_file(out / name)


def strange(names: Sequence[str]) -> dict[str, str]:
    """The tag of a run with figures that are comparable with nothing; none where there are no such."""
    return {"ovi.not_comparable": f"not comparable: {', '.join(names)}"} if names else {}


def _tags(found: Sequence[Measured]) -> dict[str, str]:
    there = [one for one in found if one.score.value is not None]
    tags = {f"ovi.identity.{one.name}": one.score.identity.hash for one in there}
    return tags | strange([one.name for one in there if not one.comparable])

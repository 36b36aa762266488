"""From an evaluated model folder to a name that serving follows: the gate, the registry version, its aliases.

Every evaluated model becomes a version of `promotion.model` and the `candidate`. It becomes the `champion`, and the one
before it `previous`, when every threshold in `promotion.thresholds` holds and, with `promotion.approval`, a person said
so. A figure that could not be computed fails the gate, unless evaluation says that it does not apply to these data.
Try it: `ovi promote --model models/fusion --metrics out/evaluation/metrics.json --out out/promotion.json`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ovi import storage
from ovi.config import Promotion, Settings, Threshold
from ovi.errors import OviError
from ovi.models.folder import digest
from ovi.progress import Progress
from ovi.tracking import get_alias, register_version, set_alias, tag_version

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
NOT_APPLICABLE = "not applicable"  # how a reason in metrics_reasons.json begins when the figure makes no sense here


@dataclass(frozen=True)
class Check:
    """One threshold against one figure."""

    metric: str
    value: float | None
    min: float | None
    max: float | None
    passed: bool
    note: str = ""

    def words(self) -> str:
        bounds = [f"at least {self.min:g}"] if self.min is not None else []
        bounds += [f"at most {self.max:g}"] if self.max is not None else []
        found = "null" if self.value is None else f"{self.value:.4g}"
        note = f" ({self.note})" if self.note else ""
        return f"{self.metric} is {found}, wanted {' and '.join(bounds)}{note}"


def promote(
    settings: Settings, model: Path, metrics: Path, out: Path, approved_by: str | None, progress: Progress
) -> dict[str, Any]:
    """Register the model, move the aliases, write `out`: {model, version, digest, alias, gate: [Check], promoted}.

    Raises OviError, with nothing moved but `candidate` and nothing written, when the gate fails or approval is missing.
    """
    wanted = settings.promotion
    checks = gate(wanted.thresholds, storage.read_json(metrics), _reasons(metrics))
    found = digest(model)
    run = os.environ.get("MLFLOW_RUN_ID")  # its inputs name the model folder's hash, as the training run's outputs do
    version = register_version(settings.tracking, wanted.model, str(model), run, {"digest": found})
    tag_version(settings.tracking, wanted.model, version, {f"gate/{check.metric}": check.words() for check in checks})
    set_alias(settings.tracking, wanted.model, CANDIDATE, version)
    for check in checks:
        progress.note(f"{'passed' if check.passed else 'FAILED'}: {check.words()}")
    failed = [check.words() for check in checks if not check.passed]
    if failed:
        raise OviError(f"version {version} of {wanted.model} is not promoted: {'; '.join(failed)}")
    _crown(settings, wanted, version, approved_by)
    decision = {
        "model": wanted.model,
        "version": version,
        "digest": found,
        "alias": CHAMPION,
        "gate": [asdict(check) for check in checks],
        "promoted": True,
    }
    storage.write_json(out, decision)
    progress.result(model=wanted.model, version=version, alias=CHAMPION, promoted=True)
    return decision


def gate(thresholds: dict[str, Threshold], metrics: dict[str, Any], reasons: dict[str, str]) -> list[Check]:
    """Every threshold against its figure, by name. A null or missing figure fails unless it does not apply."""
    return [_check(name, thresholds[name], metrics.get(name), reasons) for name in sorted(thresholds)]


def _check(name: str, bound: Threshold, value: float | None, reasons: dict[str, str]) -> Check:
    if value is None:
        note = reasons.get(name, "evaluation does not report it")
        return Check(name, None, bound.min, bound.max, note.startswith(NOT_APPLICABLE), note)
    low = bound.min is not None and value < bound.min
    high = bound.max is not None and value > bound.max
    return Check(name, value, bound.min, bound.max, not (low or high))


def _crown(settings: Settings, wanted: Promotion, version: str, approved_by: str | None) -> None:
    """Make `version` the champion. One that already is stays so, whoever approved it then."""
    champion = get_alias(settings.tracking, wanted.model, CHAMPION)
    if champion == version:
        return
    if wanted.approval and not approved_by:
        raise OviError(
            f"version {version} of {wanted.model} passed the gate and waits for approval (promotion.approval): "
            "`ovi promote --approved-by NAME`, then run the pipeline again"
        )
    if approved_by:
        tag_version(settings.tracking, wanted.model, version, {"approved_by": approved_by})
    if champion is not None:
        set_alias(settings.tracking, wanted.model, PREVIOUS, champion)
    set_alias(settings.tracking, wanted.model, CHAMPION, version)


def _reasons(metrics: Path) -> dict[str, str]:
    path = metrics.with_name("metrics_reasons.json")
    return dict(storage.read_json(path)) if path.exists() else {}

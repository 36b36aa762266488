"""From an evaluated model folder to a name that serving follows: the gate, the registry version, its aliases.

Every evaluated model becomes a version of `promotion.model` and the `candidate`. It becomes the `champion`, and the one
before it `previous` (flows/champions.py), when every threshold in `promotion.thresholds` holds and, with
`promotion.approval`, a person said so. A figure that could not be computed fails the gate, unless evaluation says that
it does not apply to these data.
Try it: `ovi promote --model models/fusion --metrics out/evaluation/metrics.json --out out/promotion.json`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows import champions
from flows.champions import CHAMPION, Move
from ovi import storage
from ovi.config import Promotion, Settings, Threshold
from ovi.errors import OviError
from ovi.models.folder import ModelFolder
from ovi.progress import Progress
from ovi.tracking import get_alias, register_version, set_alias, tag_version, versions

CANDIDATE = "candidate"
PASSED = "gate_passed"
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


def promote(settings: Settings, model: Path, metrics: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Register the model, move the aliases, write `out`: {model, version, digest, alias, run, gate: [Check], promoted}.

    Raises OviError, with nothing moved but `candidate` and nothing written, when the gate fails or approval is missing.
    """
    wanted = settings.promotion
    checks = gate(wanted.thresholds, storage.read_json(metrics), _reasons(metrics))
    folder = ModelFolder.open(model)
    found = folder.digest
    address = folder.put(wanted.weights, progress.note) if wanted.weights else str(model.absolute())
    run = os.environ.get("MLFLOW_RUN_ID")  # its inputs name the model folder's hash, as the training run's outputs do
    version = register_version(settings.tracking, wanted.model, found, address, run)
    failed = [check.words() for check in checks if not check.passed]
    said = {f"gate/{check.metric}": check.words() for check in checks}
    said |= {"folder": str(model), PASSED: str(not failed).lower()}
    tag_version(settings.tracking, wanted.model, version, said)
    set_alias(settings.tracking, wanted.model, CANDIDATE, version)
    for check in checks:
        progress.note(f"{'passed' if check.passed else 'FAILED'}: {check.words()}")
    if failed:
        raise OviError(f"version {version} of {wanted.model} is not promoted: {'; '.join(failed)}")
    _crown(settings, wanted, version)
    decision = {
        "model": wanted.model,
        "version": version,
        "digest": found,
        "alias": CHAMPION,
        "run": versions(settings.tracking, wanted.model)[version]["run_id"],  # the one that registered these weights
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


def approve(settings: Settings, by: str, reason: str, version: str | None = None) -> Move:
    """A person's word for a version that passed its gate, the candidate by default; it becomes the champion.

    Raises OviError when there is no such version, it did not pass, or another became the champion meanwhile.
    """
    wanted = settings.promotion
    if not by.strip() or not reason.strip():
        raise OviError("--by, --reason: say who approves and why")
    chosen = version or get_alias(settings.tracking, wanted.model, CANDIDATE)
    known = versions(settings.tracking, wanted.model)
    if chosen is None or chosen not in known:
        raise OviError(f"{wanted.model} has no version {chosen or 'yet'}; run `ovi promote` first")
    if known[chosen]["tags"].get(PASSED) != "true":
        raise OviError(f"version {chosen} of {wanted.model} did not pass its gate; `ovi promote` says why")
    tag_version(settings.tracking, wanted.model, chosen, {"approved_by": by, "approved_because": reason})
    now = champions.standing(settings.tracking, wanted.model)
    if now.champion == chosen:
        raise OviError(f"version {chosen} of {wanted.model} is the champion already")
    return champions.move(settings.tracking, wanted.model, now.champion, chosen, by, reason)


def _crown(settings: Settings, wanted: Promotion, version: str) -> None:
    """Make `version` the champion. One that already is stays so, whoever approved it then."""
    champion = champions.standing(settings.tracking, wanted.model).champion
    if champion == version:
        champions.follow(settings.tracking, wanted.model)
        return
    if wanted.approval:
        raise OviError(
            f"version {version} of {wanted.model} passed the gate and waits for approval (promotion.approval): "
            "`ovi promote approve --by NAME --reason WHY`, then run the pipeline again"
        )
    champions.move(settings.tracking, wanted.model, champion, version, "pipeline", "every threshold holds")


def _reasons(metrics: Path) -> dict[str, str]:
    path = metrics.with_name("metrics_reasons.json")
    return dict(storage.read_json(path)) if path.exists() else {}

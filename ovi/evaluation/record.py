"""An evaluation on disk, for machines: report.json says what was measured, evidence.safetensors what it rests on.

Equal inputs give equal bytes. A record is all that a comparison needs; it computes no figure.
Try it: `ovi evaluate`, then `ovi compare out/evaluation other/evaluation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ovi import storage
from ovi.errors import OviError
from ovi.evaluation import catalogue
from ovi.evaluation.evidence import Evidence, Frechet, Inception, Mean
from ovi.evaluation.measured import Measured
from ovi.evaluation.results import rounded

REPORT, EVIDENCE = "report.json", "evidence.safetensors"
SEPARATOR = ":"  # between a metric's name and its part, e.g. fd_vggish:features


class Asked(Protocol):
    """What a clip was made for."""

    @property
    def name(self) -> str: ...

    @property
    def scene(self) -> str | None:
        """The kind of clip, or the part of a benchmark."""

    @property
    def caption(self) -> str: ...

    @property
    def seed(self) -> int | None:
        """None: not known."""

    @property
    def clip_id(self) -> str:
        """The real clip that the caption was written for, "" where there is none."""


@dataclass(frozen=True)
class Record:
    """What was read back: report.json, and of each metric with a value its evidence."""

    folder: Path
    about: dict[str, Any]
    evidence: dict[str, Evidence]

    def metric(self, name: str) -> dict[str, Any]:
        return self.about["metrics"][name]

    @property
    def captions(self) -> dict[str, str]:
        return {clip["name"]: clip["caption"] for clip in self.about["clips"]}


def write(out: Path, about: Mapping[str, Any], asked: Sequence[Asked], found: Sequence[Measured]) -> dict[str, Any]:
    """Both files into `out`; `about`: what was evaluated, in JSON's terms. What report.json then holds."""
    metrics = {one.name: _told(one) for one in found}
    clips = [
        {
            "name": prompt.name, "scene": prompt.scene, "caption": prompt.caption, "seed": prompt.seed,
            "real_clip": prompt.clip_id,
            "values": {one.name: rounded(one.per_clip[prompt.name]) for one in found if prompt.name in one.per_clip},
            "failed": {one.name: one.failed[prompt.name] for one in found if prompt.name in one.failed},
        }
        for prompt in asked
    ]  # fmt: skip
    told = {**about, "metrics": metrics, "clips": clips}
    storage.write_json(out / REPORT, told)
    parts = {
        f"{one.name}{SEPARATOR}{part}": np.ascontiguousarray(rows)
        for one in found if one.evidence is not None
        for part, rows in _parts(one.evidence).items()
    }  # fmt: skip
    storage.write_bytes(out / EVIDENCE, save(parts))
    return told


def read(folder: Path) -> Record:
    """What `write` left. Raises OviError for a folder without it, or a damaged one."""
    about = storage.read_json(folder / REPORT)
    try:
        tensors = load_file(folder / EVIDENCE)
        parts: dict[str, dict[str, Any]] = {}
        for key, rows in tensors.items():
            name, _, part = key.partition(SEPARATOR)
            parts.setdefault(name, {})[part] = rows
        evidence = {name: _evidence(own, len(about["metrics"][name]["clips"])) for name, own in parts.items()}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise OviError(f"{folder}: {EVIDENCE} does not belong to {REPORT} ({error}); evaluate again") from None
    return Record(folder, about, evidence)


def _told(one: Measured) -> dict[str, Any]:
    score = one.score
    return {
        "value": rounded(score.value), "n": score.n, "n_failed": score.n_failed, "reason": score.reason,
        "comparable": one.comparable, "better": catalogue.better(one.name),
        "ci_low": rounded(one.interval.low) if one.interval else None,
        "ci_high": rounded(one.interval.high) if one.interval else None,
        "deviation": rounded(one.interval.deviation) if one.interval else None,
        "method": one.interval.method if one.interval else None, "no_interval": one.no_interval,
        "at_infinity": rounded(one.at_infinity), "no_extrapolation": one.no_extrapolation,
        "identity": asdict(score.identity), "hash": score.identity.hash, "clips": list(one.clips),
    }  # fmt: skip


def _parts(evidence: Evidence) -> dict[str, Any]:
    if isinstance(evidence, Mean):
        return {"values": evidence.values, "parts": evidence.parts}
    if isinstance(evidence, Inception):
        return {"logits": evidence.logits}
    assert isinstance(evidence, Frechet)
    return {
        "features": evidence.features.astype(np.float32), "owner": evidence.owner,
        "reference": evidence.reference.astype(np.float32), "reference_owner": evidence.reference_owner,
    }  # fmt: skip


def _evidence(parts: dict[str, Any], clips: int) -> Evidence:
    if "logits" in parts:
        return Inception(parts["logits"])
    if "values" in parts:
        return Mean(parts["values"], parts["parts"])
    rows = {name: parts[name].astype(np.float64) for name in ("features", "reference")}
    return Frechet(clips, rows["features"], parts["owner"], rows["reference"], parts["reference_owner"])

"""What the training stages and the codec wrote about themselves, as figures and curves for the report.

It reads `metrics.json` of the stages' model folders and `codec.json` of the latents; it does not look at weights.
Try it: `ovi evaluate` after `ovi train fusion`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovi import storage
from ovi.evaluation.results import Results

STAGES: dict[str, tuple[str, ...]] = {
    "video_backbone": ("video",),
    "audio_pretrain": ("audio",),
    "audio_finetune": ("audio",),
    "fusion": ("video", "audio"),
}
PARTNERS = ("true", "shuffled", "tower")


@dataclass(frozen=True)
class Curve:
    """One stage and modality: validation loss and training loss as (step, loss)."""

    stage: str
    modality: str
    validation: list[tuple[float, float]]
    training: list[tuple[float, float]]


def read_stages(models: Path, results: Results) -> list[Curve]:
    """Losses of every stage into `results` (start, end, drop as a share of the start); the curves to draw."""
    curves = []
    for stage, modalities in STAGES.items():
        record, reason = _record(models / stage / "metrics.json", f"stage {stage} has not run")
        for modality in modalities:
            _losses(record, reason, stage, modality, results)
            curve = _curve(record, stage, modality)
            if len(curve.validation) > 1:
                curves.append(curve)
        if stage == "fusion":
            _partners(record, reason, results)
    return curves


def read_codec(latents: Path, results: Results) -> None:
    """Reconstruction of held-out clips by the codecs alone."""
    record, reason = _record(latents / "codec.json", "the encode stage has not run")
    for name in ("video_psnr_db", "audio_log_mel_error"):
        results.take(f"codec/{name}", record.get(name), record.get(f"{name}_reason") or reason)


def _record(path: Path, missing: str) -> tuple[dict[str, Any], str]:
    """(the record, why a figure may be absent from it)."""
    if not storage.exists(path):
        return {}, f"{missing}: there is no {path.parent.name}/{path.name}"
    return storage.read_json(path), f"{path.parent.name}/{path.name} has no such figure"


def _losses(record: dict[str, Any], reason: str, stage: str, modality: str, results: Results) -> None:
    values = record.get("val") or {}
    start = (values.get("start") or {}).get(modality)
    end = (values.get("end") or {}).get(modality)
    name = f"loss/{stage}/{modality}"
    if record and start is None and end is None:
        reason = "not applicable: no held-out clips of this kind, so no validation loss"
    results.take(f"{name}/start", start, reason)
    results.take(f"{name}/end", end, reason)
    results.take(f"{name}/drop", (start - end) / start if start and end is not None else None, reason)


def _partners(record: dict[str, Any], reason: str, results: Results) -> None:
    for modality in STAGES["fusion"]:
        losses = (record.get("partner") or {}).get(modality) or {}
        for partner in PARTNERS:
            results.take(f"loss/fusion/{modality}/{partner}", losses.get(partner), reason)


def _curve(record: dict[str, Any], stage: str, modality: str) -> Curve:
    points = record.get("curve") or []
    validation, training = (
        [
            (point["step"], point[f"{kind}_{modality}"])
            for point in points
            if point.get(f"{kind}_{modality}") is not None
        ]
        for kind in ("val", "loss")
    )
    return Curve(stage, modality, validation, training)

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovi import storage
from ovi.evaluation import learning
from ovi.evaluation.results import Results


def stage(models: Path, name: str, **record: object) -> None:
    storage.write_json(models / name / "metrics.json", {"stage": name, "steps": 20, "seconds": 1.5, **record})


def curve(*modalities: str) -> list[dict[str, float | None]]:
    """As the training loop writes it: no training loss before the first step, no validation at every point."""
    points: list[dict[str, float | None]] = []
    for step in (0, 5, 10, 20):
        point: dict[str, float | None] = {"step": step, "loss": None if step == 0 else 2.0 - step / 20}
        for modality in modalities:
            point |= {} if step == 0 else {f"loss_{modality}": 1.9 - step / 20}
            point |= {} if step == 5 else {f"val_{modality}": 1.8 - step / 25}
        points.append(point)
    return points


def test_losses_drops_and_partners(tmp_path: Path) -> None:
    stage(tmp_path, "video_backbone", val={"start": {"video": 2.0}, "end": {"video": 1.0}}, curve=curve("video"))
    ends = {"start": {"video": 1.0, "audio": 0.8}, "end": {"video": 0.9, "audio": 0.88}}
    losses = {m: {"true": 0.9, "shuffled": 1.1, "tower": 1.0} for m in ("video", "audio")}
    stage(tmp_path, "fusion", val=ends, curve=curve("video", "audio"), partner=losses)
    results = Results()
    curves = learning.read_stages(tmp_path, results)
    assert results.values["loss/video_backbone/video/drop"] == 0.5
    assert results.values["loss/fusion/audio/drop"] == pytest.approx(-0.1)
    assert results.values["loss/fusion/video/shuffled"] == 1.1
    assert [(c.stage, c.modality) for c in curves] == [
        ("video_backbone", "video"),
        ("fusion", "video"),
        ("fusion", "audio"),
    ]
    assert curves[0].validation == [(0, 1.8), (10, 1.4), (20, 1.0)]
    assert [step for step, _ in curves[2].training] == [5, 10, 20]
    assert [loss for _, loss in curves[2].training] == pytest.approx([1.65, 1.4, 0.9])
    assert results.values["loss/audio_pretrain/audio/end"] is None
    assert "audio_pretrain has not run" in results.reasons["loss/audio_pretrain/audio/end"]


def test_a_stage_without_held_out_clips_says_so(tmp_path: Path) -> None:
    stage(tmp_path, "audio_finetune", val={"start": {"audio": None}, "end": {"audio": None}}, curve=[])
    results = Results()
    assert learning.read_stages(tmp_path, results) == []
    assert results.values["loss/audio_finetune/audio/drop"] is None
    assert results.reasons["loss/audio_finetune/audio/drop"].startswith("not applicable: ")


def test_codec(tmp_path: Path) -> None:
    storage.write_json(tmp_path / "codec.json", {"video_psnr_db": 27.25, "audio_log_mel_error": None, "counts": {}})
    results = Results()
    learning.read_codec(tmp_path, results)
    assert results.values == {"codec/video_psnr_db": 27.25, "codec/audio_log_mel_error": None}
    assert "codec.json" in results.reasons["codec/audio_log_mel_error"]


def test_figures_are_finite_rounded_and_stable(tmp_path: Path) -> None:
    results = Results()
    results.set("b", 1 / 3)
    results.set("a", float("nan"))
    results.take("c", True, "not a number")
    results.write(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"a": None, "b": 0.333333, "c": None}
    assert json.loads((tmp_path / "metrics_reasons.json").read_text()) == {"a": "came out as nan", "c": "not a number"}
    results.set("a", 2.0)
    assert "a" not in results.reasons

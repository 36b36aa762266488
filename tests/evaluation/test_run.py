from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flows import promote
from ovi import storage
from ovi.config import Settings, Threshold
from ovi.errors import OviError
from ovi.evaluation import run
from ovi.media import decode
from ovi.media.probe import probe
from ovi.perception import panns, raft
from ovi.progress import Silent
from tests.evaluation import made

SCENES: list[tuple[str | None, str]] = [
    ("blink", "test"), ("blink", "val"), ("bounce", "test"), ("blink", "train"), ("blink", "test"), ("hammer", "val"),
]  # fmt: skip


class Voice(Silent):
    """Keeps the stage's answer."""

    answer: dict[str, object]

    def result(self, **values: object) -> None:
        self.answer = values


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluated twice: into `first` with labelled scenes, and into `again`."""
    torch.set_num_threads(1)
    tmp = tmp_path_factory.mktemp("world")
    made.model(tmp / "models" / "fusion", made.settings(tmp))
    made.clips(tmp / "clips", SCENES)
    made.learned(tmp / "models", tmp / "latents")
    for name in ("first", "again"):
        evaluate(tmp, made.settings(tmp), tmp / name)
    return tmp


def evaluate(tmp: Path, settings: Settings, out: Path, clips: str = "clips", models: str = "models") -> Voice:
    voice = Voice()
    run.evaluate(settings, tmp / "models" / "fusion", tmp / clips, tmp / "latents", tmp / models, out, voice)
    return voice


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_figures_are_numbers_or_null_with_a_reason(world: Path) -> None:
    figures = json.loads((world / "first" / "metrics.json").read_text())
    reasons = json.loads((world / "first" / "metrics_reasons.json").read_text())
    assert {name for name, value in figures.items() if value is None} == set(reasons)
    assert reasons["wer_seed_tts"] == "not applicable: no network is configured (evaluation.weights.whisper)"
    assert reasons["fd_vggish"] == "not applicable: no network is configured (evaluation.weights.vggish)"
    assert all(
        reason.startswith("not applicable: ") or name.endswith(("ci_low", "ci_high"))
        for name, reason in reasons.items()
    )
    assert figures["temporal_flickering/n"] == 7  # five of the scored scene, one of each other
    assert (
        figures["temporal_flickering/ci_low"]
        <= figures["temporal_flickering"]
        <= figures["temporal_flickering/ci_high"]
    )
    assert figures["sync/blink/n"] == 5
    assert 0 <= figures["sync/blink/auc_ci_low"] <= figures["sync/blink/auc"] <= figures["sync/blink/auc_ci_high"] <= 1
    assert 0 < figures["sync/blink/p_value"] <= 1
    assert figures["sync/blink/real_auc"] == 1.0
    told = json.loads((world / "first" / "report.json").read_text())
    assert told["metrics"]["sync/blink/auc"]["value"] == figures["sync/blink/auc"]
    wins = [clip["values"]["sync/blink/auc"] for clip in told["clips"] if clip["scene"] == "blink"]
    assert sum(wins) / 5 == pytest.approx(figures["sync/blink/auc"], rel=1e-4)
    assert (
        figures["sync/blink/real_n"] == 3
    )  # two of the test split, one of the validation split, never the training one
    assert figures["loss/video_backbone/video/drop"] == pytest.approx(0.4)
    assert figures["loss/fusion/audio/shuffled"] == 1.5
    assert figures["codec/video_psnr_db"] == 27.3


def test_equal_inputs_give_equal_bytes(world: Path) -> None:
    first, again = files(world / "first"), files(world / "again")
    assert first.keys() == again.keys()
    assert [str(name) for name in first if first[name] != again[name]] == []


def test_shown_clips_cover_every_held_out_scene(world: Path) -> None:
    names = {path.name for path in (world / "first" / "samples").glob("*.mp4")}
    assert names == {"blink_00.mp4", "bounce_00.mp4", "hammer_00.mp4"}
    for path in (world / "first" / "samples").glob("*.mp4"):
        info = probe(path)
        assert info.video is not None
        assert (info.video.codec, info.video.width, info.video.average_rate) == ("h264", 64, 24)
        assert sum(1 for _ in decode.frames(path)) == 121
        assert decode.audio(path).rate == 16000
    assert (world / "first" / "report.html").read_text().count("<video") == 3


def test_figures_are_in_mlflow(world: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{world}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("ovi").experiment_id])
    assert {record.info.status for record in found} == {"FINISHED"}
    figures = json.loads((world / "first" / "metrics.json").read_text())
    assert found[0].data.metrics == {name: value for name, value in figures.items() if value is not None}
    assert found[0].data.params["evaluation.clips_per_scene"] == "5"
    told = json.loads((world / "first" / "report.json").read_text())
    assert found[0].data.tags["ovi.identity.sync/blink/auc"] == told["metrics"]["sync/blink/auc"]["hash"]
    assert found[0].data.tags["ovi.report"] == storage.sha256(world / "first" / "report.json")
    files = {file.path for file in client.list_artifacts(found[0].info.run_id)}
    assert files >= {"report.html", "report.json", "evidence.safetensors"}


def test_formula_networks_run_the_whole_path_and_say_so_everywhere(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panns, "CHANNELS", (4, 4, 8, 8, 16, 16))
    monkeypatch.setattr(raft.Raft.forward, "__defaults__", (1,))
    made.clips(world / "lamps", [("blink", "test"), ("blink", "val")])
    chosen = made.settings(
        world, "evaluation.formula_networks=true", "evaluation.scenes=[]", "evaluation.show=2",
        f"tracking.uri=sqlite:///{world}/formula.db",
    )  # fmt: skip
    evaluate(world, chosen, world / "formula", clips="lamps")
    figures = json.loads((world / "formula" / "metrics.json").read_text())
    reasons = json.loads((world / "formula" / "metrics_reasons.json").read_text())
    told = json.loads((world / "formula" / "report.json").read_text())
    for name in ("fd_panns_cnn14_16k", "fd_vggish", "kl_panns_cnn14_16k", "clap_laion_htsat"):
        assert figures[name] is None
        assert reasons[name].startswith("not comparable: ")
        assert [key for key in figures if key.startswith(f"{name}/")] == []
        assert figures[f"not_comparable/{name}"] == told["metrics"][name]["value"]
        assert figures[f"not_comparable/{name}/n"] == told["metrics"][name]["n"]
        assert told["metrics"][name]["comparable"] is False
    assert "not comparable: fd_panns_cnn14_16k, " in (world / "formula" / "report.html").read_text()
    assert "loudness_lufs" not in reasons
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{world}/formula.db")
    run = client.search_runs([client.get_experiment_by_name("ovi").experiment_id])[0]
    assert run.data.tags["ovi.not_comparable"].startswith("not comparable: fd_panns_cnn14_16k, ")
    logged = run.data.metrics
    assert logged == {name: value for name, value in figures.items() if value is not None}
    assert all(name.startswith("not_comparable/") for name in logged if "fd_vggish" in name or "clap" in name)
    (check,) = promote.gate({"fd_vggish": Threshold(max=1e9)}, figures, reasons)
    assert not check.passed
    assert check.words().startswith("fd_vggish is null, wanted at most 1e+09 (not comparable: ")
    assert run.data.tags["ovi.identity.fd_vggish"] == told["metrics"]["fd_vggish"]["hash"]


def test_data_without_scenes_is_shown_but_not_scored(world: Path) -> None:
    made.clips(world / "own", [(None, "train"), (None, "val"), (None, "val")])
    voice = evaluate(world, made.settings(world), world / "own_out", clips="own", models="nothing")
    reasons = json.loads((world / "own_out" / "metrics_reasons.json").read_text())
    figures = json.loads((world / "own_out" / "metrics.json").read_text())
    assert reasons["sync/blink/auc"] == "not applicable: no held-out clip is of scene 'blink'"
    assert "video_backbone has not run" in reasons["loss/video_backbone/video/end"]
    assert all(
        figures[name] is None
        for name in figures
        if name.startswith(("sync/", "loss/", "fd_", "wer_")) and "/n" not in name
    )
    assert figures["loudness_lufs/n"] == 3
    assert voice.answer["sync/blink/auc"] is None
    assert {path.name for path in (world / "own_out" / "samples").glob("*.mp4")} == {f"clip_0{k}.mp4" for k in range(3)}


def test_nothing_held_out_means_nothing_generated(world: Path) -> None:
    made.clips(world / "trained", [("blink", "train")])
    evaluate(world, made.settings(world), world / "trained_out", clips="trained")
    assert "no held-out prompt" in (world / "trained_out" / "report.html").read_text()
    assert json.loads((world / "trained_out" / "metrics.json").read_text())["sync/blink/n"] == 0


def test_missing_and_damaged_inputs_are_one_line_and_leave_the_old_report(world: Path) -> None:
    before = (world / "first" / "report.html").read_bytes()
    with pytest.raises(OviError, match="no such file"):
        evaluate(world, made.settings(world), world / "first", clips="missing")
    weights = world / "models" / "fusion" / "transformer.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1])
        with pytest.raises(OviError, match="damaged"):
            evaluate(world, made.settings(world), world / "first")
    finally:
        weights.write_bytes(whole)
    assert (world / "first" / "report.html").read_bytes() == before

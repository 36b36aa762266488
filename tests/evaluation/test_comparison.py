"""Two runs side by side: what is found, what is not, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from ovi import compare_cli, storage
from ovi.errors import OviError
from ovi.evaluation import comparison, logbook, measured, record, scene_metrics
from ovi.evaluation.comparison import compare, holm
from ovi.evaluation.evidence import Frechet, Inception, Mean
from ovi.evaluation.measured import How
from ovi.evaluation.record import Record
from ovi.evaluation.results import Results
from ovi.evaluation.samples import Prompt
from ovi.evaluation.statistics import separation
from ovi.evaluation.sync import Pairs, SceneSync
from ovi.evaluation.take import Made
from ovi.tracking import Run
from tests.evaluation import made

EMPTY = np.zeros(0)
CLIPS = 40
NAMES = [f"blink_{at:02d}" for at in range(CLIPS)]
TAKES = [Made(name, f"caption {at // 2}", "r", EMPTY, EMPTY) for at, name in enumerate(NAMES)]  # two of each prompt
ASKED = [Prompt("blink", at, take.caption, at, "r") for at, take in enumerate(TAKES)]
REFERENCE = np.random.default_rng(99).normal(size=(50, 4))


def scene(shift: float, rng: np.random.Generator) -> SceneSync:
    """Own sounds stand out by `shift`."""
    pairs = Pairs(rng.normal(size=(CLIPS, CLIPS)) + 3 * shift * np.eye(CLIPS), rng.normal(0, 200, (CLIPS, CLIPS)))
    return SceneSync("blink", pairs, separation(pairs.score, 0, 100), pairs, None)


def run(folder: Path, seed: int, shift: float = 0.0, weights: str = "none") -> Record:
    """A better run has a shift above zero: higher AV-Align, lower clipping, features nearer to the reference."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(7).normal(size=CLIPS)
    how = How(0, 100)
    near = Frechet(
        CLIPS, rng.normal(size=(CLIPS, 4)) + 1 - shift, np.arange(CLIPS), REFERENCE, np.arange(len(REFERENCE))
    )
    means = {
        name: dict(zip(NAMES, common + rng.normal(size=CLIPS) / 4 + by, strict=True))
        for name, by in (("av_align", shift), ("clipping_share", -shift), ("motion", shift))
    }
    found = [
        *(measured.mean(name, TAKES, values, {}, how) for name, values in means.items()),
        measured.of("fd_vggish", TAKES, NAMES, near, {}, how, weights),
        measured.of("is_panns_cnn14_16k", TAKES, NAMES, Inception(rng.normal(size=(CLIPS, 6))), {}, how, weights),
        measured.of("wer_whisper", TAKES, NAMES, Mean(rng.integers(0, 4, CLIPS) * 1.0, np.full(CLIPS, 9.0)), {}, how),
        measured.mean("kl_panns_cnn14_16k", TAKES, dict(zip(NAMES, rng.normal(size=CLIPS), strict=True)), {}, how),
        *scene_metrics.metrics(scene(shift, rng), NAMES, 24, 16000),
        measured.absent("wer_f5_tts", "not applicable: none"),
    ]  # fmt: skip
    record.write(folder, {"model": str(seed)}, ASKED, found)
    return record.read(folder)


def test_a_better_run_is_found_to_be_and_by_chance_alone_nothing_is(tmp_path: Path) -> None:
    first, other, better = run(tmp_path / "a", 1), run(tmp_path / "b", 2), run(tmp_path / "c", 3, shift=0.8)
    by_chance = {one.metric: one for one in compare(first, other, draws=400)}
    assert set(by_chance) == {
        "av_align", "clipping_share", "motion", "kl_panns_cnn14_16k", "fd_vggish", "is_panns_cnn14_16k", "wer_whisper",
        "sync/blink/auc", "sync/blink/in_sync",
    }  # fmt: skip
    assert {one.verdict for one in by_chance.values()} == {"indistinguishable"}
    for one in by_chance.values():
        assert one.interval.low <= 0 <= one.interval.high
        assert one.detectable == pytest.approx(2.8016 * one.interval.deviation, rel=1e-3)
        assert (one.n, one.prompts) == (40, 20)
    found = {one.metric: one.verdict for one in compare(first, better, draws=400)}
    told = ("sync/blink/auc", "av_align", "clipping_share", "fd_vggish", "motion", "wer_whisper")
    assert {name: found[name] for name in told} == {
        "sync/blink/auc": "better", "av_align": "better", "clipping_share": "better", "fd_vggish": "better",
        "motion": "different", "wer_whisper": "indistinguishable",
    }  # fmt: skip
    turned = {one.metric: one for one in compare(better, first, draws=400)}
    assert turned["av_align"].verdict == turned["fd_vggish"].verdict == "worse"
    assert turned["fd_vggish"].interval.low > 0


def test_p_values_are_uniform_without_a_difference_and_pairing_helps() -> None:
    groups, p_values = np.arange(12), []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        one, other = (Mean.of(rng.normal(size=12)) for _ in range(2))
        p_values.append(comparison.permutation_p(one, other, groups, seed, 200))
    for level in (0.1, 0.3, 0.6):
        assert np.mean(np.array(p_values) <= level) == pytest.approx(level, abs=0.12)
    common = 10 * np.random.default_rng(0).normal(size=12)
    one, other = Mean.of(common), Mean.of(common + 0.1 + 0.05 * np.random.default_rng(1).normal(size=12))
    assert comparison.permutation_p(one, other, groups, 0, 5000) == pytest.approx(2 / 2**12)  # all exchanges


def test_the_quick_exchange_is_the_plain_one() -> None:
    rng, groups = np.random.default_rng(0), np.arange(6).repeat(2)
    one, other = (Mean(rng.normal(size=12), rng.integers(1, 5, 12) * 1.0) for _ in range(2))
    exchanges = rng.random((9, 6)) < 0.5
    once = np.ones(12, int)
    plain = [
        other.exchanged(one, places).value(once) - one.exchanged(other, places).value(once)
        for places in exchanges[:, groups]
    ]
    np.testing.assert_allclose(comparison._means_apart(one, other, groups, exchanges), plain, rtol=1e-12)


def test_holm_against_published_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_other_metrics_and_other_references_are_refused(tmp_path: Path) -> None:
    first, other = run(tmp_path / "a", 1), run(tmp_path / "b", 2, weights="ab" * 32)
    with pytest.raises(OviError, match="cannot be compared: of fd_vggish, is_panns_cnn14_16k the network"):
        compare(first, other)
    moved = replace(first.evidence["fd_vggish"], reference=REFERENCE + 1)
    with pytest.raises(OviError, match="fd_vggish has another reference"):
        compare(first, replace(first, evidence=first.evidence | {"fd_vggish": moved}))
    clips = [clip | {"real_clip": "another"} for clip in first.about["clips"]]
    with pytest.raises(OviError, match="kl_panns_cnn14_16k has other real clips"):
        compare(first, replace(first, about=first.about | {"clips": clips}))
    told = first.about["metrics"]
    slow = told["sync/blink/auc"] | {"hash": "0" * 16}
    with pytest.raises(OviError, match="cannot be compared: of sync/blink/auc the network"):
        compare(first, replace(first, about=first.about | {"metrics": told | {"sync/blink/auc": slow}}))
    with pytest.raises(OviError, match="no metric in common"):
        compare(first, replace(first, evidence={}))


def test_only_clips_of_one_prompt_are_paired(tmp_path: Path) -> None:
    first = run(tmp_path / "a", 1)
    clips = [clip | ({"caption": "another"} if at < 10 else {}) for at, clip in enumerate(first.about["clips"])]
    other = replace(first, about=first.about | {"clips": clips})
    assert {(one.n, one.prompts, one.difference) for one in compare(first, other, draws=100)} == {(30, 15, 0.0)}
    none = replace(first, about=first.about | {"clips": [clip | {"caption": "another"} for clip in clips]})
    with pytest.raises(OviError, match="0 prompts are in both runs"):
        compare(first, none)


def test_what_failed_in_one_run_is_told(tmp_path: Path) -> None:
    first, other = run(tmp_path / "a", 1), run(tmp_path / "b", 2)
    metrics = other.about["metrics"]
    place = {"av_align": metrics["av_align"] | {"clips": NAMES[5:]}}
    evidence = other.evidence | {"av_align": other.evidence["av_align"].chosen(np.arange(5, CLIPS))}
    del evidence["motion"]
    place["motion"] = metrics["motion"] | {"reason": "no clip could be scored"}
    worse = replace(other, about=other.about | {"metrics": metrics | place}, evidence=evidence)
    found = {one.metric: one for one in compare(first, worse, draws=100)}
    assert "motion" not in found
    assert comparison.left_out(first, worse) == {"motion": f"{tmp_path / 'b'} has no value: no clip could be scored"}
    assert (found["av_align"].n, found["av_align"].lost, found["fd_vggish"].lost) == (35, 5, 0)
    assert "5 clips that failed in one run do not count" in comparison.words(found["av_align"])


def test_metrics_of_too_few_prompts_are_left_out(tmp_path: Path) -> None:
    first = run(tmp_path / "a", 1)
    metrics = first.about["metrics"]
    few = metrics | {"motion": metrics["motion"] | {"clips": NAMES[:4]}}
    evidence = first.evidence | {"motion": first.evidence["motion"].chosen(np.arange(4))}
    second = replace(first, about=first.about | {"metrics": few}, evidence=evidence)
    assert "motion" not in {one.metric for one in compare(first, second, draws=100)}
    assert comparison.left_out(first, second) == {"motion": "2 prompts are in both runs, a comparison needs 3"}


def test_the_command_says_a_line_a_metric_and_tells_mlflow(tmp_path: Path) -> None:
    run(tmp_path / "a", 1, weights="filled by a formula")
    run(tmp_path / "b", 3, shift=0.8, weights="filled by a formula")
    store = [f"tracking.uri=sqlite:///{tmp_path}/runs.db", f"tracking.artifacts={tmp_path}/artifacts"]
    words = [str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c.json"), "--draws", "200",
             "--params", str(made.ROOT / "params.yaml"), "--set", store[0], "--set", store[1]]  # fmt: skip
    done = CliRunner().invoke(compare_cli.app, words)
    assert done.exit_code == 0, done.output
    assert "MLflow: nothing, it does not hold the runs of both folders" in done.output
    tracking = made.settings(tmp_path, *store).tracking
    ids = []
    for name in ("a", "b"):
        for file in logbook.FILES:
            (tmp_path / name / file).touch()
        logged = Run.open(tracking, "evaluate")
        logbook.write(logged, tmp_path / name, Results(), [])
        logged.close()
        ids.append(logged.id)
    done = CliRunner().invoke(compare_cli.app, words)
    assert f"MLflow: on run {ids[1]}" in done.output
    client = MlflowClient(tracking.uri)
    first, judged = (client.get_run(one) for one in ids)
    assert not first.data.metrics
    assert judged.info.status == "FINISHED"
    assert judged.data.tags["ovi.compared_with"] == ids[0]
    assert judged.data.tags["ovi.verdict.sync/blink/auc"] == "better"
    assert judged.data.tags["ovi.verdict.not_comparable/fd_vggish"] == "better"
    told = storage.read_json(tmp_path / "c.json")
    assert judged.data.metrics["compare/av_align/difference"] == told["av_align"]["difference"]
    assert judged.data.metrics["compare/av_align/p_value"] == told["av_align"]["p_value"]
    assert not any(name.startswith("compare/fd_vggish") for name in judged.data.metrics)
    (tmp_path / "kept").mkdir()
    assert storage.read_json(Path(client.download_artifacts(ids[1], "c.json", str(tmp_path / "kept")))) == told
    assert told["not_comparable/fd_vggish"]["verdict"] == "better"
    assert "fd_vggish: better" in done.output
    assert "would have been found" in done.output
    with pytest.raises(OviError, match="no such file"):
        record.read(tmp_path / "nothing")


def test_networks_by_formula_are_named(tmp_path: Path) -> None:
    first, other = (run(tmp_path / name, seed, weights="filled by a formula") for name, seed in (("a", 1), ("b", 2)))
    lines = [comparison.words(one) for one in compare(first, other, draws=100)]
    assert sum("not comparable" in line for line in lines) == 2

"""Benchmarks from files to reports: nothing missing goes unnoticed, nothing by formula goes unmarked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from typer.testing import CliRunner

from ovi import benchmark_cli
from ovi.config import Settings
from ovi.errors import OviError
from ovi.evaluation import comparison, filed, published, record, scored
from ovi.evaluation.networks import NOT_COMPARABLE, Networks, Opened
from ovi.evaluation.readers import library
from ovi.evaluation.readers.benchmark import Benchmark
from ovi.media.encode import write_clip, write_wav
from ovi.perception import panns, raft
from ovi.progress import Silent
from tests.evaluation import made
from tests.evaluation.readers import layouts

STORE = Path()
FORMULA = "evaluation.formula_networks=true"
BARE = ("loudness_lufs", "silence_share", "clipping_share", "bandwidth_hz")


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A narrow PANNs, a hasty RAFT; networks are filled once; a tracking store for tests that do not look into it."""
    torch.set_num_threads(1)
    opened: dict[str, Opened] = {}
    fill = Networks._made

    def once(networks: Networks, name: str) -> Opened:
        return opened.get(name) or opened.setdefault(name, fill(networks, name))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panns, "CHANNELS", (4, 4, 8, 8, 16, 16))
        patch.setattr(panns, "FEATURES", 16)
        patch.setattr(raft.Raft.forward, "__defaults__", (1,))
        patch.setattr(
            Networks, "_made", lambda self, name: opened.get(name) or opened.setdefault(name, fill(self, name))
        )
        patch.setattr("tests.evaluation.test_scored.STORE", tmp_path_factory.mktemp("tracking"))
        yield


def settings(*more: str) -> Settings:
    return made.settings(STORE, "evaluation.draws=100", *more)


class Voice(Silent):
    """Keeps the answer."""

    def result(self, **values: object) -> None:
        self.answer = values


def score(chosen: Settings, benchmark: Benchmark, clips: Path, out: Path, as_published: bool = False) -> dict[str, Any]:
    voice = Voice()
    scored.score(chosen, benchmark, clips, out, voice, as_published)
    told = json.loads((out / record.REPORT).read_text())
    metrics = (key_of(name, one) for name, one in told["metrics"].items())
    assert set(voice.answer) == {"report", *metrics}  # what the terminal shows
    return told


def key_of(name: str, metric: dict[str, Any]) -> str:
    """Where its number is in metrics.json."""
    return name if metric["comparable"] or metric["value"] is None else f"not_comparable/{name}"


def test_verse_bench_scores_each_set_by_what_it_has(tmp_path: Path) -> None:
    benchmark = library.read("verse-bench", layouts.verse_bench(tmp_path / "data"))
    clips = layouts.clips(benchmark, tmp_path / "clips")
    told = score(settings(FORMULA), benchmark, clips, tmp_path / "out", as_published=True)
    counted = {name: metric["clips"] for name, metric in told["metrics"].items()}
    assert counted["kl_panns_cnn14_16k"] == ["419"]
    assert counted["clap_laion_htsat"] == ["00007", "419"]
    assert sorted(counted["wer_f5_tts"]) == ["01083", "420"]
    assert sorted(counted["lse_c"]) == ["01083", "420"]
    assert len(counted["motion"]) == 4
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    reasons = json.loads((tmp_path / "out" / "metrics_reasons.json").read_text())
    shown = (tmp_path / "out" / "report.html").read_text()
    for name, metric in told["metrics"].items():
        key = key_of(name, metric)
        assert (figures[key], figures[f"{key}/n"], figures[f"{key}/n_failed"]) == (
            metric["value"], metric["n"], metric["n_failed"],
        )  # fmt: skip
        if metric["value"] is not None and not metric["comparable"]:
            assert (figures[name], reasons[name]) == (None, NOT_COMPARABLE)
            assert f"{name} (not comparable)" in shown
    by_name = {one["name"]: one for one in told["published"]}
    assert by_name.keys() == {"FD", "KL", "WER", "LSE-C", "AV-A", "CS", "overall"}
    assert 0 <= by_name["FD"]["value"] <= 4
    assert by_name["overall"]["value"] == pytest.approx(figures["not_comparable/published/overall"])
    assert "no Fréchet distance" in reasons["not_comparable/published/FD"]
    for name, one in by_name.items():
        assert figures[f"published/{name}"] is None
        assert one["defect"].startswith(NOT_COMPARABLE) == (name != "AV-A")
    assert "what is wrong with it" in shown


def test_sound_alone_has_no_figures_of_pictures(tmp_path: Path) -> None:
    benchmark = library.read("audiocaps", layouts.audiocaps(tmp_path / "data"))
    clips = layouts.clips(benchmark, tmp_path / "clips")
    told = score(settings(FORMULA), benchmark, clips, tmp_path / "out", as_published=True)
    assert not {"motion", "av_align", "lse_c"} & told["metrics"].keys()
    assert set(BARE) <= told["metrics"].keys()
    assert told["metrics"]["fd_vggish"]["n"] == 3
    assert "audiocaps: 3 clips, the first 8 s" in told["metrics"]["fd_vggish"]["identity"]["protocol"]
    sigmoid, floor = told["published"]
    exact = told["metrics"]["kl_panns_cnn14_16k"]["value"]
    assert floor["value"] == pytest.approx(exact, rel=0.05)
    assert floor["value"] < exact
    assert sigmoid["value"] != pytest.approx(exact, rel=0.05)


def test_longer_sounds_are_cut(tmp_path: Path) -> None:
    sound = np.linspace(-0.5, 0.5, 10 * 16_000, dtype=np.float32)
    write_wav(tmp_path / "a.wav", sound, 16_000)
    assert len(filed.heard(tmp_path / "a.wav", 8.0)[0]) == 8 * 16_000
    assert len(filed.heard(tmp_path / "a.wav", None)[0]) == 10 * 16_000


def test_equal_files_give_equal_bytes_and_compare_with_themselves(tmp_path: Path) -> None:
    benchmark = library.read("seed-tts", layouts.seed_tts(tmp_path / "data"))
    clips = layouts.clips(benchmark, tmp_path / "clips")
    for out in ("one", "other"):
        score(settings(FORMULA), benchmark, clips, tmp_path / out, as_published=True)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes(), path.name
    found = comparison.compare(*(record.read(tmp_path / out) for out in ("one", "other")))
    assert {one.verdict for one in found} == {"indistinguishable"}


def test_a_missing_file_ends_the_run_with_the_list(tmp_path: Path) -> None:
    benchmark = library.read("audiocaps", layouts.audiocaps(tmp_path / "data"))
    clips = layouts.clips(benchmark, tmp_path / "clips")
    (clips / "Y1ab.wav").unlink()
    (clips / "Y2ab.wav").write_bytes(b"no sound at all")
    (tmp_path / "data" / "Y0ab.wav").unlink()
    chosen = settings(f"tracking.uri=sqlite:///{tmp_path}/missing.db")
    with pytest.raises(OviError) as caught:
        score(chosen, benchmark, clips, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith("3 of 6 files are missing or unreadable, more than evaluation.max_missing=0 allows: ")
    for part in ("Y1ab: no such file", "Y2ab: ", "real Y0ab.wav: no such file"):
        assert part in message
    assert "\n" not in message
    assert not (tmp_path / "out").exists()
    client = MlflowClient(f"sqlite:///{tmp_path}/missing.db")
    (run,) = client.search_runs([client.get_experiment_by_name("ovi").experiment_id])
    assert run.info.status == "FAILED"


def test_below_the_threshold_what_is_missing_counts_as_failed(tmp_path: Path) -> None:
    benchmark = library.read("audiocaps", layouts.audiocaps(tmp_path / "data", 4))
    clips = layouts.clips(benchmark, tmp_path / "clips")
    (clips / "Y1ab.wav").unlink()
    (tmp_path / "data" / "Y0ab.wav").unlink()
    told = score(settings(FORMULA, "evaluation.max_missing=0.25"), benchmark, clips, tmp_path / "out")
    assert told["missing"] == ["real Y0ab.wav: no such file", "Y1ab: no such file"]
    counts = {name: (metric["n"], metric["n_failed"]) for name, metric in told["metrics"].items()}
    assert counts["loudness_lufs"] == (3, 1)
    assert counts["fd_panns_cnn14_16k"] == (3, 1)
    assert counts["kl_panns_cnn14_16k"] == (2, 2)  # one has no partner
    failed = {clip["name"]: clip["failed"] for clip in told["clips"]}
    assert failed["Y0ab"]["kl_panns_cnn14_16k"] == "its real clip Y0ab is missing"
    assert failed["Y1ab"]["loudness_lufs"] == "no such file"
    assert "real Y0ab.wav: no such file" in (tmp_path / "out" / "report.html").read_text()


def test_clips_are_found_by_name_or_by_their_row(tmp_path: Path) -> None:
    benchmark = library.read("javis-bench-mini", layouts.javis_bench(tmp_path / "data"))
    clips = layouts.clips(benchmark, tmp_path / "clips")
    (clips / "sample_0001.mp4").rename(clips / "0001_A_drum_is_hit_8.mp4")
    write_clip(clips / "sample_0002.mp4", np.zeros((36, 32, 32, 3), np.uint8), 12, None)
    write_wav(clips / "sample_0002.wav", np.zeros(24_000, np.float32), 24_000)  # its sound beside it
    gathered = filed.gather(benchmark, clips)
    assert gathered.missing == ()
    assert [take.rate for take in gathered.takes] == [16_000, 16_000, 24_000]
    assert [take.fps for take in gathered.takes] == [24, 24, 12]
    assert gathered.takes[1].frames.shape == (36, 32, 32, 3)
    (clips / "sample_0002.wav").unlink()
    assert filed.gather(benchmark, clips).missing == ("sample_0002: has no sound stream",)
    (clips / "0001_A_drum_is_hit_9.mp4").write_bytes(b"of another seed")
    with pytest.raises(OviError, match=r"_8\.mp4 and 0001_A_drum_is_hit_9\.mp4 are both of row 1; keep one"):
        filed.gather(benchmark, clips)
    (clips / "0001_A_drum_is_hit_9.mp4").unlink()
    with pytest.raises(OviError, match="no such folder"):
        filed.gather(benchmark, tmp_path / "none")
    told = score(settings("evaluation.max_missing=1"), benchmark, clips, tmp_path / "out", as_published=True)
    assert [one["name"] for one in told["published"]] == ["av_align_text"]
    assert "not comparable" not in told["published"][0]["defect"]  # no network takes part in it
    assert told["metrics"]["av_align"]["n"] + told["metrics"]["av_align"]["n_failed"] == 3


def test_the_published_overall_counts_what_is_missing_as_best() -> None:
    best = {name: best for name, (best, _) in published.BOUNDS.items()}
    worst = {name: worst for name, (_, worst) in published.BOUNDS.items()}
    assert published.overall(best) == pytest.approx(1)
    assert published.overall(worst) == 0
    lacking = {**worst, "FD": None, "AV-A": None}
    assert published.overall(lacking) is None
    assert published.overall(lacking, as_published=True) == pytest.approx(0.2 / 7)  # FD as if perfect; no CS, no joint
    assert published.overall({**lacking, "CS": 1.0}, as_published=True) == pytest.approx(0.5 + 0.4 / 7)


def test_the_command_writes_a_report_and_logs_it(tmp_path: Path) -> None:
    data, out = layouts.seed_tts(tmp_path / "data"), tmp_path / "out"
    clips = layouts.clips(library.read("seed-tts", data), tmp_path / "clips")
    words = ["score", "seed-tts", "--data", str(data), "--clips", str(clips), "--out", str(out), "--json",
             "--params", str(made.ROOT / "params.yaml"), "--set", f"tracking.uri=sqlite:///{tmp_path}/runs.db",
             "--set", f"tracking.artifacts={tmp_path}/artifacts", "--set", "evaluation.draws=50"]  # fmt: skip
    done = CliRunner().invoke(benchmark_cli.app, words)
    assert done.exit_code == 0, done.output
    client = MlflowClient(f"sqlite:///{tmp_path}/runs.db")
    (run,) = client.search_runs([client.get_experiment_by_name("ovi").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["ovi.benchmark"] == "seed-tts"
    assert run.data.metrics["loudness_lufs/n"] == 3
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["wer_f5_tts"] is None
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"report.html", "report.json"}

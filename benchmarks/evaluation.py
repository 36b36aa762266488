"""Does evaluation hold what it promises? Fréchet distances in time, intervals that cover, studies that find the truth.

Every figure is computed on one thread and timed in CPU seconds, which others' work on the machine does not change.
Simulations are seeded, so that a second run prints the same shares. What has a command of its own is not here:
`benchmarks/sync.py` (the estimator of synchronisation) and `python -m tests.conformance` (golden vectors).
Try it: `.venv/bin/python benchmarks/evaluation.py` (a minute), `--only studies`; `--ablation` for `ovi ablate`, and
`--attention` for a model that learns where sound comes from (four minutes of CPU; its picture: out/attention.png).
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
if any(os.environ.get(name) != "1" for name in ONE_THREAD):  # linear algebra reads them once, when it is imported
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_THREAD})
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.learn import prepare  # noqa: E402
from ovi import config, storage  # noqa: E402
from ovi.diffusion.sampler import Sampler  # noqa: E402
from ovi.evaluation import affinity, frechet, gaze, intervals, paper_figures, plots  # noqa: E402
from ovi.evaluation.evidence import Frechet, Mean  # noqa: E402
from ovi.evaluation.frechet import Moments  # noqa: E402
from ovi.evaluation.gaze import Gaze  # noqa: E402
from ovi.evaluation.results import Results  # noqa: E402
from ovi.progress import Silent  # noqa: E402
from ovi.synthetic.scenes import SCENES  # noqa: E402
from ovi.training import loop  # noqa: E402
from ovi.training.job import Job  # noqa: E402
from ovi.training.place import Place  # noqa: E402
from ovi.training.rank import Mute  # noqa: E402
from services.study.analysis import two_way, votes_on  # noqa: E402
from services.study.design import QUESTIONS  # noqa: E402
from tests.services.study.made import simulated, true_rate  # noqa: E402

FRECHET_S, DRAWS_S, ABLATION_S = 10.0, 60.0, 300.0
COVERS, HOLDS = (0.92, 0.98), (0.93, 0.97)
SCALED, UNSCALED = 0.999, 0.2
STUDIES = 200
TRUTH = {"strength": 0.4, "ties": 0.2, "item_spread": 0.5, "rater_spread": 0.3, "side": 0.15}
SEEING = [  # the demo's model with 4 x 4 tokens a frame, over two seconds; both towers from nothing, and each modality
    # with a noise of its own, so that sound that is all noise can be told from a picture that is there
    "clip.frames=61", f"corpus.scenes={{{', '.join(f'{scene}: 1' for scene in SCENES)}}}", "corpus.clips=300",
    "corpus.audio_files=0", "corpus.planted=false", "corpus.workers=1", "curation.workers=1",
    "codec.video_channels=16", "codec.video_patch=[8, 8]", "model.video_patch=[1, 1, 1]", "model.heads=2",
    "training.engine=torch", "training.ranks=1",
    "training.fusion.joint=true", "training.fusion.shared_t=false", "training.fusion.video_weight=0.3",
    "training.fusion.audio_weight=0.7", "training.fusion.validate_every=1000",
]  # fmt: skip
LEARN = {"steps": 300, "lr": 0.004, "warmup": 15, "cooldown": 75}
LOOKS, FEWEST_SCENES, UNTRAINED = 16, 3, (0.95, 1.05)  # clips a scene; scenes that must be found; ratio before training


@dataclass(frozen=True)
class Bar:
    """One promise: what was measured, what was asked, and how long it took."""

    name: str
    figure: float
    asked: str
    passed: bool
    cpu_s: float = 0.0
    note: str = ""
    figures: dict[str, float | None] = field(default_factory=dict)  # behind it


def main() -> int:
    options = _options()
    parts = {"frechet": distance, "draws": draws, "means": means, "distances": distances, "ridge": ridge,
             "studies": studies}  # fmt: skip
    if options.ablation or options.attention:
        parts = {"ablation": ablation} if options.ablation else {"attention": attention}
    bars = [bar for name, part in parts.items() if options.only in (None, name) for bar in _said(part())]
    facts = {"cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine(),
             "numpy": np.__version__}  # fmt: skip
    out = options.out or ROOT / f"benchmarks/results/evaluation{'-ablation' if options.ablation else ''}.json"
    if options.only is None:
        told = {"bars": [asdict(bar) for bar in bars], "machine": facts}
        before = storage.read_json(out) if out.exists() else {}
        storage.write_json(out, before | ({"attention": told} if options.attention else told))
    failed = sum(not bar.passed for bar in bars)
    print(f"{len(bars) - failed} passed, {failed} failed")
    return 1 if failed else 0


def distance() -> Iterator[Bar]:
    """FD of as many vectors as AudioCaps has, of PANNs' size: fewer than dimensions."""
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(964, 2048)) for _ in range(2))
    value, cpu_s = _timed(lambda: frechet.distance(Moments.of(one), Moments.of(other)))
    yield _below("FD, n = 964, d = 2048, CPU seconds on one thread", cpu_s, FRECHET_S, cpu_s, f"FD {value:.4f}")


def draws() -> Iterator[Bar]:
    """A thousand draws of FD_VGG: 400 clips with five patches of 128 features each."""
    evidence, groups = _sets(400, 128, np.random.default_rng(0), rows=5), np.arange(400)
    _, cpu_s = _timed(lambda: intervals.drawn([evidence], groups, np.random.default_rng(0), 1000))
    yield _below("1000 draws of FD_VGG, n = 2000, d = 128, CPU seconds", cpu_s, DRAWS_S, cpu_s)


def means() -> Iterator[Bar]:
    """95 % intervals of means: do they cover?"""
    for kind in ("normal", "skewed", "clustered"):
        share, cpu_s = _timed(lambda kind=kind: np.mean([_mean_covered(kind, trial) for trial in range(1000)]))
        yield _within(f"coverage, mean of {kind} clips, 1000 trials", float(share), COVERS, cpu_s)


def distances() -> Iterator[Bar]:
    """95 % intervals of Fréchet distances, of few and of many dimensions for the clips there are."""
    for n, d, trials in ((120, 8, 400), (300, 16, 300)):
        found, cpu_s = _timed(lambda n=n, d=d, trials=trials: [_distance_covered(n, d, t) for t in range(trials)])
        share, percentile = np.mean(found, axis=0)
        note = f"a percentile interval: {percentile:.1%}"
        yield _within(f"coverage, FD of {n} clips, d = {d}, {trials} trials", float(share), COVERS, cpu_s, note)


def ridge() -> Iterator[Bar]:
    """Figure 2 at the paper's sizes: 157 sound latents, 31 latent frames, heads of 128."""
    scaled, unscaled = (affinity.ridge_correlation(affinity.matrix(157, 31, 128, by)) for by in (31 / 157, 1.0))
    yield Bar("ridge correlation, scaled", scaled, f"at least {SCALED}", scaled >= SCALED)
    yield Bar("ridge correlation, unscaled", unscaled, f"at most {UNSCALED}", unscaled <= UNSCALED)


def studies() -> Iterator[Bar]:
    """Do studies of 50 raters, three questions each, hold the true rate? By the study's own plan and analysis."""
    truth = true_rate(**TRUTH)
    for items in (24, 48):
        held, cpu_s = _timed(lambda items=items: [h for s in range(STUDIES) for h in _held(1000 + s, items, truth)])
        yield _within(
            f"{STUDIES} studies, 50 raters, {items} items: hold the true rate", float(np.mean(held)), HOLDS, cpu_s
        )


def ablation() -> Iterator[Bar]:
    """`ovi ablate` of the tiny profile from nothing, in a folder of its own: eight cells and their evaluations."""
    with tempfile.TemporaryDirectory(prefix="ovi-ablation-") as name:
        folder = Path(name)
        for path in ("dvc.yaml", ".dvcignore", "params.yaml", "pyproject.toml"):
            shutil.copy(ROOT / path, folder / path)
        for path in ("ovi", "flows", "services", ".dvc"):
            shutil.copytree(ROOT / path, folder / path, ignore=shutil.ignore_patterns("__pycache__", "tmp", "cache"))
        began, before = time.monotonic(), _cpu_s()
        done = subprocess.run([Path(sys.executable).with_name("ovi"), "ablate"], cwd=folder, check=False)
        took, cpu_s = time.monotonic() - began, _cpu_s() - before
        about = storage.read_json(folder / "out/ablation/ablation.json") if done.returncode == 0 else {"cells": []}
    yield Bar("ovi ablate ends well", done.returncode, "exit 0", done.returncode == 0)
    yield Bar("cells", len(about["cells"]), "8", len(about["cells"]) == 8)
    yield _below("evaluation and 8 cells, seconds", took, ABLATION_S, cpu_s)


def attention() -> Iterator[Bar]:
    """Figure 3: does sound look at its source? A model trained from nothing, and clips that it never saw.

    Intervals are over clips of this one model; models of other seeds find other scenes best.
    """
    with tempfile.TemporaryDirectory(prefix="ovi-attention-") as name:
        folder, began = Path(name), _cpu_s()
        prepare(folder, config.load(ROOT / "params.yaml", sets=SEEING))
        before, _ = _looks(folder, "untrained", {**LEARN, "steps": 1, "lr": 1e-9, "warmup": 0, "cooldown": 0})
        looks, note = _looks(folder, "trained", LEARN)
        cpu_s = _cpu_s() - began
    settings, results = config.load(ROOT / "params.yaml"), Results()
    paper_figures.told("untrained", [one for mine in before.values() for one in mine], settings, results)
    paper_figures.told("all", [one for mine in looks.values() for one in mine], settings, results)
    for scene, mine in looks.items():
        paper_figures.told(scene, mine, settings, results)
    storage.write_bytes(ROOT / "out/attention.png", plots.gazes([mine[0] for mine in looks.values()]))
    found = results.values
    yield _within("attention in the source over its area, untrained", found["untrained/ratio"], UNTRAINED, 0.0)
    for what, chance in (("ratio", 1.0), ("auc", 0.5)):
        low, high = found[f"all/{what}/ci_low"], found[f"all/{what}/ci_high"]
        sure = f"95 % interval {low:.3g} to {high:.3g} over {found[f'all/{what}/n']} clips; {note}"
        yield Bar(f"attention, trained, all scenes: {what}", found[f"all/{what}"], f"interval above {chance:g}",
                  low > chance, cpu_s, sure)  # fmt: skip
    seen = [scene for scene in SCENES if found[f"{scene}/ratio/ci_low"] > 1]
    each = ", ".join(f"{scene} {found[f'{scene}/inside']:.2f} of {found[f'{scene}/area']:.2f}" for scene in SCENES)
    yield Bar("scenes whose interval of the ratio is above 1", len(seen), f"at least {FEWEST_SCENES}",
              len(seen) >= FEWEST_SCENES, cpu_s, f"attention in the source, of its area: {each}", found)  # fmt: skip


def _looks(folder: Path, name: str, learn: dict[str, float]) -> tuple[dict[str, list[Gaze]], str]:
    """What a model trained so sees of each scene, and what a sound's picture was worth to it."""
    settings = config.load(
        ROOT / "params.yaml", sets=[*SEEING, *(f"training.fusion.{k}={v}" for k, v in learn.items())]
    )
    models = folder / name / "models"
    models.mkdir(parents=True)
    (models / "codec").symlink_to(folder / "codec")
    job = Job.make("fusion", settings, folder / "latents", models, folder / name / "checkpoints")
    losses = loop.train(job, Place(), Silent(), Mute(), lambda: False)["metrics"]["partner"]["audio"]
    sampler = Sampler.open(models / "fusion", settings.runtime)
    step = int(settings.evaluation.attention_at * settings.sampling.steps)
    looks = {scene: [gaze.look(sampler, settings, scene, at, step) for at in range(LOOKS)] for scene in SCENES}
    return looks, f"loss of sound {losses['true']:.3f} beside its picture, {losses['shuffled']:.3f} beside another"


def _cpu_s() -> float:
    """Of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _sets(n: int, d: int, rng: np.random.Generator, rows: int = 1) -> Frechet:
    """Features of n clips with some rows each; their true distance is d (0.3^2 + 0.2^2)."""
    owner = np.repeat(np.arange(n), rows)
    return Frechet(n, rng.normal(size=(n * rows, d)), owner, 1.2 * rng.normal(size=(n * rows, d)) + 0.3, owner)


def _mean_covered(kind: str, trial: int) -> bool:
    rng = np.random.default_rng([11, trial])
    if kind == "clustered":  # forty prompts, three clips each, which have much in common
        values = (rng.normal(size=(40, 1)) + 0.3 * rng.normal(size=(40, 3))).ravel()
        prompts = [str(at // 3) for at in range(120)]
    else:
        values = rng.normal(size=60) if kind == "normal" else rng.gamma(2, size=60) - 2
        prompts = [str(at) for at in range(60)]
    found = intervals.interval(Mean.of(values), prompts, trial, 500)
    return found.low <= 0 <= found.high


def _distance_covered(n: int, d: int, trial: int) -> tuple[bool, bool]:
    """By the basic interval, and by one of percentiles."""
    evidence, truth = _sets(n, d, np.random.default_rng([12, trial])), d * (0.3**2 + 0.2**2)
    found = intervals.drawn([evidence], np.arange(n), np.random.default_rng(trial), 200)[:, 0]
    basic, (low, high) = intervals.basic(evidence.exact(), found), np.quantile(found, (0.025, 0.975))
    return basic.low <= truth <= basic.high, low <= truth <= high


def _held(seed: int, items: int, truth: float) -> list[bool]:
    export = simulated(seed, items=items, **TRUTH)
    trials: dict[int, list[dict[str, object]]] = {}
    for trial in export["trials"]:
        trials.setdefault(trial["rater"], []).append(trial)
    found = [two_way(votes_on(question, trials, export["study"])) for question in QUESTIONS]
    return [one is not None and one.low <= truth <= one.high for one in found]


def _timed(compute: Callable[[], object]) -> tuple[object, float]:
    began = time.process_time()
    value = compute()
    return value, time.process_time() - began


def _below(name: str, figure: float, limit: float, cpu_s: float, note: str = "") -> Bar:
    return Bar(name, figure, f"at most {limit:g}", figure <= limit, cpu_s, note)


def _within(name: str, figure: float, ends: tuple[float, float], cpu_s: float, note: str = "") -> Bar:
    return Bar(name, figure, f"{ends[0]:g} to {ends[1]:g}", ends[0] <= figure <= ends[1], cpu_s, note)


def _said(bars: Iterator[Bar]) -> Iterator[Bar]:
    for bar in bars:
        note = f"; {bar.note}" if bar.note else ""
        print(f"{'PASS' if bar.passed else 'FAIL'}  {bar.name}: {bar.figure:.4g} ({bar.asked}){note}", flush=True)
        yield bar


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the promises of evaluation and of the blind study.")
    parser.add_argument("--only", help="one part: frechet, draws, means, distances, ridge, studies")
    parser.add_argument("--ablation", action="store_true", help="instead: `ovi ablate`, tiny, from nothing")
    parser.add_argument("--attention", action="store_true", help="instead: Figure 3 of a model trained from nothing")
    parser.add_argument("--out", type=Path, help="results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

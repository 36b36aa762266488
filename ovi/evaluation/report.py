"""The report of an evaluation, and the same with the served clip in front: what was measured, how sure, what is null.

It draws what it is given and computes nothing; equal inputs give equal bytes.
Try it: `ovi evaluate`, `ovi report --clip out/demo.mp4 --out out/report.html`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovi import storage
from ovi.config import Settings
from ovi.errors import OviError
from ovi.evaluation import figures, page, paper_page, pictures, quality_page, study_page
from ovi.evaluation.figures import Bar, Line, Row, fixed, number
from ovi.evaluation.learning import Curve
from ovi.evaluation.results import Results
from ovi.evaluation.statistics import Separation
from ovi.evaluation.sync import SceneSync

NAMES = {
    "video_backbone": "Video backbone",
    "audio_pretrain": "Audio pretraining",
    "audio_finetune": "Audio fine-tuning",
    "fusion": "Fusion",
}
FIGURES = {
    "rope_affinity": "Figure 2: rotary positions of sound against those of the picture; dots mark the most alike",
    "attention": "Figure 3: where sound looks; the source is outlined",
    "win_rates": "Figure 4: what people preferred",
}
PARTNERS = {"true": "own partner", "shuffled": "another clip's partner", "tower": "tower alone"}


@dataclass(frozen=True)
class Sample:
    """A generated clip ready to show: the mp4's bytes and two PNGs."""

    name: str
    prompt: str
    under: str  # one line: scene, seed, how it scored
    mp4: bytes
    strip: bytes
    waveform: bytes


@dataclass(frozen=True)
class Facts:
    """What was evaluated."""

    settings: Settings
    digest: str  # of the model folder
    prompts: int  # held-out prompts there were to choose from
    splits: str  # where they came from, in words


def build(
    facts: Facts, results: Results, curves: Sequence[Curve], scenes: Sequence[SceneSync], samples: Sequence[Sample],
    about: Mapping[str, Any], drawn: Mapping[str, bytes],
) -> str:  # fmt: skip
    """The page as HTML; `about` is what report.json holds, `drawn` the paper's figures as PNG."""
    return page.page("Ovi: evaluation", "\n".join([
        _head(facts), page.FRONT, _tiles(results, scenes),
        *(_sync(scene, results) for scene in scenes), _missing_scenes(facts, results, scenes),
        quality_page.metrics(about), paper_page.tables(about), _learning(curves, results), _partners(results),
        _samples(samples), quality_page.clips(about), _drawn(drawn), study_page.preferred(results),
        everything(results), _foot(facts),
    ]))  # fmt: skip


def demo_page(settings: Settings, evaluation: Path, clip: Path, out: Path) -> None:
    """Write the evaluation's report to `out` with a first section that shows the served clip.

    Raises OviError when there is no report or no clip; MediaError when the clip cannot be read.
    """
    source = evaluation / "report.html"
    if not source.exists():
        raise OviError(f"{source}: no report there; run `ovi evaluate` first")
    if not clip.exists():
        raise OviError(f"{clip}: no clip there; run `ovi clip` first")
    strip, waveform = pictures.strip_and_waveform(clip)
    under = f"{clip.name}, made by the packaged service over HTTP; seed {settings.service.seed}"
    shown = page.clip(settings.service.prompt, clip.read_bytes(), strip, waveform, under)
    front = page.section(
        "The served clip", page.words("What the running service answered when it was asked for this:"), shown
    )
    storage.write_bytes(out, source.read_text().replace(page.FRONT, front, 1).encode())


def p_words(found: Separation) -> str:
    """The p-value for people."""
    if found.exact:
        as_good, kind = round(found.p_value * found.pairings), "possible pairings, itself included,"
    else:
        as_good, kind = round(found.p_value * (found.pairings + 1)) - 1, "random pairings"
    return f"{as_good:,} of {found.pairings:,} {kind} did as well (p\u00a0=\u00a0{number(found.p_value)})"


def percent(share: float) -> str:
    """0.412 -> '41.2 %', without decimals where they would be zero."""
    return f"{share * 100:.1f}".removesuffix(".0").replace("-", "−") + "\u00a0%"


def three(share: float) -> str:
    return f"{share:.3f}"


def change(drop: float) -> str:
    """A drop of 0.41 is shown as −41 %."""
    return ("−" if drop >= 0 else "+") + percent(abs(drop))


def everything(results: Results) -> str:
    """Every figure by name, after those that are null and why."""
    figures_shown = [[name, _shown(results, name), results.notes.get(name, "")] for name in sorted(results.values)]
    nulls = [[name, "null", results.reasons[name]] for name in sorted(results.reasons)]
    text = f"{len(figures_shown)} figures; {len(nulls)} of them could not be computed and say why instead."
    why = page.table(["could not be computed", "", "why"], nulls) if nulls else ""
    listed = page.table(["figure", "value", ""], figures_shown)
    full = f"<details><summary>All {len(figures_shown)} figures</summary>{listed}</details>"
    return page.section("Everything that was measured", page.words(text), why, full)


def _head(facts: Facts) -> str:
    settings = facts.settings
    scenes = ", ".join(settings.evaluation.scenes) or "none"
    line = (f"Profile {settings.profile}, seed {settings.seed}, model {facts.digest[:12]}. "
            f"Prompts are held out: {facts.splits}. Scored scenes: {scenes}.")  # fmt: skip
    return f"<h1>Evaluation</h1>{page.words(line, 'soft')}"


def _tiles(results: Results, scenes: Sequence[SceneSync]) -> str:
    tiles = [_sync_tile(scene) for scene in scenes]
    for stage, modality in (("video_backbone", "video"), ("audio_pretrain", "audio")):
        name = f"loss/{stage}/{modality}"
        under = f"held-out loss {_shown(results, f'{name}/start', fixed)} → {_shown(results, f'{name}/end', fixed)}"
        tiles.append(page.tile(NAMES[stage], _shown(results, f"{name}/drop", change), under))
    psnr = _shown(results, "codec/video_psnr_db", lambda db: f"{db:.1f} dB")
    under = f"audio log-mel error {_shown(results, 'codec/audio_log_mel_error', fixed)}; held-out clips there and back"
    tiles.append(page.tile("Codec, video PSNR", psnr, under))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _sync_tile(scene: SceneSync) -> str:
    found = scene.separation
    under = f"95\u00a0% interval {found.low:.3f} to {found.high:.3f}, {found.n} clips; chance 0.5"
    return page.tile(f"Sync AUC, {scene.scene}", f"{found.auc:.3f}", under)


def _sync(scene: SceneSync, results: Results) -> str:
    found, name = scene.separation, f"sync/{scene.scene}"
    offset = _shown(results, f"{name}/offset_ms_median", lambda value: f"{number(value)} ms")
    if results.values.get(f"{name}/offset_ms_median_ci_low") is not None:
        low, high = (_shown(results, f"{name}/offset_ms_median_ci_{end}") for end in ("low", "high"))
        offset += f" (95\u00a0% interval {low} to {high})"
    inside, shuffled_inside = (_shown(results, f"{name}/{what}", percent) for what in ("in_sync", "shuffled_in_sync"))
    won = (
        f"Each of {found.n} generated clips is scored with its own sound and with the sounds of the others. The own "
        f"sound wins {percent(found.auc)} of these comparisons (95\u00a0% interval {percent(found.low)} to "
        f"{percent(found.high)}; chance is 50\u00a0%); {p_words(found)}."
    )
    late = (
        f"The sound's median offset is {offset} (positive: late). {inside} of the clips lie where viewers notice "
        f"nothing (sound 45 ms early to 125 ms late); with shuffled sounds {shuffled_inside}."
    )
    if failed := results.values[f"{name}/n_failed"]:
        late += f" In {number(failed)} of {found.n} nothing seen goes with anything heard; they count as not in sync."
    marks = {"chance": 0.5} | ({"real clips": scene.real_auc} if scene.real_auc is not None else {})
    caption = (
        f"AUC {found.auc:.3f}; generated clips with shuffled sounds {_shown(results, f'{name}/shuffled_auc', three)}; "
        f"real clips, the ceiling, {_shown(results, f'{name}/real_auc', three)}."
    )
    matched = page.card(
        "Matched against shuffled", caption, figures.interval(found.auc, found.low, found.high, marks, "video")
    )
    scores = page.card(
        "All scores",
        "How alike the onsets of picture and sound are, close to in-time; the bar is each row's mean.",
        figures.dots(_rows(scene), "score"),
    )
    title = f"Does the sound fit the picture? Scene “{scene.scene}”"
    return page.section(title, page.words(won), page.words(late), f'<div class="stack">{matched}{scores}</div>')


def _rows(scene: SceneSync) -> list[Row]:
    rows = [
        Row("generated, own sound", "video", list(scene.generated.own)),
        Row("generated, another's sound", "plain", list(scene.generated.others)),
    ]
    if scene.real_auc is not None:
        rows.append(Row("real clips, own sound", "good", list(scene.real.own)))
        rows.append(Row("real clips, another's sound", "plain", list(scene.real.others)))
    return rows


def _shown(results: Results, name: str, form: Callable[[float], str] = number) -> str:
    value = results.values.get(name)
    return "null" if value is None else form(value)


def _missing_scenes(facts: Facts, results: Results, scenes: Sequence[SceneSync]) -> str:
    there = {scene.scene for scene in scenes}
    lines = [
        page.words(f"Scene “{scene}”: {results.reasons.get(f'sync/{scene}/auc', 'not computed')}.")
        for scene in facts.settings.evaluation.scenes
        if scene not in there
    ]
    return page.section("Does the sound fit the picture?", *lines) if lines else ""


def _learning(curves: Sequence[Curve], results: Results) -> str:
    title = "What the stages learned"
    if not curves:
        return page.section(title, page.words("No stage has a validation curve; the reasons are at the end."))
    text = "Flow-matching loss on held-out clips at fixed noises and timesteps (thick) and on training batches (thin)."
    stages = dict.fromkeys(curve.stage for curve in curves)
    cards = "".join(_stage_card(stage, [c for c in curves if c.stage == stage], results) for stage in stages)
    return page.section(title, page.words(text), f'<div class="grid">{cards}</div>')


def _stage_card(stage: str, curves: Sequence[Curve], results: Results) -> str:
    captions, drawn = [], []
    for curve in curves:
        name = f"loss/{stage}/{curve.modality}"
        ends = f"{_shown(results, f'{name}/start', fixed)} → {_shown(results, f'{name}/end', fixed)}"
        captions.append(
            page.key(curve.modality, f"{curve.modality} {ends} ({_shown(results, f'{name}/drop', change)})")
        )
        drawn += [Line(curve.modality, curve.validation), Line(curve.modality, curve.training, faint=True)]
    return page.card(NAMES[stage], " &nbsp; ".join(captions), figures.lines(drawn, "step"))


def _partners(results: Results) -> str:
    cards = []
    for modality, other in (("video", "sound"), ("audio", "picture")):
        losses = {partner: results.values.get(f"loss/fusion/{modality}/{partner}") for partner in PARTNERS}
        rows = [
            Bar(PARTNERS[partner], modality if partner == "true" else "plain", loss, _beside(loss, losses["true"]))
            for partner, loss in losses.items()
            if loss is not None
        ]
        if rows:
            caption = f"held-out clips, by the {other} the model sees beside them"
            cards.append(page.card(f"{modality.capitalize()} loss", caption, figures.bars(rows)))
    if not cards:
        return ""
    text = (
        "If the towers really listen to each other, a clip is easier to denoise beside its own partner than beside "
        "another clip's, and no harder than it was for its tower alone."
    )
    return page.section("What fusion added", page.words(text), f'<div class="grid">{"".join(cards)}</div>')


def _beside(loss: float, own: float | None) -> str:
    """How much a loss is above the one with the clip's own partner."""
    return "" if not own or loss == own else f"{'+' if loss > own else '−'}{percent(abs(loss / own - 1))}"


def _samples(samples: Sequence[Sample]) -> str:
    if not samples:
        return page.section("Generated clips", page.words("None: there was no held-out prompt to ask for."))
    shown = "".join(page.clip(s.prompt, s.mp4, s.strip, s.waveform, s.under) for s in samples)
    text = "Not picked: the first clips of each scene among the held-out prompts."
    return page.section("Generated clips", page.words(text), f'<div class="stack">{shown}</div>')


def _drawn(drawn: Mapping[str, bytes]) -> str:
    cards = "".join(page.card(FIGURES[name], "", page.image(png, FIGURES[name])) for name, png in drawn.items())
    return page.section("Figures of the paper", f'<div class="stack">{cards}</div>') if cards else ""


def _foot(facts: Facts) -> str:
    return (f"<footer>Model folder sha256 {facts.digest}. Equal inputs give this file again byte for byte. "
            "How each figure is computed: docs/evaluation.md.</footer>")  # fmt: skip

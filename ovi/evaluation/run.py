"""The evaluate stage: what the stages learned, whether generated sound fits generated pictures, and a report of it.

Everything is scored on held-out clips and prompts. A figure that cannot be computed is null, with its reason.
Try it: `ovi evaluate --model models/fusion --out out/evaluation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ovi import storage, threads
from ovi.config import Settings
from ovi.diffusion.sampler import Clip, Sampler
from ovi.evaluation import (
    learning,
    logbook,
    paper_figures,
    pictures,
    quality,
    record,
    report,
    samples,
    scene_metrics,
    sync,
)
from ovi.evaluation.measured import How, Measured
from ovi.evaluation.networks import Networks
from ovi.evaluation.report import Facts, Sample
from ovi.evaluation.results import NOT_APPLICABLE, Results
from ovi.evaluation.samples import Prompt, Row
from ovi.evaluation.sync import SceneSync
from ovi.evaluation.take import Made
from ovi.media.encode import write_clip
from ovi.models import folder
from ovi.progress import Progress
from ovi.tracking import Run


def evaluate(
    settings: Settings,
    model: Path,
    clips: Path,
    latents: Path,
    models: Path,
    out: Path,
    progress: Progress,
    figures: bool = False,
    study: Path | None = None,
) -> dict[str, float | None]:
    """Fill `out` with metrics.json, metrics_reasons.json, report.json, report.html and samples/; the figures by name.

    `models` holds the stages' folders, whose metrics.json are read. With `figures` also figures/, the paper's; its
    Figure 4 from the analysis of a blind study. Raises OviError for a missing or damaged input.
    """
    run = Run.open(settings.tracking, "evaluate")
    try:
        run.log_params({"evaluation": settings.evaluation.model_dump(), "sampling": settings.sampling.model_dump()})
        with storage.atomic_folder(out) as folder_out:
            results, found = _evaluate(settings, model, clips, latents, models, folder_out, progress, figures, study)
        logbook.write(run, out, results, found)
    except BaseException:
        run.leave("FAILED")
        raise
    run.close()
    headline = [
        f"sync/{scene}/{what}" for scene in settings.evaluation.scenes for what in ("auc", "p_value", "real_auc")
    ]
    progress.result(report=str(out / "report.html"), **{name: results.values[name] for name in headline})
    return results.values


def _evaluate(
    settings: Settings,
    model: Path,
    clips: Path,
    latents: Path,
    models: Path,
    out: Path,
    progress: Progress,
    with_figures: bool,
    study: Path | None,
) -> tuple[Results, list[Measured]]:
    threads.use(settings.training)
    results = Results()
    curves = learning.read_stages(models, results)
    learning.read_codec(latents, results)

    rows = samples.held_out(clips)
    asked = samples.prompts(rows, settings)
    sampler = Sampler.open(model, settings.runtime) if asked or with_figures else None
    generated = samples.generate(sampler, asked, settings.sampling, progress) if sampler and asked else []
    scenes = _score(settings, clips, rows, asked, generated, results, progress)
    found = _judged(settings, asked, scenes) + _measure(settings, clips, rows, asked, generated, results)
    facts = Facts(settings, folder.digest(model), len(rows), _splits(rows))
    about = record.write(out, {"model": facts.digest, "profile": settings.profile, "seed": settings.seed}, asked, found)
    cards = _samples(settings, asked, generated, scenes, out / "samples", progress)
    if sampler:
        results.set("rope/ridge_correlation", paper_figures.ridge_correlation(sampler))
    else:
        results.null("rope/ridge_correlation", f"{NOT_APPLICABLE}no clip was asked for, so no model was opened")
    drawn = paper_figures.draw(sampler, settings, study, results, progress) if sampler and with_figures else {}
    for name, png in drawn.items():
        storage.write_bytes(out / "figures" / f"{name}.png", png)
    page = report.build(facts, results, curves, scenes, cards, about, drawn)
    storage.write_bytes(out / "report.html", page.encode())
    results.write(out)
    return results, found


def _measure(
    settings: Settings, clips: Path, rows: Sequence[Row], asked: Sequence[Prompt], generated: Sequence[Clip],
    results: Results,
) -> list[Measured]:  # fmt: skip
    """The metrics of the catalogue over all generated clips."""
    fps, rate = settings.clip.fps, settings.clip.sample_rate
    takes = [
        Made(prompt.name, prompt.caption, prompt.clip_id, clip.frames, clip.audio, fps, rate)
        for prompt, clip in zip(asked, generated, strict=True)
    ]
    networks = Networks(settings.evaluation)
    real = samples.real_sounds(clips, rows) if networks.need_reference and takes else {}
    reference = {name: (sound, rate) for name, sound in real.items()}
    how = How(settings.seed, settings.evaluation.draws)
    found = quality.measure(takes, reference, networks, how, settings.evaluation.outputs)
    for one in found:
        one.write(results)
    return found


def _score(
    settings: Settings, clips: Path, rows: Sequence[Row], asked: Sequence[Prompt], generated: Sequence[Clip],
    results: Results, progress: Progress,
) -> list[SceneSync]:  # fmt: skip
    """sync/<scene>/... of every scored scene."""
    done, chosen = [], settings.evaluation
    progress.start("comparing sound and picture", len(chosen.scenes), "scenes")
    for scene in chosen.scenes:
        mine = [(prompt, clip) for prompt, clip in zip(asked, generated, strict=True) if prompt.scene == scene]
        if not mine:
            sync.absent(scene, f"{NOT_APPLICABLE}no held-out clip is of scene {scene!r}", results)
            continue
        beside = [row for row in rows if row["scene"] == scene][: chosen.clips_per_scene]
        judged = sync.judge(
            scene,
            _pairs([(clip.frames, clip.audio) for _, clip in mine], [prompt.caption for prompt, _ in mine], settings),
            _pairs(samples.real_clips(clips, beside), [row["caption"] for row in beside], settings),
            settings.seed, chosen.permutations, chosen.shuffles, results,
        )  # fmt: skip
        done += [judged] if judged else []
        progress.advance()
    return done


def _pairs(clips: Sequence[sync.Clip], captions: Sequence[str], settings: Settings) -> sync.Pairs:
    return sync.pairs(clips, settings.clip.fps, settings.clip.sample_rate, captions)


def _judged(settings: Settings, asked: Sequence[Prompt], scenes: Sequence[SceneSync]) -> list[Measured]:
    """What of sync/... single clips have, for the record."""
    return [
        one
        for scene in scenes
        for one in scene_metrics.metrics(
            scene, [prompt.name for prompt in asked if prompt.scene == scene.scene],
            settings.clip.fps, settings.clip.sample_rate,
        )
    ]  # fmt: skip


def _samples(
    settings: Settings, asked: Sequence[Prompt], generated: Sequence[Clip], scenes: Sequence[SceneSync],
    out: Path, progress: Progress,
) -> list[Sample]:  # fmt: skip
    """Write the clips to show with their pictures; what the report needs of them."""
    cards = []
    places = samples.shown(asked, settings.evaluation.show)
    progress.start("writing clips", len(places), "clips")
    for place in places:
        prompt, clip = asked[place], generated[place]
        name = prompt.name
        strip, waveform = pictures.strip(clip.frames), pictures.waveform(clip.audio, settings.clip.sample_rate)
        path = out / f"{name}.mp4"
        write_clip(path, clip.frames, settings.clip.fps, clip.audio, settings.clip.sample_rate,
                   width=settings.sampling.display_pixels)  # fmt: skip
        storage.write_bytes(out / f"{name}_strip.png", strip)
        storage.write_bytes(out / f"{name}_sound.png", waveform)
        under = _about(prompt, scenes)
        cards.append(Sample(name, prompt.caption, under, path.read_bytes(), strip, waveform))
        progress.advance()
    return cards


def _about(prompt: Prompt, scenes: Sequence[SceneSync]) -> str:
    """One line under a clip: its scene and seed, and how it scored where it was."""
    words = [f"scene {prompt.scene}" if prompt.scene else "held-out prompt", f"seed {prompt.seed}"]
    for scored in scenes:
        if scored.scene == prompt.scene:
            words.append(f"its own sound scores {scored.generated.own[prompt.index]:.2f}")
            words.append(f"another clip's {scored.generated.others.mean():.2f} on average")
    return ", ".join(words)


def _splits(rows: Sequence[Row]) -> str:
    """Where the prompts come from, in words."""
    names = {"test": "the test split", "val": "the validation split"}
    counts = [(sum(row["split"] == split for row in rows), name) for split, name in names.items()]
    return ", ".join(f"{count} of {name}" for count, name in counts if count) or "there are none"

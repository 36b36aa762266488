"""The loop every stage runs: batches, steps, validation, checkpoints, and at the end a model folder with its metrics.

It runs in each rank and decides the same in all of them; words and figures leave through `progress` and `run`, which
are real in one process only. It does not know DeepSpeed, processes or signals: `stop` says when to save and leave.
Try it: `ovi train fusion --set training.fusion.steps=20`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ovi import storage
from ovi.config import FusionStage, Stage
from ovi.errors import OviError, Preempted
from ovi.models.team import Team
from ovi.progress import Progress
from ovi.training import engine as engines
from ovi.training import showcase, towers, watch
from ovi.training.batches import Batch, Chances, assemble, packed
from ovi.training.checkpoint import Checkpoint
from ovi.training.job import Job
from ovi.training.latents import LatentSet, Pool, Shapes, read_empty_text
from ovi.training.loader import Loader
from ovi.training.meter import Meter, peak_here
from ovi.training.objective import losses
from ovi.training.order import Draws, Order, Pick, dealt
from ovi.training.place import Place
from ovi.training.state import Diverged, Engine, State
from ovi.training.store import Checkpoints
from ovi.training.validate import Losses, Validation

POINTS = 100  # of the loss curve
LENGTHS = 94  # audio latents, 3 s: sounds whose lengths differ by less may share a batch
RECENT = 100  # steps whose mean loss a spike is measured against
RETURNS = 3  # to a checkpoint, before a training that diverges is given up


class Record(Protocol):
    """Where figures go: an MLflow run, or the way to one."""

    def log_metrics(self, values: dict[str, float | None], step: int = 0) -> None: ...
    def log_file(self, path: str | Path, folder: str = "") -> None: ...


@dataclass
class History:
    """What a stage remembers besides its weights; plain JSON, saved in every checkpoint, so without clock times."""

    start: Losses = field(default_factory=dict)
    towers: Losses = field(default_factory=dict)  # of the fusion model's towers before they met
    curve: list[dict[str, Any]] = field(default_factory=list)
    recent: list[dict[str, float]] = field(default_factory=list)  # steps since the curve's last point
    levels: list[float] = field(default_factory=list)  # losses by noise level since then, as watch.by_level sums them
    losses: list[float] = field(default_factory=list)  # of the last steps, where spikes are looked for
    skipped: list[list[int]] = field(default_factory=list)  # [first, last] batches left out after a divergence


def train(job: Job, place: Place, progress: Progress, run: Record, stop: Callable[[], bool]) -> dict[str, Any]:
    """Train `job.stage` to its last step and write its model folder: {"metrics": as in it, "summary": short}.

    Continues from the newest good checkpoint. Raises Preempted after saving when `stop` said so in any rank.
    """
    return _Training(job, place, progress, run, stop).run()


class _Training:
    def __init__(self, job: Job, place: Place, progress: Progress, run: Record, stop: Callable[[], bool]) -> None:
        self.job, self.progress, self.record, self.stop = job, progress, run, stop
        training = job.settings.training
        torch.set_num_threads(training.threads if place.ranks > 1 else training.ranks * training.threads)
        self.stage: Stage = job.recipe.settings(job.settings)
        self.empty = read_empty_text(job.latents)
        self.pool = self._pool()
        self.packs = job.recipe.packs(job.settings)
        groups = [0 if self.packs else _group(shapes, job.recipe.modalities) for shapes in self.pool.shapes]
        self.order = Order(groups, job.settings.seed, self.stage.batch)
        self.chances = chances(job)
        self.weights = job.recipe.weights(job.settings)
        model = towers.build(job.recipe, job.settings, job.models)
        self.kinds = watch.kinds(name for name, weight in model.named_parameters() if weight.requires_grad)
        # An engine counts samples by rank; one that ranks share is a sample of each.
        counted = self.stage.model_copy(update={"batch": training.sequence * self.stage.batch})
        self.engine: Engine = engines.make(model, training, counted, place)
        if training.sequence > 1:
            team = Team.of(self.engine.rank, self.engine.ranks, training.sequence)
            for tower in self.engine.module.children():
                tower.team = team
        self.held_out = Pool([LatentSet.open(job.latents, name, "val") for name in self.sets])
        self.validation = Validation(
            self.held_out, job.recipe.modalities, job.settings.seed, self.empty, self.engine.device, training.sequence
        )
        mirror = f"{training.mirror}/{job.name}" if training.mirror else None
        self.store = Checkpoints(job.folder, job.key, training.keep_checkpoints, progress.note, mirror)
        self.history = History()
        self.work = watch.Workload(job.recipe, job.settings)
        self.meter = Meter(self.engine.ranks, peak_here(training.precision))
        self.loader = Loader(self._parts, training.loader_workers)
        self.batch = self.returns = 0
        self.ready = time.time() - job.began

    def run(self) -> dict[str, Any]:
        step = self._resume()
        steps = self.stage.steps
        self.progress.start(self.job.stage.replace("_", " "), steps, "steps")
        self.progress.advance(step)
        if step == 0:
            self._first_look()
        while step < steps:
            try:
                stopping = self._step(step)
            except Diverged as error:
                step = self._return(step, str(error))
                continue
            step += 1
            self.batch += 1
            self._note_point(step)
            if stopping or step == steps or step % self.stage.checkpoint_every == 0:
                self._save(step)
            if stopping and step < steps:
                self.store.close()
                raise Preempted(f"{self.job.stage}: stopped after step {step} of {steps}, which is saved; run it again")
            if self._showing(step):
                self._show_now(step)
        self.loader.close()
        return self._finish()

    def _step(self, step: int) -> bool:
        """One optimiser step. True when some rank was asked to stop; raises Diverged when it must not count."""
        with self.meter.waiting():
            parts = self.loader.take(self.batch)
        lr = rate(self.stage, step)
        seen: list[Tensor] = []
        norms = self.engine.step(self._losses(parts, seen), lr, self.kinds if self._due(step + 1) else None)
        flag = torch.tensor([float(self.stop())], dtype=torch.float64)
        *values, stopping = self.engine.total(torch.cat((torch.stack(seen).sum(0).cpu(), flag))).tolist()
        names = ["loss", *(f"loss_{name}" for name in self.weights)]
        of = self.engine.ranks * self.stage.accumulate
        figures = {name: value / of for name, value in zip(names, values[: len(names)], strict=True)}
        self._look_for_spike(figures["loss"])
        self.history.recent.append({**figures, "grad_norm": norms.pop("all"), "lr": lr})
        levels, before = values[len(names) :], self.history.levels
        self.history.levels = [a + b for a, b in zip(before, levels, strict=True)] if before else levels
        self.norms = norms
        work = [self.work.of(self.pool.shapes[pick.index]) for pick in self.order.batch(self.batch)]
        self.meter.step(len(work), sum(w.forward + w.backward for w in work), sum(w.repeated for w in work))
        self.progress.advance(1, loss=figures["loss"])
        return stopping > 0

    def _losses(self, parts: list[Batch], seen: list[Tensor]) -> Iterator[Tensor]:
        """The loss of each part; what is to be known of it goes into `seen`, as numbers that are added up."""
        share = self.stage.batch / self._seat()[1] / self.stage.accumulate
        for part in parts:
            batch = part.to(self.engine.device)
            found = losses(self.engine.forward, batch)
            means = {name: value.sum() / share for name, value in found.items()}
            loss = torch.stack([self.weights[name] * value for name, value in means.items()]).sum()
            mine = torch.stack([loss.detach(), *(value.detach() for value in means.values())]).double()
            seen.append(torch.cat((mine, watch.by_level(found, batch).flatten())))
            yield loss

    def _look_for_spike(self, loss: float) -> None:
        if not self.stage.spike:
            return
        recent = self.history.losses
        if len(recent) == RECENT and loss > self.stage.spike * sum(recent) / RECENT:
            raise Diverged(f"the loss {loss:.4g} is {loss * RECENT / sum(recent):.1f} times that of the steps before")
        self.history.losses = [*recent, loss][-RECENT:]

    def _return(self, step: int, why: str) -> int:
        """Back to the newest checkpoint, leaving out the batches since; its step. Every rank decides the same."""
        self.returns += 1
        found = self._take_up() if self.returns <= RETURNS else None
        where = f"{self.job.stage}: step {step + 1}: {why}"
        if found is None:
            raise OviError(f"{where}: training diverged; lower the learning rate or look at the data")
        lost = [found.next_batch, self.batch]
        self.progress.note(f"{where}; back to step {found.step}, leaving out batches {lost[0]} to {lost[1]}")
        self.history = History(**found.history)
        self.history.skipped.append(lost)
        self.batch = lost[1] + 1
        self.record.log_metrics({"skipped_batches": sum(b - a + 1 for a, b in self.history.skipped)}, found.step)
        return found.step

    def _parts(self, number: int) -> list[Batch]:
        """This rank's share of a batch, in the parts that are computed one by one; all ranks' are of one size.

        Of samples that are padded to one length the size is their number, of those that are packed their length.
        """
        picks, (seat, seats) = self.order.batch(number), self._seat()
        sizes = [self._length(pick) if self.packs else 1 for pick in picks]
        hands = dealt(sizes, seats * self.stage.accumulate)[seat::seats]
        return [self._part([picks[place] for place in hand]) for hand in hands]

    def _seat(self) -> tuple[int, int]:
        """Which share of a batch is this rank's, and of how many; ranks that share samples have the same."""
        together = self.job.settings.training.sequence
        return self.engine.rank // together, self.engine.ranks // together

    def _length(self, pick: Pick) -> int:
        return (self.pool.shapes[pick.index]["audio"] or [0])[0]

    def _part(self, picks: list[Pick]) -> Batch:
        draws = [Draws(self.job.settings.seed, self.job.stage, self.pool.names[p.index], p.visit) for p in picks]
        samples = [self.pool.read(pick.index) for pick in picks]
        batch = assemble(samples, draws, self.job.recipe.modalities, self.chances, self.empty)
        return packed(batch) if self.packs else batch

    def _validating(self, step: int) -> bool:
        return step == self.stage.steps or step % self.stage.validate_every == 0

    def _due(self, step: int) -> bool:
        """Whether the curve gets a point after so many steps."""
        return self._validating(step) or step % max(1, self.stage.steps // POINTS) == 0

    def _note_point(self, step: int) -> None:
        """A point of the curve where one is due, with a validation where one is due."""
        if not self._due(step):
            return
        validating = self._validating(step)
        recent, self.history.recent = self.history.recent, []
        levels, self.history.levels = self.history.levels, []
        point: dict[str, Any] = {"step": step}
        point |= {name: sum(figures[name] for figures in recent) / len(recent) for name in recent[0]}
        point |= watch.level_figures(list(self.weights), levels)
        point |= {f"grad_norm/{kind}": norm for kind, norm in self.norms.items()}
        speed = self.meter.read()
        if validating:
            with self.meter.paused():
                point |= self._validated()
        self._log(point)
        self.record.log_metrics(dict(speed), step)

    def _first_look(self) -> None:
        """Validation before the first step; for the fusion model also of the towers as they were before."""
        with self.meter.paused():
            self.history.start = self.validation.losses(self.engine)
            if len(self.weights) > 1:
                self.history.towers = self.validation.towers(self.engine)
        if None in self.history.start.values():
            self.progress.note(f"{self.job.stage}: no held-out clips of this kind, so no validation loss")
        self._log({"step": 0, "loss": None, **{f"val_{name}": x for name, x in self.history.start.items()}})

    def _validated(self) -> dict[str, float | None]:
        return {f"val_{name}": value for name, value in self.validation.losses(self.engine).items()}

    def _log(self, point: dict[str, Any]) -> None:
        self.history.curve.append(point)
        self._send(point)

    def _send(self, point: dict[str, Any]) -> None:
        self.record.log_metrics({name: value for name, value in point.items() if name != "step"}, point["step"])

    def _resume(self) -> int:
        found = self._take_up()
        if found is None:
            return 0
        self.history, self.batch = History(**found.history), found.next_batch
        for point in self.history.curve:  # a killed run may not have sent them all; sent twice they count once
            self._send(point)
        self.progress.note(f"{self.job.stage}: continuing after step {found.step} of {self.stage.steps}")
        return found.step

    def _take_up(self) -> Checkpoint | None:
        """Put every rank where the newest checkpoint was, which the first one finds; the others get no tensors."""
        found = self.store.newest() if self.engine.rank == 0 else None
        known = found and {"step": found.step, "history": found.history, "next_batch": found.next_batch}
        known = self.engine.tell(known)
        if known is None:
            return None
        found = found or Checkpoint(state=State(0, {}, {}), **known)
        self.engine.restore(found.state)
        return found

    def _save(self, step: int) -> None:
        with self.meter.paused():
            state = self.engine.state()
            if self.engine.rank == 0:
                self.store.save(Checkpoint(step, state, vars(self.history), self.batch, self._score(step)))

    def _score(self, step: int) -> float | None:
        """The held-out loss, weighted as the training's, where it was measured after this very step."""
        point = self.history.curve[-1]
        known = [value for name in self.weights if (value := point.get(f"val_{name}")) is not None]
        if point["step"] != step or len(known) < len(self.weights):
            return None
        return sum(weight * value for weight, value in zip(self.weights.values(), known, strict=True))

    def _finish(self) -> dict[str, Any]:
        state, frozen = self.engine.state(), self.engine.frozen()
        if self.stage.export_ema:  # what is measured last is what is exported
            self.engine.use_mean()
            if self.stage.steps:
                self.history.curve[-1] |= self._validated()
        metrics = self._metrics()
        if self.engine.rank == 0:
            self._export({**frozen, **(state.ema if self.stage.export_ema else state.weights)})
            storage.write_json(self.job.out / "metrics.json", metrics)
        self.engine.close()
        self.store.close()
        if self.engine.rank == 0 and self.stage.sample_clips:
            self._show({**frozen, **(state.ema or state.weights)})
        return {"metrics": metrics, "summary": self._summary(metrics)}

    def _export(self, weights: dict[str, Tensor], out: Path | None = None) -> None:
        """Write the model folder of these weights, or one elsewhere."""
        job, lineage = self.job, {"stage": self.job.stage, "steps": self.stage.steps, **self.job.key}
        towers.save(job.recipe, job.settings, job.models, self.engine.module, weights, lineage, out)

    def _showing(self, step: int) -> bool:
        every = self.stage.sample_every if self.stage.sample_clips else 0
        return every > 0 and step % every == 0 and step < self.stage.steps

    def _show_now(self, step: int) -> None:
        with self.meter.paused():
            state, frozen = self.engine.state(), self.engine.frozen()
            if self.engine.rank == 0:
                self._show({**frozen, **(state.ema or state.weights)}, f"step-{step:06d}")

    def _show(self, weights: dict[str, Tensor], name: str = "") -> None:
        """Sample clips of the first held-out captions that differ, of the running mean where there is one."""
        captions = list(dict.fromkeys(self.held_out.read(index).caption for index in range(len(self.held_out))))
        captions, out = captions[: self.stage.sample_clips], self.job.folder / "samples" / name
        model = self.job.out
        if name or self.stage.ema:
            model = self.job.folder / "shown"
            self._export(weights, model)
        for path in showcase.sample(model, captions, out, self.job.settings, self.progress):
            self.record.log_file(path, f"samples/{name}".rstrip("/"))
        if model != self.job.out:
            shutil.rmtree(model)

    def _summary(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """The figures worth a line, with this attempt's times, which no file that is compared may hold."""
        times = {"seconds": round(time.time() - self.job.began, 1), "seconds_to_start": round(self.ready, 1)}
        self.record.log_metrics(dict(times), self.stage.steps)
        drops = {f"val_{name}": value for name, value in metrics["val"]["end"].items()}
        return {"steps": self.stage.steps, **drops, **times}

    def _metrics(self) -> dict[str, Any]:
        """What metrics.json says; no clock time in it, so that equal trainings write equal bytes."""
        end = {name: self.history.curve[-1][f"val_{name}"] for name in self.weights}
        metrics: dict[str, Any] = {
            "stage": self.job.stage,
            "steps": self.stage.steps,
            "val": {"start": self.history.start, "end": end},
            "curve": [{name: x for name, x in point.items() if "/" not in name} for point in self.history.curve],
        }
        if len(self.weights) > 1:
            compared = {**self.validation.partners(self.engine), "tower": self.history.towers}
            metrics["partner"] = {m: {name: values[m] for name, values in compared.items()} for m in self.weights}
        return metrics

    def _pool(self) -> Pool:
        """The stage's training samples. Raises OviError when there are none at all."""
        recipe = self.job.recipe
        for sets in (recipe.sets, recipe.spare):
            pool = Pool([LatentSet.open(self.job.latents, name, "train") for name in sets])
            if len(pool):
                self.sets = sets
                if sets != recipe.sets:
                    self.progress.note(f"{recipe.stage}: no {'/'.join(recipe.sets)} samples; using {'/'.join(sets)}")
                return pool
        raise OviError(
            f"{self.job.latents}: no training samples for {recipe.stage}; the clip report says what was rejected"
        )


def chances(job: Job) -> Chances:
    """How the stage draws."""
    stage = job.recipe.settings(job.settings)
    shared = stage.shared_t if isinstance(stage, FusionStage) else True
    first_frame = job.recipe.first_frame_share(job.settings)
    return Chances(stage.caption_dropout, first_frame, stage.shift, stage.t, shared)


def _group(shapes: Shapes, modalities: Sequence[str]) -> str:
    """What a sample may share a batch with: pictures of its size; sounds of like length, so that little is padded."""
    if "video" in modalities:
        return str(shapes["video"])
    return str((shapes["audio"] or [0])[0] // LENGTHS)


def rate(stage: Stage, step: int) -> float:
    """The learning rate of step 0, 1, ...: linear warm-up, constant, linear cooldown to a tenth at the last step."""
    up = min(1.0, (step + 1) / stage.warmup) if stage.warmup else 1.0
    down = min(1.0, 0.1 + 0.9 * (stage.steps - 1 - step) / stage.cooldown) if stage.cooldown else 1.0
    return stage.lr * min(up, down)

"""What `ovi demo` would run and why, before anything is spent. Reads only: no file is written, no server started.

Try it: `ovi plan --set training.fusion.steps=800`.
"""

from __future__ import annotations

from dataclasses import dataclass

from flows.executors import KUBERNETES, LOCAL, place
from flows.graph import Graph
from flows.workspace import SOURCE, Workspace
from ovi.config import Resources, Settings
from ovi.errors import ConfigError


@dataclass(frozen=True)
class Step:
    """One stage: `state` is "run", "unchanged", or "after" (runs if what `after` names changes what it reads)."""

    stage: str
    state: str
    reasons: list[str]
    after: list[str]
    resources: Resources
    place: str  # local, kubernetes, or kubernetes/QUEUE
    gpu_hours: float  # as long as it took the last time; of one that never ran, all of its deadline
    known: bool  # whether it ran before


def look_ahead(workspace: Workspace, settings: Settings) -> list[Step]:
    """Every stage in order. Raises OviError for a bad dvc.yaml, ConfigError for a bad corpus.source."""
    changed = frozenset({SOURCE}) if workspace.source_changed(settings) else frozenset()
    graph = Graph(workspace.root, settings.model_dump(mode="json"), changed)
    check_resources(settings, graph.order)
    steps: dict[str, Step] = {}
    records = workspace.records()
    for stage in graph.order:
        reasons = graph.reasons(stage)
        after = [
            before for before in graph.order if before in graph.after[stage] and steps[before].state != "unchanged"
        ]
        state = "run" if reasons else "after" if after else "unchanged"
        needs = settings.resources.get(stage, Resources())
        took = records.get(stage, {}).get("seconds")
        hours = (needs.deadline_s if took is None else took) * needs.gpus * needs.nodes / 3600
        steps[stage] = Step(stage, state, reasons, after, needs, _place(settings, stage), hours, took is not None)
    graph.close()
    return list(steps.values())


def check_resources(settings: Settings, stages: list[str]) -> None:
    """ConfigError when `resources` names what is no stage: it would silently have no effect."""
    for name in settings.resources:
        if name not in stages:
            raise ConfigError(f"resources.{name}: no such stage; dvc.yaml has {', '.join(stages)}")


def words(steps: list[Step]) -> str:
    """The plan as a table of plain lines."""
    lines = []
    for step in steps:
        needs = step.resources
        where = f"{needs.nodes} x " if needs.nodes > 1 else ""
        asks = f"{where}{needs.cpus:g} CPUs, {needs.memory_gib:g} GiB" + (f", {needs.gpus} GPUs" if needs.gpus else "")
        asks += "" if step.place == LOCAL else f", {step.place}"
        why = "; ".join(step.reasons) or (f"after {', '.join(step.after)}, if that changes" if step.after else "")
        state = {"run": "runs", "after": "may run", "unchanged": "unchanged"}[step.state]
        lines.append(f"{step.stage:18}{state:11}{asks:20}{why}".rstrip())
    count = sum(step.state == "run" for step in steps)
    cost = [step for step in steps if step.state != "unchanged" and step.gpu_hours]
    hours = f"; {sum(step.gpu_hours for step in cost):.1f} GPU-hours" if cost else ""
    guess = "" if all(step.known for step in cost) else " at most, by the deadlines of what never ran"
    return "\n".join([*lines, f"{count} of {len(steps)} stages run for certain{hours}{guess}"])


def _place(settings: Settings, stage: str) -> str:
    found = place(settings, stage)
    needs = settings.resources.get(stage)
    queue = (needs.queue if needs else None) or settings.cluster.queue
    return f"{found}/{queue}" if found == KUBERNETES and queue else found

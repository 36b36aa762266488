"""The Prefect flow `ovi-ablation`: a task a stage, and within it that stage of all cells, several beside each other.

Import it once PREFECT_API_URL is set (flows/server.py). A stage is run once for each key of what it reads; cells with
the same key get the same files. Knows no stage by name: dvc.yaml says what follows what.
Try it: `ovi ablate`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.cells import Cell, Kept
from flows.ending import prefect_told
from flows.graph import Graph, Running
from flows.jobs import JobSpec, Status
from flows.local import LocalExecutor, log_path
from flows.view import say, seconds
from flows.workspace import Workspace
from ovi import storage
from ovi.config import Resources, Tracking
from ovi.tracking import Run

METRICS = "out/evaluation/metrics.json"  # what a cell is made for


@dataclass(frozen=True)
class Above:
    """What all cells belong to: the ablation's run in MLflow, and the lock that every process of ours holds."""

    run: Run
    tracking: Tracking
    lock: int


@dataclass(frozen=True)
class Made:
    """A cell in its place, with the graph of its stages."""

    cell: Cell
    place: Workspace
    graph: Graph


Job = tuple[Made, Running]


def run(grid: Sequence[Cell], places: Sequence[Workspace], folder: Path, above: Above) -> None:
    """Make every cell up to its evaluation. Raises OviError naming the stage and the cell that fail first."""
    made = [Made(cell, place, Graph(place.root)) for cell, place in zip(grid, places, strict=True)]
    kept, order = Kept(folder / "kept"), _needed(made[0].graph)
    rows: list[dict[str, object]] = []

    @flow(name="ovi-ablation", flow_run_name=f"{grid[0].settings.profile}-{len(grid)}-cells", persist_result=False)
    def ablation() -> None:
        for stage in order:
            work(stage)
        create_table_artifact(rows, key="ovi-ablation", description=f"{len(grid)} cells")

    def work(stage: str) -> None:
        @task(name=stage, task_run_name=stage, cache_policy=NO_CACHE, persist_result=False)
        def attempt() -> None:
            rows.append({"stage": stage, **_stage(stage, made, kept, above)})

        attempt()

    try:
        with prefect_told():
            ablation()
        for one in made:
            _log_cell(one, above)
    finally:
        for one in made:
            one.graph.close()


def _needed(graph: Graph) -> list[str]:
    """The stages up to the one that writes METRICS, in their order."""
    wanted, waiting = set(), [stage for stage in graph.order if METRICS in graph.outputs(stage)]
    while waiting:
        stage = waiting.pop()
        wanted.add(stage)
        waiting += graph.after[stage]
    return [stage for stage in graph.order if stage in wanted]


def _stage(stage: str, made: Sequence[Made], kept: Kept, above: Above) -> dict[str, int]:
    """Bring one stage of all cells up to date; how many ran and how many got another's files."""
    stale = [(one, one.graph.begin(stage)) for one in made if one.graph.reasons(stage)]
    first: dict[str, Job] = {}
    for one, running in stale:
        first.setdefault(running.inputs.key, (one, running))
    fresh = [pair for key, pair in first.items() if not kept.has(key)]
    if stale:
        say(f"{stage}: {len(fresh)} to run for {len(stale)} of {len(made)} cells")
    with contextlib.closing(_together(stage, fresh, above)) as ended:
        for one, running in ended:
            one.graph.commit(running)
            kept.keep(running.inputs.key, one.graph.outputs(stage), one.place.root)
    ran = {one.cell.name for one, _ in fresh}
    for one, running in stale:
        if one.cell.name not in ran:
            kept.fetch(running.inputs.key, one.graph.outputs(stage), one.place.root)
            one.graph.commit(running)
    return {"ran": len(fresh), "shared": len(stale) - len(fresh), "unchanged": len(made) - len(stale)}


def _together(stage: str, jobs: Sequence[Job], above: Above) -> Generator[Job]:
    """Run a stage in several places, `ablation.at_once` beside each other; each as it ends well.

    The first that fails, or whatever is raised meanwhile, stops the others.
    """
    if not jobs:
        return
    stop = threading.Event()
    with ThreadPoolExecutor(jobs[0][0].cell.settings.ablation.at_once) as pool:
        futures = {pool.submit(_run_job, stage, *job, above, stop): job for job in jobs}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _run_job(stage: str, one: Made, running: Running, above: Above, stop: threading.Event) -> None:
    """One stage of one cell, as a job in its place, with a run of its own below the ablation's."""
    settings, command = one.cell.settings, running.inputs.command
    record = Run.open(above.tracking, stage, parent=above.run.id, key=running.inputs.key)
    needs = settings.resources.get(stage, Resources())
    words = (*command, "--json") if command[0] == "ovi" else command
    spec = JobSpec.of(stage, words, needs, env={"MLFLOW_RUN_ID": record.id})
    try:
        outcome = LocalExecutor(one.place.root, (above.lock,), stop.is_set).run(spec, lambda _word: None)
    except BaseException:
        record.leave("KILLED")
        raise
    if outcome.status is not Status.SUCCEEDED:
        record.leave("FAILED")
        raise outcome.error(f"{stage} of {one.cell.name}", str(log_path(one.place.root, stage)))
    record.leave("FINISHED")
    say(f"{stage}: {one.cell.name} in {seconds(outcome.seconds)}")


def _log_cell(one: Made, above: Above) -> None:
    """The cell's run in MLflow: its levels, and the figures of its evaluation."""
    metrics = storage.read_json(one.place.root / METRICS)
    run = Run.open(above.tracking, one.cell.name, parent=above.run.id)
    run.log_params(one.cell.levels)
    run.log_metrics(metrics)
    run.close()

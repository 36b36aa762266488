"""`ovi demo`: everything between a fresh clone and a clip from a running service, and a table of what it took.

Fixes the settings, takes the clone's lock, asks the graph what is stale, and runs that through Prefect; with nothing
stale it says so without starting anything. Heavy imports come after the cheap checks, on purpose.
Try it: `ovi demo`, `ovi demo --set training.fusion.steps=100`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from flows import environment, server
from flows.lineage import Lineage, catch_up
from flows.view import memory, say, seconds
from flows.workspace import Workspace
from ovi import storage
from ovi.config import Settings

if TYPE_CHECKING:
    from flows.graph import Graph

METRICS = "out/evaluation/metrics.json"
PAGES = ("report.html",)  # what is worth opening inside an output folder
WORTH_OPENING = (".html", ".mp4")


def demo(root: str | Path, settings: Settings) -> None:
    """Bring the clone up to date with `settings` and say what came of it. Raises OviError for what a user can mend."""
    began = time.monotonic()
    environment.quiet()
    os.environ.pop("MLFLOW_RUN_ID", None)  # a run of somebody else's; ours are opened here
    workspace = Workspace(root)
    with workspace.lock() as lock:
        workspace.prepare(settings)
        from flows.graph import Graph
        from flows.plan import check_resources

        graph = Graph(workspace.root, remote=settings.data.remote)
        check_resources(settings, graph.order)
        stale = [stage for stage in graph.order if graph.reasons(stage)]
        ran: set[str] = set()
        if stale:
            server.require_port(settings.service.host, settings.service.port, "service.port")
            say(f"to run: {', '.join(stale)}, and what follows from that; starting the Prefect server")
            ran = _run(workspace, settings, graph, lock)
        else:
            catch_up(workspace, settings.tracking)
            say(f"nothing to do: all {len(graph.order)} stages are unchanged")
        _close(workspace, settings, graph, ran, time.monotonic() - began)
        graph.close()


def _run(workspace: Workspace, settings: Settings, graph: Graph, lock: int) -> set[str]:
    """The stages that ran."""
    from flows.executors import Executors

    executors = Executors(workspace.root, settings, graph.order, keep_open=(lock,))
    with server.prefect(workspace) as wait, Lineage(workspace, settings) as lineage:
        from flows import pipeline  # while the server starts; reads where it will be

        wait()
        return pipeline.run(settings, graph, executors, lineage)


def _close(workspace: Workspace, settings: Settings, graph: Graph, ran: set[str], took: float) -> None:
    """The closing table, where things are, and the one figure that says whether it worked."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    table = Table(
        "stage", "state", "time", "peak memory", "produced", title=f"profile {settings.profile}: {seconds(took)}"
    )
    records = workspace.records()
    for stage in graph.order:
        record = records.get(stage, {})
        table.add_row(
            stage,
            "ran" if stage in ran else "unchanged",
            seconds(record["seconds"]) if "seconds" in record else "-",
            memory(record.get("peak_bytes", 0)),
            _figures(record.get("result", {})),
        )
    console.print(table)
    for stage in graph.order:
        for path in _worth_opening(workspace.root, graph.outputs(stage)):
            say(f"{stage + ':':18}{path}")
    say(f"{'runs:':18}`ovi ui` shows them in MLflow and Prefect")
    if (workspace.root / METRICS).exists():
        reasons = workspace.root / METRICS.replace("metrics.json", "metrics_reasons.json")
        notes = storage.read_json(reasons) if reasons.exists() else {}
        for scene in settings.evaluation.scenes:
            say(sync_words(scene, storage.read_json(workspace.root / METRICS), notes))


def sync_words(scene: str, metrics: dict[str, float | None], reasons: dict[str, str]) -> str:
    """The synchronisation figure of a scene in plain words."""
    name = f"sync/{scene}"
    auc = metrics.get(f"{name}/auc")
    if auc is None:
        return f"sync ({scene}): not measured, {reasons.get(f'{name}/auc', 'it is not among the figures')}"
    facts = [f"AUC {auc:.2f}", "chance 0.50"]
    real, p_value, count = (metrics.get(f"{name}/{figure}") for figure in ("real_auc", "p_value", "n"))
    facts += [f"real clips {real:.2f}"] if real is not None else []
    facts += [f"p = {p_value:.2g}"] if p_value is not None else []
    facts += [f"{count:.0f} clips"] if count is not None else []
    return (
        f"sync ({scene}): a generated clip's own sound fits its picture better than another clip's sound "
        f"{auc:.0%} of the time ({', '.join(facts)})"
    )


def _figures(result: dict[str, Any]) -> str:
    """The first few numbers of a stage's answer; how long it took has its own column."""
    numbers = [(name, value) for name, value in result.items() if type(value) in (int, float) and "seconds" not in name]
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers[:4])


def _worth_opening(root: Path, outputs: list[str]) -> list[str]:
    pages = [f"{output}/{page}" for output in outputs for page in PAGES]
    files = [output for output in outputs if output.endswith(WORTH_OPENING)]
    return [path for path in [*files, *pages] if (root / path).is_file()]

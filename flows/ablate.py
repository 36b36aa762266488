"""`ovi ablate`: the paper's ablations (5.5, Figure 2) as one grid, and what each factor does with its interval.

Every combination of prompt encoding, RoPE scaling, fusion and seed goes through the pipeline's stages up to its
evaluation; stages that cells have in common run once, and what is unchanged since the last time does not run at all.
Try it: `ovi ablate`, `ovi ablate --profile small --set ablation.seeds=[0,1]`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows import cells, environment, server
from flows.cells import FOLDER, Cell
from flows.executors import KUBERNETES
from flows.view import say, seconds
from flows.workspace import Workspace
from ovi import storage
from ovi.config import Settings, Tracking
from ovi.errors import ConfigError
from ovi.evaluation import ablation_page, effects, logbook
from ovi.evaluation.effects import Effect, Outcome
from ovi.evaluation.paper import COLUMNS
from ovi.evaluation.results import APART, rounded
from ovi.tracking import Run

EVALUATION = "out/evaluation"
FACTORS = ("prompt", "rope_scaling", "fusion")  # the seed is a repetition, not a factor


def ablate(root: str | Path, params: str | Path, profile: str | None, sets: Sequence[str]) -> None:
    """Bring out/ablation up to date: ablation.json and report.html. Raises OviError for what a user can mend."""
    began = time.monotonic()
    environment.quiet()
    os.environ.pop("MLFLOW_RUN_ID", None)  # a run of somebody else's; ours are opened here
    workspace, grid = Workspace(root), cells.grid(params, profile, sets)
    _here(grid[0].settings)
    with workspace.lock() as lock, server.prefect(workspace) as wait:
        from flows import ablation  # while the server starts; reads where it will be

        places = [cells.place(workspace.root, cell) for cell in grid]
        wait()
        tracking = cells.absolute(grid[0].settings, workspace.root).tracking
        with _run(tracking, grid) as run:
            ablation.run(grid, places, workspace.root / FOLDER, ablation.Above(run, tracking, lock))
            _report(workspace.root / FOLDER, grid, places, run)
    say(f"{len(grid)} cells in {seconds(time.monotonic() - began)}: {FOLDER}/report.html")


def _here(settings: Settings) -> None:
    needs = settings.resources.values()
    if settings.executor == KUBERNETES or any(one.executor == KUBERNETES for one in needs):
        raise ConfigError("executor: the cells of an ablation run on this machine; add --set executor=local")


def told(grid: Sequence[Cell], places: Sequence[Workspace]) -> dict[str, Any]:
    """What ablation.json holds: every cell's figures with their intervals, and the effects."""
    metrics = [storage.read_json(place.root / EVALUATION / "metrics.json") for place in places]
    notes = storage.read_json(places[0].root / EVALUATION / "metrics_reasons.json")
    names = [_filed(name, metrics) for name in _figures(grid[0])]
    values = [{name: one.get(name) for name in names} for one in metrics]
    outcomes = [Outcome(cell.levels, mine) for cell, mine in zip(grid, values, strict=True)]
    missing = [name for name in names if any(mine[name] is None for mine in values)]
    return {
        "profile": grid[0].settings.profile,
        "factors": {name: list(dict.fromkeys(cell.levels[name] for cell in grid)) for name in grid[0].levels},
        "figures": names,
        "strange": [name.removeprefix(APART) for name in names if name.startswith(APART)],
        "absent": {name: notes.get(name, "some cells have it and some do not") for name in missing},
        "cells": [
            {"name": cell.name, "levels": cell.levels, "figures": {name: _with_interval(one, name) for name in names}}
            for cell, one in zip(grid, metrics, strict=True)
        ],
        "effects": [_plain(effect) for effect in effects.main_effects(outcomes, FACTORS, names)],
    }


def _plain(effect: Effect) -> dict[str, Any]:
    return {name: rounded(value) if isinstance(value, float) else value for name, value in asdict(effect).items()}


def _figures(cell: Cell) -> list[str]:
    """Those that the factors are asked about: synchronisation, Figure 2's, losses of fusion, Table 3's."""
    scenes = [f"sync/{scene}/{what}" for scene in cell.settings.evaluation.scenes for what in ("auc", "in_sync")]
    return [*scenes, "rope/ridge_correlation", "loss/fusion/video/true", "loss/fusion/audio/true", "av_align", *COLUMNS]


def _filed(name: str, metrics: Sequence[dict[str, float | None]]) -> str:
    """The name that a figure has in the cells' metrics.json."""
    return next((apart for one in metrics if (apart := f"{APART}{name}") in one), name)


def _with_interval(values: dict[str, float | None], name: str) -> dict[str, float | None]:
    low, high = (values.get(f"{name}/{end}", values.get(f"{name}_{end}")) for end in ("ci_low", "ci_high"))
    return {"value": values.get(name), "ci_low": low, "ci_high": high}


def _report(out: Path, grid: Sequence[Cell], places: Sequence[Workspace], run: Run) -> None:
    about = told(grid, places)
    storage.write_json(out / "ablation.json", about)
    storage.write_bytes(out / "report.html", ablation_page.build(about).encode())
    run.set_tags(logbook.strange(about["strange"]))
    for effect in about["effects"]:
        name = f"effect/{effect['figure']}/{effect['factor']}_{effect['other']}"
        ends = {"": "difference", "/ci_low": "low", "/ci_high": "high", "/p_holm": "p_holm", "/n": "pairs"}
        run.log_metrics({f"{name}{end}": effect[part] for end, part in ends.items()})
    for file in ("ablation.json", "report.html"):
        run.log_file(out / file)


@contextlib.contextmanager
def _run(tracking: Tracking, grid: Sequence[Cell]) -> Iterator[Run]:
    """The ablation's run in MLflow, above those of its cells."""
    run = Run.open(tracking, "ablation", tags={"ovi.profile": grid[0].settings.profile})
    try:
        run.log_params({"ablation": grid[0].settings.ablation.model_dump()})
        yield run
    except BaseException as error:
        run.leave("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    run.close()

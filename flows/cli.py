"""Commands of the flows that join `ovi`: demo, plan, promote, ui. Thin; heavy imports wait until a command needs them.

Try it: `ovi plan`, `ovi demo --help`.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ovi import config
from ovi.cli import PARAMS, Json, Params, Profile, Sets
from ovi.progress import reporter

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Instead of service.port; 0 takes a free one.")]


@app.command(epilog="Example: ovi demo --set corpus.source=my/clips --port 3001")
def demo(port: Port = None, params: Params = PARAMS, profile: Profile = None, sets: Sets = None) -> None:
    """Curate, train, evaluate, promote, pack and serve: run what changed since the last time, and only that.

    Stop it whenever you like; the same command continues.
    """
    from flows.demo import demo as run
    from flows.signals import one_line_stop

    words = sets or []
    settings = config.load(params, profile, words if port is None else [*words, f"service.port={port}"])
    with one_line_stop("what is finished stays; the same command continues"):
        run(Path(), settings)


@app.command(epilog="Example: ovi plan --set training.fusion.steps=800")
def plan(params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False) -> None:
    """Show what `ovi demo` would run, why, and what it asks of the machine. Changes nothing."""
    from flows import environment, plan
    from flows.workspace import Workspace

    environment.quiet()
    steps = plan.look_ahead(Workspace(), config.load(params, profile, sets))
    if as_json:
        shown = [{**asdict(step), "resources": step.resources.model_dump()} for step in steps]
        typer.echo(json.dumps({"event": "result", "stages": shown}))
    else:
        typer.echo(plan.words(steps))


@app.command(epilog="Example: ovi promote --approved-by 'Ada Lovelace'")
def promote(
    model: Annotated[Path, typer.Option(help="Model folder.")] = Path("models/fusion"),
    metrics: Annotated[Path, typer.Option(help="Its figures.")] = Path("out/evaluation/metrics.json"),
    out: Annotated[Path, typer.Option(help="Decision to write.")] = Path("out/promotion.json"),
    approved_by: Annotated[str | None, typer.Option(help="Who approves, where promotion.approval asks for it.")] = None,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Register a model version and, if every threshold holds, make it the champion."""
    from flows.promote import promote as run

    run(config.load(params, profile, sets), model, metrics, out, approved_by, reporter(as_json))


@app.command(epilog="Example: ovi ui --mlflow-port 5001")
def ui(
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the MLflow pages.")] = 5000,
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prefect pages.")] = 4200,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None,
) -> None:  # fmt: skip
    """Serve the MLflow and Prefect pages of this clone on loopback until Ctrl-C."""
    from flows import server
    from flows.signals import one_line_stop
    from flows.workspace import Workspace

    settings = config.load(params, profile, sets)
    typer.echo("starting")
    with one_line_stop("the pages are closed"), server.pages(Workspace(), settings, mlflow_port, prefect_port) as urls:
        for name, url in urls.items():
            typer.echo(f"{name:8} {url}")
        typer.echo("Ctrl-C closes them")
        while True:
            time.sleep(1)

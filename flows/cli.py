"""Commands of the flows that join `ovi`: demo, plan, ablate, promote, lineage, reap, ui, ...

Thin; heavy imports wait until a command needs them.
Try it: `ovi plan`, `ovi demo --help`.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ovi import config
from ovi.cli import PARAMS, Json, Params, Profile, Sets
from ovi.errors import ConfigError
from ovi.progress import reporter

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

promote_app = typer.Typer(invoke_without_command=True)

Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Instead of service.port; 0 takes a free one.")]
MlflowPort = Annotated[int, typer.Option(min=1, max=65535, help="Port of the MLflow pages.")]
PrefectPort = Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prefect pages.")]


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


@app.command(epilog="Example: ovi ablate --set ablation.seeds=[0,1,2] --set ablation.prompt=[combined]")
def ablate(params: Params = PARAMS, profile: Profile = None, sets: Sets = None) -> None:
    """Train and evaluate the paper's ablations as one grid: prompt encoding, RoPE scaling, fusion, seeds.

    Stop it whenever you like; the same command continues.
    """
    from flows.ablate import ablate as run
    from flows.signals import one_line_stop

    with one_line_stop("what is finished stays; the same command continues"):
        run(Path(), params, profile, sets or [])


@app.command(epilog="Example: ovi lineage ovi:5f0c1d2e3a4b5c6d")
def lineage(
    tag: Annotated[str | None, typer.Argument(help="Of the packed Bento; the one in out/package by default.")] = None,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None,
) -> None:  # fmt: skip
    """Print and verify where a Bento comes from: model, registry, runs, data, code, parameters, image."""
    from flows import environment
    from flows.trace import trace
    from flows.workspace import Workspace

    environment.quiet()
    found = trace(Workspace(), config.load(params, profile, sets), tag)
    typer.echo(found.words())
    if any(link.broken for link in found.links):
        raise typer.Exit(1)


@promote_app.callback()
def promote(
    context: typer.Context,
    model: Annotated[Path, typer.Option(help="Model folder.")] = Path("models/fusion"),
    metrics: Annotated[Path, typer.Option(help="Its figures.")] = Path("out/evaluation/metrics.json"),
    out: Annotated[Path, typer.Option(help="Decision to write.")] = Path("out/promotion.json"),
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    if context.invoked_subcommand is not None:
        return
    from flows.promote import promote as run

    run(config.load(params, profile, sets), model, metrics, out, reporter(as_json))


app.add_typer(
    promote_app, name=promote.__name__, epilog="Example: ovi promote --metrics out/evaluation/metrics.json",
    help="Register a model version and, if every threshold holds, make it the champion.",
)  # fmt: skip


@promote_app.command(epilog="Example: ovi promote approve --by 'Ada Lovelace' --reason 'sounds right on all scenes'")
def approve(
    by: Annotated[str, typer.Option(help="Who approves.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    version: Annotated[str | None, typer.Option(help="Instead of the candidate.")] = None,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None,
) -> None:  # fmt: skip
    """A person's word, where promotion.approval asks for it: the candidate becomes the champion."""
    from flows.promote import approve as run

    typer.echo(run(config.load(params, profile, sets), by, reason, version).line())


@promote_app.command(epilog="Example: ovi promote rollback --by 'Ada Lovelace' --reason 'clicks in the sound'")
def rollback(
    by: Annotated[str, typer.Option(help="Who goes back.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None,
) -> None:  # fmt: skip
    """Make the previous champion the champion again."""
    from flows.champions import rollback as run

    settings = config.load(params, profile, sets)
    typer.echo(run(settings.tracking, settings.promotion.model, by, reason).line())


@promote_app.command(epilog="Example: ovi promote history")
def history(params: Params = PARAMS, profile: Profile = None, sets: Sets = None) -> None:
    """Who made which version the champion, when and why."""
    from flows.champions import history as read

    settings = config.load(params, profile, sets)
    moves = read(settings.tracking, settings.promotion.model)
    typer.echo("\n".join(move.line() for move in moves) or "nothing was promoted yet")


@app.command(epilog="Example: ovi pull --set data.remote=s3://team/ovi")
def pull(params: Params = PARAMS, profile: Profile = None, sets: Sets = None) -> None:
    """Fetch what dvc.lock names from data.remote: what others made is not made again."""
    from flows.share import pull as run

    typer.echo(run(Path(), config.load(params, profile, sets)))


@app.command(epilog="Example: ovi push --set data.remote=s3://team/ovi")
def push(params: Params = PARAMS, profile: Profile = None, sets: Sets = None) -> None:
    """Send to data.remote what dvc.lock names and it lacks. A pipeline does so after every stage."""
    from flows.share import push as run

    typer.echo(run(Path(), config.load(params, profile, sets)))


@app.command(epilog="Example: ovi work s3://team/ovi/parcels/encode-0a1b2c3d -- ovi encode")
def work(
    address: Annotated[str, typer.Argument(help="Where the flow put the stage's inputs.")],
    command: Annotated[list[str], typer.Argument(help="What the stage runs.")],
    share: Annotated[bool, typer.Option("--share", help="It works a share and makes no output yet.")] = False,
) -> None:
    """The first process of a pod that shares no folder with the flow: fetch, run, send what was made."""
    from flows import environment
    from flows.parcel import work as run

    environment.quiet()
    raise typer.Exit(run(address, command, share, Path(), reporter(as_json=True)))


@app.command(epilog="Example: ovi reap --older 600")
def reap(
    older: Annotated[float, typer.Option(min=0, help="Runs whose flow was not heard of for so many seconds.")] = 120,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None,
) -> None:  # fmt: skip
    """Remove what flows that were killed left in the cluster: their Jobs, pods and Services."""
    from flows.cluster import Cluster
    from flows.lease import reap as run

    where = config.load(params, profile, sets).cluster
    removed = run(Cluster(where.namespace, where.context), older)
    typer.echo("\n".join(f"removed {name}" for name in removed) or "nothing to remove")


@app.command(epilog="Example: ovi preflight --set cluster.namespace=research")
def preflight(params: Params = PARAMS, profile: Profile = None, sets: Sets = None) -> None:
    """Ask the cluster what it lacks for the stages. Changes nothing; exit code 1 when something is missing."""
    from flows.cluster import Cluster
    from flows.preflight import look

    where = config.load(params, profile, sets).cluster
    findings = look(Cluster(where.namespace, where.context), where)
    typer.echo("\n".join(finding.line() for finding in findings))
    if any(finding.needed and not finding.found for finding in findings):
        raise typer.Exit(1)


@app.command(epilog="Example: ovi ui --mlflow-port 5001")
def ui(
    mlflow_port: MlflowPort = 5000, prefect_port: PrefectPort = 4200,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None,
) -> None:  # fmt: skip
    """Serve the MLflow and Prefect pages of this clone on loopback until Ctrl-C."""
    from flows import server
    from flows.workspace import Workspace

    settings = config.load(params, profile, sets)
    _until_stopped("the pages are closed", server.pages(Workspace(), settings, mlflow_port, prefect_port))


@app.command(epilog="Example: ovi platform --mlflow-port 5001")
def platform(
    mlflow_port: MlflowPort = 5000, prefect_port: PrefectPort = 4200,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None,
) -> None:  # fmt: skip
    """Serve both pages and take the runs of prefect.yaml, scheduled or asked for, until Ctrl-C."""
    from flows.platform import platform as run
    from flows.workspace import Workspace

    settings = config.load(params, profile, sets)
    _until_stopped("the platform is closed", run(Workspace(), settings, mlflow_port, prefect_port))


@app.command(epilog="Example: PREFECT_API_URL=http://prefect.team:4200/api ovi deploy")
def deploy() -> None:
    """Tell a team's Prefect server of prefect.yaml's deployments, and where to post what fails (OVI_WEBHOOK)."""
    from flows.platform import deploy as run
    from flows.workspace import Workspace

    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise ConfigError("PREFECT_API_URL: not set; name the team's server, as in http://prefect.team:4200/api")
    for line in run(Workspace(), api):
        typer.echo(line)


def _until_stopped(words: str, servers: AbstractContextManager[dict[str, str]]) -> None:
    from flows.signals import one_line_stop

    typer.echo("starting")
    with one_line_stop(words), servers as urls:
        for name, url in urls.items():
            typer.echo(f"{name:8} {url}")
        typer.echo("Ctrl-C closes them")
        while True:
            time.sleep(1)

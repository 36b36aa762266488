"""Commands of the service that join `ovi`: package, serve, clip. Thin over services/generation.

Try it: `ovi package --help`, `ovi serve --help`, `ovi clip --help`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ovi import config
from ovi.cli import PARAMS, Json, Params, Profile, Sets
from ovi.progress import reporter

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Package = Annotated[Path, typer.Option(help="Folder written by `ovi package`.")]
PACKAGE = Path("out/package")
STATE = Path("out/service")


@app.command(epilog="Example: ovi package --model models/fusion --out out/package")
def package(
    promotion: Annotated[Path, typer.Option(help="File written by `ovi promote`.")] = Path("out/promotion.json"),
    model: Annotated[Path, typer.Option(help="The promoted model folder.")] = Path("models/fusion"),
    out: Annotated[Path, typer.Option(help="Folder to write.")] = PACKAGE,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Pack the promoted model and its service into a Bento."""
    from services.generation.package import package as run

    run(config.load(params, profile, sets), promotion, model, out, reporter(as_json))


@app.command(epilog="Example: ovi serve --package out/package --set service.port=3001")
def serve(
    package: Package = PACKAGE,
    state: Annotated[Path, typer.Option(help="Folder of jobs and clips; they outlive the server.")] = STATE,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Instead of service.port; 0: a free one.")] = None,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None,
) -> None:  # fmt: skip
    """Serve the packed Bento until Ctrl-C. There is no authentication: keep it on loopback or behind a gateway."""
    from services.generation.launch import launch

    service = config.load(params, profile, sets).service
    how = launch(package, state, service.host, service.port if port is None else port)
    typer.echo(f"{how.url}  (jobs and clips in {state})", err=True)
    os.execve(how.command[0], how.command, how.environment)


@app.command(epilog="Example: ovi clip --package out/package --out out/demo.mp4 --set service.port=0")
def clip(
    package: Package = PACKAGE,
    out: Annotated[Path, typer.Option(help="mp4 to write.")] = Path("out/demo.mp4"),
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Start the packed Bento, ask it for service.prompt over HTTP, check and save the clip, stop it."""
    from services.generation.clip import clip as run

    run(config.load(params, profile, sets), package, out, reporter(as_json))

"""Commands of the services that join `ovi`: package, serve, key, clip, thin over services/generation; and `ovi study`.

Try it: `ovi package --help`, `ovi serve --help`, `ovi clip --help`, `ovi study --help`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ovi import config, storage
from ovi.cli import PARAMS, Json, Params, Profile, Sets
from ovi.progress import reporter
from services.study import cli as study

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(study.app, name="study")

Package = Annotated[Path, typer.Option(help="Folder written by `ovi package`.")]
PACKAGE = Path("out/package")
STATE = Path("out/service")


@app.command(epilog="Example: ovi package --model models/fusion --out out/package")
def package(
    promotion: Annotated[Path, typer.Option(help="File written by `ovi promote`.")] = Path("out/promotion.json"),
    model: Annotated[Path, typer.Option(help="The promoted model folder.")] = Path("models/fusion"),
    out: Annotated[Path, typer.Option(help="Folder to write.")] = PACKAGE,
    weights: Annotated[str | None, typer.Option(help="Put the weights there (s3://...) instead.")] = None,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Pack the promoted model and its service into a Bento."""
    from services.generation.package import package as run

    run(config.load(params, profile, sets), promotion, model, out, reporter(as_json), weights)


@app.command(epilog="Example: ovi serve --package out/package --set service.port=3001")
def serve(
    package: Package = PACKAGE,
    state: Annotated[Path, typer.Option(help="Folder of jobs and clips; they outlive the server.")] = STATE,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Instead of service.port; 0: a free one.")] = None,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None,
) -> None:  # fmt: skip
    """Serve the packed Bento until Ctrl-C. Beyond this machine it takes keys: see `ovi key`."""
    from services.generation import places
    from services.generation.launch import launch

    settings = config.load(params, profile, sets)
    service = settings.service
    named = {
        places.MODEL: service.model,
        places.TRACKING: _absolute_database(settings.tracking.uri) if service.model else None,
        places.DATABASE: service.database,
        places.RESULTS: _absolute(service.results),
        places.KEYS: _absolute(service.keys),
        places.BUNDLE: _absolute(service.bundle),
        places.POLICY: service.policy,
        places.CERTIFICATE: _absolute(service.certificate),
        places.CERTIFICATE_KEY: _absolute(service.certificate_key),
    }
    how = launch(package, state, service.host, service.port if port is None else port, named)
    typer.echo(f"{how.url}  (jobs and clips in {state})", err=True)
    os.execve(how.command[0], how.command, how.environment)


@app.command(epilog="Example: ovi key team-a --keys out/keys.json")
def key(
    name: Annotated[str, typer.Argument(help="Whose jobs these will be.")],
    keys: Annotated[Path, typer.Option(help="File to add it to; set service.keys to it.")] = Path("out/keys.json"),
    per_minute: Annotated[int, typer.Option(min=1, help="Jobs it may submit a minute.")] = 60,
    concurrency: Annotated[int, typer.Option(min=1, help="Unfinished jobs it may have.")] = 8,
) -> None:
    """Make an API key and print it, once; the file keeps its hash."""
    from services.generation.keys import add

    typer.echo(add(keys, name, per_minute, concurrency))


@app.command(epilog="Example: ovi clip --package out/package --out out/demo.mp4 --set service.port=0")
def clip(
    package: Package = PACKAGE,
    out: Annotated[Path, typer.Option(help="mp4 to write.")] = Path("out/demo.mp4"),
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Start the packed Bento, ask it for service.prompt over HTTP, check and save the clip, stop it."""
    from services.generation.clip import clip as run

    run(config.load(params, profile, sets), package, out, reporter(as_json))


def _absolute(path: str | None) -> str | None:
    return path if path is None or storage.is_remote(path) else str(Path(path).absolute())


def _absolute_database(uri: str) -> str:
    """The same for a tracking store in a SQLite file."""
    scheme, found, path = uri.partition("sqlite:///")
    return f"sqlite:///{Path(path).absolute()}" if found and not scheme else uri

"""`ovi study`: plan, serve and read a blind comparison of models. Thin over this room, which is imported when needed.

Try it: `ovi study --help`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovi import storage
from ovi.cli import Json
from ovi.errors import ConfigError, OviError
from ovi.progress import reporter

if TYPE_CHECKING:
    from services.study.store import StudyStore

app = typer.Typer(no_args_is_help=True, help="Blind pairwise study: people compare models.")

SECRET = "OVI_STUDY_SECRET"
SHORTEST = 16  # characters of a secret
RATERS, EACH = 50, 24

State = Annotated[Path, typer.Option(help="Folder of the study: clips, invitations, votes in SQLite.")]
Database = Annotated[
    str | None,
    typer.Option(envvar="OVI_STUDY_DATABASE", help="Instead of SQLite: postgresql+psycopg://user:password@host/name."),
]
STATE = Path("out/study")


@app.command(epilog="Example: ovi study plan --rate 0.6 --items 48")
def plan(
    raters: Annotated[int, typer.Option(min=2)] = RATERS,
    each: Annotated[int, typer.Option(min=1, help="Comparisons a rater.")] = EACH,
    items: Annotated[int, typer.Option(min=2, help="Clips of each model.")] = 24,
    rate: Annotated[float, typer.Option(min=0.501, max=0.99, help="True share of decided votes.")] = 0.6,
    ties: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of votes that are ties.")] = 0.2,
    item_spread: Annotated[float, typer.Option(min=0.0, help="Of log odds, between items.")] = 0.5,
    rater_spread: Annotated[float, typer.Option(min=0.0, help="Of log odds, between raters.")] = 0.3,
    as_json: Json = False,
) -> None:
    """How likely a study of two models finds a preference, and how many raters that takes."""
    from services.study.power import Plan

    asked = Plan(raters, each, items, rate, ties, item_spread, rater_spread)
    figures = {
        "votes": asked.votes, "standard_error": asked.deviation, "design_effect": asked.design_effect,
        "power": asked.power, "smallest_rate": asked.smallest or "none",
        "raters_needed": asked.needed or "none: add items",
    }  # fmt: skip
    reporter(as_json).result(**{k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in figures.items()})


@app.command(epilog="Example: ovi study serve --pairs data/pairs --url https://study.example.org")
def serve(
    pairs: Annotated[Path, typer.Option(help="Folder of MODEL/ITEM.mp4; equal names are compared.")],
    state: State = STATE,
    database: Database = None,
    raters: Annotated[
        int, typer.Option(min=1, help="Invitations there shall be; more may be asked for later.")
    ] = RATERS,
    each: Annotated[int, typer.Option(min=1, help="Comparisons a rater.")] = EACH,
    seed: Annotated[int, typer.Option(min=0, help="Of order and sides.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen at; put a proxy with TLS before it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8010,
    url: Annotated[str | None, typer.Option(help="Address raters see, for the invitations.")] = None,
    as_json: Json = False,
) -> None:
    """Prepare the clips, write invitations and serve the study until Ctrl-C. OVI_STUDY_SECRET opens the export."""
    import uvicorn

    from services.study.app import Study, create_app
    from services.study.pairs import prepare

    voice, secret = reporter(as_json), _secret()
    store = _store(state, database)
    clips = state / "clips"
    store.open(prepare(pairs, clips, voice), each, seed)
    address = (url or f"http://{host}:{port}").rstrip("/")
    fresh = [f"{address}/#{key}" for key in store.invite(raters)]
    invitations = state / "invitations.txt"
    if fresh:
        _append(invitations, fresh)
    voice.result(url=address, new_invitations=len(fresh), invitations=str(invitations), export=secret is not None)
    uvicorn.run(create_app(Study(store, clips, secret)), host=host, port=port, log_level="warning")
    store.close()


@app.command(epilog="Example: ovi study results --state out/study --out out/study/results.json")
def results(
    state: State = STATE,
    database: Database = None,
    export: Annotated[Path | None, typer.Option(help="Instead of the study itself: a saved /api/export.")] = None,
    out: Annotated[Path, typer.Option(help="JSON to write; the votes go beside it.")] = Path("out/study/results.json"),
    as_json: Json = False,
) -> None:
    """Analyse the votes: rates with intervals, strengths, agreement, bias, exclusions."""
    from services.study.analysis import analyse

    if export is not None:
        votes = storage.read_json(export)
    else:
        if database is None and not (state / "study.db").exists():
            raise OviError(f"{state}: no study there; name its folder with --state")
        store = _store(state, database)
        votes = store.export()
        store.close()
        storage.write_json(out.with_name("votes.json"), votes)
    found = analyse(votes)
    storage.write_json(out, found)
    reporter(as_json).result(results=str(out), counted=found["study"]["counted"], excluded=len(found["exclusions"]))


def _store(state: Path, database: str | None) -> StudyStore:
    from services.study.store import StudyStore

    return StudyStore(database) if database else StudyStore.in_folder(state)


def _secret() -> str | None:
    secret = os.environ.get(SECRET)
    if secret is not None and len(secret) < SHORTEST:
        raise ConfigError(f"{SECRET}: give it {SHORTEST} characters or more, or leave it out (then the export is off)")
    return secret


def _append(path: Path, lines: list[str]) -> None:
    """Readable by its owner only: a link is all it takes to vote."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))

"""`ovi compare`: is one evaluated model better than another?

Try it: `ovi compare --help`.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ovi.progress import reporter

app = typer.Typer()


@app.command(epilog="Example: ovi compare out/before out/evaluation --out out/comparison.json")
def compare(
    first: Annotated[Path, typer.Argument(help="Folder written by `ovi evaluate`: what is compared with.")],
    second: Annotated[Path, typer.Argument(help="Another one: better or worse than the first?")],
    out: Annotated[Path | None, typer.Option(help="File for the comparison as JSON.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    draws: Annotated[int, typer.Option(min=100, help="Exchanges and draws a metric.")] = 1000,
    params: Annotated[Path, typer.Option(help="Settings file; its tracking says where the verdict goes.")] = Path(
        "params.yaml"
    ),
    profile: Annotated[str | None, typer.Option(help="Profile laid over the settings.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="One value, as section.key=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Speak JSON lines on stdout.")] = False,
) -> None:
    """Compare two evaluations metric by metric, paired by prompt, and say how sure that is; in MLflow, too."""
    from ovi import config, storage
    from ovi.evaluation import comparison, record, verdicts

    voice, settings = reporter(as_json), config.load(params, profile, sets)
    runs = record.read(first), record.read(second)
    found = comparison.compare(*runs, seed, draws)
    for one in found:
        voice.note(comparison.words(one))
    for name, reason in comparison.left_out(*runs).items():
        voice.note(f"{name}: not compared; {reason}")
    with tempfile.TemporaryDirectory() as folder:
        told = out or Path(folder) / "comparison.json"
        storage.write_json(told, {verdicts.key(one): asdict(one) for one in found})
        run = verdicts.log(settings.tracking, first, second, found, told)
    voice.note(f"MLflow: on run {run}" if run else "MLflow: nothing, it does not hold the runs of both folders")
    voice.result(**{verdicts.key(one): one.verdict for one in found})

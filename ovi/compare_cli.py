"""`ovi compare`: is one evaluated model better than another?

Try it: `ovi compare --help`.
"""

from __future__ import annotations

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
    as_json: Annotated[bool, typer.Option("--json", help="Speak JSON lines on stdout.")] = False,
) -> None:
    """Compare two evaluations metric by metric, paired by prompt, and say how sure that is."""
    from ovi import storage
    from ovi.evaluation import comparison, record

    voice = reporter(as_json)
    runs = record.read(first), record.read(second)
    found = comparison.compare(*runs, seed, draws)
    for one in found:
        voice.note(comparison.words(one))
    for name, reason in comparison.left_out(*runs).items():
        voice.note(f"{name}: not compared; {reason}")
    told = {one.metric: asdict(one) for one in found}
    if out is not None:
        storage.write_json(out, told)
    voice.result(**{one.metric: one.verdict for one in found})

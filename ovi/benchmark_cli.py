"""`ovi benchmark`: the published benchmarks, from their layout on disk to a report.

Try it: `ovi benchmark --help`.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from ovi import config, storage
from ovi.evaluation.readers.library import READERS, read
from ovi.progress import reporter

app = typer.Typer(no_args_is_help=True, help="Score generated clips as published benchmarks do.")

Name = Annotated[str, typer.Argument(help=f"One of {', '.join(READERS)}.")]
Data = Annotated[Path, typer.Option(help="The benchmark, laid out as published.")]


@app.command(epilog="Example: ovi benchmark table seed-tts --data seedtts_testset --out prompts.csv")
def table(
    name: Name,
    data: Data,
    out: Annotated[Path, typer.Option(help="CSV to write.")] = Path("prompts.csv"),
    seed: Annotated[int, typer.Option(min=0, help="Of the first row; the others count on.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Speak JSON lines on stdout.")] = False,
) -> None:
    """Write a benchmark's prompts as the table that `ovi generate --table` takes."""
    benchmark, text = read(name, data), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("text_prompt", "image_path", "seed"))
    writer.writerows((item.caption, item.image or "", seed + at) for at, item in enumerate(benchmark.items))
    storage.write_bytes(out, text.getvalue().encode())
    reporter(as_json).result(prompts=len(benchmark.items), table=str(out))


@app.command(epilog="Example: ovi benchmark score seed-tts --data seedtts_testset --clips out/clips --out out/seed-tts")
def score(
    name: Name,
    data: Data,
    clips: Annotated[Path, typer.Option(help="Generated clips: NAME.mp4, NAME.wav, or what the table became.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("out/benchmark"),
    published: Annotated[bool, typer.Option("--published", help="Also as the published scorer, with defects.")] = False,
    params: Annotated[Path, typer.Option(help="Settings file.")] = Path("params.yaml"),
    profile: Annotated[str | None, typer.Option(help="Profile laid over the settings.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="One value, as section.key=value.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Speak JSON lines on stdout.")] = False,
) -> None:
    """Measure a benchmark's clips and write the report; a missing file is an error, see evaluation.max_missing."""
    from ovi.evaluation.scored import score as run

    run(config.load(params, profile, sets), read(name, data), clips, out, reporter(as_json), published)

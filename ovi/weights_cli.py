"""`ovi weights`: the released checkpoints in and out of model folders.

Try it: `ovi weights --help`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovi.errors import OviError
from ovi.progress import reporter

app = typer.Typer(no_args_is_help=True, help="Released weights of Ovi, Wan2.2 and MMAudio.")

Source = Annotated[Path, typer.Option("--from", help="Folder laid out as the release: Ovi, Wan2.2-TI2V-5B, MMAudio.")]
Json = Annotated[bool, typer.Option("--json", help="Speak JSON lines on stdout.")]
CKPTS, RELEASED = Path("ckpts"), "720x720_5s"
VERSIONS = "720x720_5s, 960x960_5s, 960x960_10s, or wan2.2-ti2v-5b: the video backbone alone."


@app.command("import", epilog="Example: ovi weights import --from ckpts --version 720x720_5s --out models/ovi")
def import_command(
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    source: Source = CKPTS,
    version: Annotated[str, typer.Option(help=VERSIONS)] = RELEASED,
    transformer: Annotated[
        Path | None, typer.Option(help="File to take the transformer from instead, as a DeepSpeed dump.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a model folder of released files; nothing is cast, and what can be linked is not copied."""
    from ovi.models.released_weights import import_weights

    voice = reporter(as_json)
    import_weights(source, version, out, voice, transformer)
    voice.result(model=str(out), version=version)


@app.command(epilog="Example: ovi weights export --model models/fusion --out ckpts-mine")
def export(
    model: Annotated[Path, typer.Option(help="Model folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write, laid out as the release.")],
    as_json: Json = False,
) -> None:
    """Write a model folder's networks as the files that the released code loads."""
    from ovi.models.released_weights import export_weights

    voice = reporter(as_json)
    files = export_weights(model, out, voice)
    voice.result(out=str(out), files=files)


@app.command(epilog="Example: ovi weights verify --from ckpts")
def verify(
    source: Source = CKPTS,
    version: Annotated[str | None, typer.Option(help=f"Look at its files only: {VERSIONS}")] = None,
    as_json: Json = False,
) -> None:
    """Say what is missing, unexpected, or of a wrong shape or dtype, by key; tensors are not read."""
    from ovi.models.released_weights import verify_weights

    voice = reporter(as_json)
    report = verify_weights(source, version)
    findings = [finding for found in report.values() for finding in found]
    for file, found in report.items():
        for line in [str(finding) for finding in found] or [f"{file}: good"]:
            voice.note(line)
    voice.result(files=len(report), problems=len(findings))
    if findings:
        raise OviError(f"{source}: {len(findings)} problems in {sum(map(bool, report.values()))} files; all are above")


@app.command(epilog="Example: ovi weights download --version 720x720_5s --out ckpts")
def download(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = CKPTS,
    version: Annotated[str, typer.Option(help=VERSIONS)] = RELEASED,
    as_json: Json = False,
) -> None:
    """Fetch the released files (about 40 GB) from the Hugging Face hub, and tell their licences."""
    from ovi.models.released_download import download_weights

    voice = reporter(as_json)
    folders = download_weights(out, version, voice)
    voice.result(out=str(out), folders=[str(folder) for folder in folders])

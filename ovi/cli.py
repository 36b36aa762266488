"""The `ovi` command: one sub-command a stage, thin over the rooms; flows/ and services/ join by entry point.

Every stage command reads its settings from --params (params.yaml by default), --profile and --set; run by hand it
does exactly what the pipeline runs. Errors a user can mend are one line on stderr; exit code 78: it can never work.
Try it: `ovi --help`, `ovi config show --set training.fusion.steps=10`.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from ovi import benchmark_cli, compare_cli, config, weights_cli
from ovi.errors import EXIT_CONFIG, EXIT_FAILED, ConfigError, OviError, one_line
from ovi.progress import reporter

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
curate_app = typer.Typer(invoke_without_command=True)
train_app = typer.Typer(no_args_is_help=True, help="Train one stage of the paper (4.2).")
config_app = typer.Typer(no_args_is_help=True, help="Look at settings.")
app.add_typer(
    curate_app, name="curate", epilog="Example: ovi curate --corpus data/corpus --out data/clips",
    help="Split, filter, check sync, caption and pack clips (paper section 3).",
)  # fmt: skip
app.add_typer(train_app, name="train")
app.add_typer(config_app, name="config")
app.add_typer(weights_cli.app, name="weights")
app.add_typer(benchmark_cli.app, name="benchmark")
app.registered_commands += compare_cli.app.registered_commands

Params = Annotated[Path, typer.Option(help="Settings file.")]
Profile = Annotated[str | None, typer.Option(help="Profile laid over the settings: tiny, own, small, ovi-11b.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="One value, as section.key=value; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Speak JSON lines on stdout.")]
PARAMS = Path("params.yaml")


@app.command(epilog="Example: ovi corpus --set corpus.clips=20 --out /tmp/corpus")
def corpus(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("data/corpus"),
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Render the synthetic corpus, or list the files of corpus.source."""
    from ovi.synthetic.corpus import build

    build(config.load(params, profile, sets), out, reporter(as_json))


@curate_app.callback()
def curate(
    context: typer.Context,
    corpus: Annotated[str, typer.Option(help="Folder written by `ovi corpus`, or s3://bucket/prefix.")] = "data/corpus",
    out: Annotated[str, typer.Option(help="Folder to write, or s3://bucket/prefix.")] = "data/clips",
    shard: Annotated[str | None, typer.Option(help="Only examine every n-th part from i on: i/n.")] = None,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    if context.invoked_subcommand is not None:
        return
    from ovi.curation.parts import share_of
    from ovi.curation.run import curate as run

    share = None if shard is None else share_of(shard)
    run(config.load(params, profile, sets), corpus, out, reporter(as_json), share)


@curate_app.command(epilog="Example: ovi curate select --clips data/clips --set curation.min_motion=0.002")
def select(
    corpus: Annotated[str, typer.Option(help="Folder written by `ovi corpus`, or s3://bucket/prefix.")] = "data/corpus",
    clips: Annotated[str, typer.Option(help="Folder written by `ovi curate`, or s3://bucket/prefix.")] = "data/clips",
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Decide again about curated clips by other thresholds, from their stored scores."""
    from ovi.curation.run import select as run

    run(config.load(params, profile, sets), corpus, clips, reporter(as_json))


@app.command(epilog="Example: ovi encode --clips data/clips --codec models/codec --out data/latents")
def encode(
    clips: Annotated[Path, typer.Option(help="Folder written by `ovi curate`.")] = Path("data/clips"),
    codec: Annotated[Path, typer.Option(help="Model folder of codecs to write.")] = Path("models/codec"),
    out: Annotated[Path, typer.Option(help="Folder of latent shards to write.")] = Path("data/latents"),
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Turn clips into latents and captions into text embeddings, once."""
    from ovi.training.encode import encode as run

    run(config.load(params, profile, sets), clips, codec, out, reporter(as_json))


def _train_command(command: str, stage: str, help_text: str) -> None:
    @train_app.command(command, help=help_text, epilog=f"Example: ovi train {command} --set training.{stage}.steps=20")
    def train(
        latents: Annotated[str, typer.Option(help="Folder of latent shards, or s3://bucket/prefix.")] = "data/latents",
        models: Annotated[Path, typer.Option(help="Folder of model folders.")] = Path("models"),
        checkpoints: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = Path("checkpoints"),
        params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
    ) -> None:  # fmt: skip
        from ovi.training.launch import train as run

        run(stage, config.load(params, profile, sets), latents, models, checkpoints, reporter(as_json))


_train_command("video-backbone", "video_backbone", "The video tower alone: from scratch at small scale.")
_train_command("audio-pretrain", "audio_pretrain", "The audio tower alone on sound of up to 12 s (paper 4.2.1).")
_train_command("audio-finetune", "audio_finetune", "The audio tower on padded 5.04 s sound (paper 4.2.1).")
_train_command("fusion", "fusion", "Both towers together, attention only (paper 4.2.2).")


@train_app.command("plan", epilog="Example: ovi train plan --profile ovi-11b --stage fusion --gpu h100")
def train_plan(
    stage: Annotated[str | None, typer.Option(help="One stage; all by default.")] = None,
    gpu: Annotated[str, typer.Option(help="b200, h200, h100, a100 or l40s.")] = "h200",
    mfu: Annotated[float, typer.Option(min=0.01, max=1.0, help="Share of the GPU's peak that hours assume.")] = 0.4,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """What the stages cost before anything is spent: operations, memory, GPU-hours; refuses what cannot fit."""
    from ovi.training.plan import plan
    from ovi.training.recipes import RECIPES

    settings = config.load(params, profile, sets)
    plans = [plan(name, settings, gpu, mfu) for name in ([stage.replace("-", "_")] if stage else RECIPES)]
    if as_json:
        reporter(as_json).result(stages=[each.to_json() for each in plans])
    else:
        typer.echo("\n".join(line for each in plans for line in each.lines()))


@app.command(epilog="Example: PET_NPROC_PER_NODE=8 ovi launch -- ovi train fusion --profile ovi-11b")
def launch(command: Annotated[list[str], typer.Argument(help="What every rank runs.")]) -> None:
    """The first process of a pod: start this pod's ranks as PET_* say, pass signals on, keep their exit codes."""
    from ovi.training.pod import launch as run

    raise typer.Exit(run(command))


@app.command(epilog="Example: ovi evaluate --model models/fusion --out out/evaluation")
def evaluate(
    model: Annotated[Path, typer.Option(help="Model folder to evaluate.")] = Path("models/fusion"),
    clips: Annotated[Path, typer.Option(help="Folder written by `ovi curate`.")] = Path("data/clips"),
    latents: Annotated[Path, typer.Option(help="Folder written by `ovi encode`.")] = Path("data/latents"),
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("out/evaluation"),
    figures: Annotated[bool, typer.Option("--figures", help="Also Figures 2 and 3 of the paper.")] = False,
    study: Annotated[Path | None, typer.Option(help="And Figure 4, of this analysis of a blind study.")] = None,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Score the model on held-out prompts and write the report."""
    from ovi.evaluation.run import evaluate as run

    settings = config.load(params, profile, sets)
    run(settings, model, clips, latents, model.parent, out, reporter(as_json), figures or study is not None, study)


@app.command(epilog="Example: ovi report --clip out/demo.mp4 --out out/report.html")
def report(
    evaluation: Annotated[Path, typer.Option(help="Folder written by `ovi evaluate`.")] = Path("out/evaluation"),
    clip: Annotated[Path, typer.Option(help="The served clip.")] = Path("out/demo.mp4"),
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("out/report.html"),
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """The evaluation report with the served clip in front."""
    from ovi.evaluation.report import demo_page

    demo_page(config.load(params, profile, sets), evaluation, clip, out)
    reporter(as_json).result(report=str(out))


@app.command(epilog='Example: ovi generate --prompt "A red lamp blinks. <AUDCAP>High beeps.<ENDAUDCAP>" --seed 3')
def generate(
    prompt: Annotated[str | None, typer.Option(help="What is seen, <S>said<E>. <AUDCAP>Heard.<ENDAUDCAP>")] = None,
    table: Annotated[Path | None, typer.Option(help="Instead: CSV or TSV of text_prompt, image_path, seed.")] = None,
    model: Annotated[str, typer.Option(help="Model folder, or models:/NAME@ALIAS.")] = "models/fusion",
    out: Annotated[Path, typer.Option(help="mp4 to write; for a table, a folder.")] = Path("clip.mp4"),
    seed: Annotated[int, typer.Option(help="Equal seeds give equal clips; rows of a table count on.")] = 0,
    image: Annotated[Path | None, typer.Option(help="First frame.")] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH, scaled to the model's area.")] = None,
    aspect: Annotated[str | None, typer.Option(help="Or WIDTH:HEIGHT, such as 16:9.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length; a model makes one, of 5 or of 10 s.")] = None,
    steps: Annotated[int | None, typer.Option(help="Instead of sampling.steps.")] = None,
    solver: Annotated[str | None, typer.Option(help="unipc, dpm++ or euler.")] = None,
    guidance_video: Annotated[float | None, typer.Option(help="Guidance scale of the picture.")] = None,
    guidance_audio: Annotated[float | None, typer.Option(help="Guidance scale of the sound.")] = None,
    negative_video: Annotated[str | None, typer.Option(help="What the picture keeps away from.")] = None,
    negative_audio: Annotated[str | None, typer.Option(help="What the sound keeps away from.")] = None,
    wav: Annotated[bool, typer.Option("--wav", help="Also the sound alone.")] = False,
    latents: Annotated[bool, typer.Option("--latents", help="Also the latents.")] = False,
    attention: Annotated[bool, typer.Option("--attention", help="Also where the towers looked in each other.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Of a table, clips at once: one a GPU.")] = 1,
    share: Annotated[str, typer.Option(help="Of a table, every n-th row from i on: i/n.")] = "0/1",
    second_device: Annotated[str | None, typer.Option(help="Where the negative pass runs meanwhile: cuda:1.")] = None,
    params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Sample clips from a model folder."""
    from ovi import generate as making

    settings, voice = config.load(params, profile, sets), reporter(as_json)
    if (prompt is None) == (table is None):
        raise ConfigError("--prompt, --table: give one of them")
    if processes > 1:
        if table is None:
            raise ConfigError("--processes: one prompt is one process; give a --table")
        sys.exit(making.in_processes(processes, sys.argv[1:]))
    values = {
        "steps": steps, "solver": solver, "guidance_video": guidance_video, "guidance_audio": guidance_audio,
        "negative_video": negative_video, "negative_audio": negative_audio, "size": making.wanted_size(size, aspect),
    }  # fmt: skip
    listed = [(prompt, image, seed)] if prompt is not None else making.rows(Path(str(table)), seed)
    asked = making.requests(listed, settings.sampling, {name: x for name, x in values.items() if x is not None})
    sampler = making.open_sampler(model, settings, seconds, second_device)
    wanted = making.Wanted(wav, latents, attention)
    if table is None:
        voice.result(**vars(making.generate(sampler, asked[0], out, settings, wanted, voice)))
        return
    written, failed = making.generate_table(sampler, asked, out, making.share_of(share), settings, wanted, voice)
    voice.result(clips=len(written), failed=failed, written=[vars(one) for one in written])
    if failed:
        raise OviError(f"{len(failed)} of {len(failed) + len(written)} clips failed; the first: {failed[0]}")


@config_app.command("show", epilog="Example: ovi config show --profile small --set seed=3")
def config_show(params: Params = PARAMS, profile: Profile = None, sets: Sets = None, as_json: Json = False) -> None:
    """Print the settings after profile and --set, as a params file."""
    settings = config.load(params, profile, sets)
    typer.echo(settings.model_dump_json(indent=2) if as_json else config.dump(settings), nl=as_json)


def _join_commands() -> None:
    """Commands of flows/ and services/ become commands of `ovi`."""
    for point in sorted(entry_points(group="ovi.commands"), key=lambda point: point.name):
        guest = point.load()
        app.registered_commands += guest.registered_commands
        app.registered_groups += guest.registered_groups


def main() -> None:
    """The console script: one line for what a user can mend, a traceback for what is our defect."""
    _join_commands()
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)  # an exit asked for inside a command comes back as its code
    except OviError as error:
        _leave(one_line(error), error.exit_code)
    except typer.Abort:
        _leave("stopped", 130)
    except KeyboardInterrupt:
        _leave("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:
        _leave(one_line(error), EXIT_FAILED)
    except Exception as error:
        show = getattr(error, "show", None)  # click's usage errors print themselves
        if show is None:
            raise
        show()
        sys.exit(EXIT_CONFIG)


def _leave(message: str, code: int) -> None:
    print(f"ovi: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()

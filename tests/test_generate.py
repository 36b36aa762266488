"""`ovi generate` as a user meets it: files, tables, registry addresses, and one line for every mistake."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import typer.testing
from safetensors.numpy import load_file

from ovi import cli, generate, storage
from ovi.config import Tracking
from ovi.errors import ConfigError, OviError
from ovi.media import decode
from ovi.media.encode import write_png
from ovi.media.probe import probe
from ovi.models.folder import digest
from ovi.tracking import register_version, set_alias
from tests.services.models import save_tiny_model, tiny_settings

PROMPT = "A red lamp blinks in the dark. <AUDCAP>Short high beeps.<ENDAUDCAP>"
PARAMS = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "fusion", tiny_settings())


def run(model, *words: object) -> dict:
    """The result line of the command, run in this process."""
    asked = ["generate", "--model", str(model), "--params", str(PARAMS), "--set", "sampling.steps=3", "--json"]
    done = typer.testing.CliRunner().invoke(cli.app, [*asked, *map(str, words)], catch_exceptions=True)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {"notes": [line["text"] for line in lines if line["event"] == "note"], **lines[-1]}


def test_a_clip_and_all_that_may_lie_beside_it(model, tmp_path):
    out = tmp_path / "clip.mp4"
    said = run(model, "--prompt", PROMPT, "--out", out, "--wav", "--latents", "--attention", "--seed", 7)
    info = probe(out)
    assert (info.video.codec, info.audio.codec, info.video.average_rate) == ("h264", "aac", 24)
    assert sum(1 for _ in decode.frames(out)) == said["frames"] == 121
    assert said["sha256"] == storage.sha256(out)
    assert (said["seed"], said["height"], said["width"], said["path"], said["accelerators"]) == (
        7,
        32,
        32,
        "reference",
        [],
    )
    assert set(said["seconds"]) == {"text", "denoise", "sound", "pictures"}
    assert len(decode.audio(tmp_path / "clip.wav").samples) == 80_640
    latents = load_file(tmp_path / "clip.latents.safetensors")
    assert (latents["video"].shape, latents["audio"].shape) == ((16, 31, 4, 4), (157, 20))
    maps = load_file(tmp_path / "clip.attention.safetensors")
    assert (maps["audio_to_video"].shape, maps["video_to_audio"].shape) == ((157, 31, 2, 2), (31, 2, 2, 157))
    np.testing.assert_allclose(maps["audio_to_video"].sum((1, 2, 3)), 1, rtol=1e-4)


def test_equal_seeds_give_equal_files_on_every_path(model, tmp_path):
    shas, latents = [], []
    for name, words in {
        "a": [], "b": [], "fast": ["--set", "runtime.path=fast"], "two": ["--second-device", "cpu"],
        "other": ["--seed", "1"],
    }.items():  # fmt: skip
        said = run(model, "--prompt", PROMPT, "--out", tmp_path / f"{name}.mp4", "--latents", *words)
        shas.append(said["sha256"])
        latents.append(load_file(tmp_path / f"{name}.latents.safetensors")["audio"])
    assert shas[0] == shas[1] != shas[4]
    np.testing.assert_allclose(latents[2], latents[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(latents[3], latents[0], rtol=1e-3, atol=1e-4)
    assert not np.allclose(latents[4], latents[0], atol=0.1)


def test_what_is_changed_is_said(model, tmp_path):
    said = run(
        model, "--prompt", PROMPT + " More." * 60, "--size", "700x1400", "--out", tmp_path / "clip.mp4",
        "--set", "sampling.stride=2", "--steps", 2, "--solver", "euler", "--guidance-video", 2,
        "--negative-audio", "hum",
    )  # fmt: skip
    assert (said["height"], said["width"], said["truncated"], said["accelerators"]) == (32, 32, True, ["stride=2"])
    assert any("size 700x1400" in note and "using 32x32" in note for note in said["notes"])
    assert any("cut off" in note for note in said["notes"])
    assert any("stride=2" in note for note in said["notes"])


def test_a_table_in_one_process_and_in_two(model, tmp_path):
    write_png(tmp_path / "first.png", np.full((40, 60, 3), 200, np.uint8))
    with open(tmp_path / "prompts.csv", "w", newline="") as file:
        rows = [(PROMPT, "", ""), ("A dog, running.", "first.png", "5"), ("A cat.", "", "")]
        csv.writer(file).writerows([("text_prompt", "image_path", "seed"), *rows])
    one, two = tmp_path / "one", tmp_path / "two"
    said = run(model, "--table", tmp_path / "prompts.csv", "--out", one, "--seed", 10)
    assert [clip["seed"] for clip in said["written"]] == [10, 5, 12]
    names = sorted(path.name for path in one.iterdir())
    assert names[1] == "0001_A_dog,_running._5.mp4"
    words = ["generate", "--model", str(model), "--params", str(PARAMS), "--set", "sampling.steps=3"]
    words += ["--table", str(tmp_path / "prompts.csv"), "--out", str(two), "--seed", "10", "--json"]
    assert generate.in_processes(2, words) == 0
    assert sorted(path.name for path in two.iterdir()) == names
    assert all(storage.sha256(one / name) == storage.sha256(two / name) for name in names)


def test_one_bad_row_does_not_stop_the_others(model, tmp_path):
    (tmp_path / "prompts.tsv").write_text("text_prompt\timage_path\nA dog.\tnowhere.png\nA cat.\t\n")
    with pytest.raises(OviError, match=r"1 of 2 clips failed; the first: row 1: image: .*nowhere\.png: No such file"):
        run(model, "--table", tmp_path / "prompts.tsv", "--out", tmp_path / "out")
    assert [path.name[:4] for path in (tmp_path / "out").iterdir()] == ["0001"]


def test_a_registered_model_by_its_alias(model, tmp_path):
    tracking = Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts"))
    version = register_version(tracking, "ovi", digest(model), str(model), None)
    set_alias(tracking, "ovi", "champion", version)
    settings = tiny_settings(tracking__uri=tracking.uri)
    for address in ("models:/ovi@champion", f"models:/ovi/{version}"):
        assert generate.model_folder(address, settings) == model
    with pytest.raises(OviError, match="models:/ovi@challenger is not in the registry"):
        generate.model_folder("models:/ovi@challenger", settings)
    set_alias(tracking, "ovi", "odd", register_version(tracking, "ovi", "0" * 64, str(model), None))
    with pytest.raises(OviError, match="no longer the model that was registered"):
        generate.model_folder("models:/ovi@odd", settings)


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ([], ConfigError, "--prompt, --table: give one of them"),
        (["--prompt", " "], OviError, "prompt: is empty"),
        (["--prompt", "A dog. <AUDCAP>Woof"], OviError, "<AUDCAP> is not closed"),
        (["--prompt", "x", "--size", "big"], ConfigError, "--size: 'big'; write it as 704x1280"),
        (["--prompt", "x", "--aspect", "16x9"], ConfigError, "--aspect: '16x9'; write it as 16:9"),
        (["--prompt", "x", "--aspect", "1:1", "--size", "32x32"], ConfigError, "give one of them"),
        (["--prompt", "x", "--size", "0x32"], OviError, "height: 0 is not a whole number"),
        (["--prompt", "x", "--seconds", "10"], OviError, r"seconds: 10, but this model makes clips of 5\.04 s"),
        (["--prompt", "x", "--image", __file__], OviError, "not a picture this program reads"),
        (["--prompt", "x", "--steps", "0"], OviError, "steps: 0 is not a whole number from 1"),
        (["--prompt", "x", "--solver", "heun"], OviError, "solver: 'heun' is not one of"),
        (["--prompt", "x", "--processes", "2"], ConfigError, "--processes: one prompt is one process"),
        (["--prompt", "x", "--set", "sampling.skip_layer=9"], OviError, "this model has blocks 0 to 0"),
        (["--table", __file__], OviError, "has no column text_prompt"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(model, tmp_path, words, error, says):
    with pytest.raises(error, match=says) as caught:
        run(model, *words, "--out", tmp_path / "clip.mp4")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_shares_are_checked():
    assert generate.share_of("1/4") == (1, 4)
    for bad in ("4/4", "1", "a/b", "-1/2"):
        with pytest.raises(ConfigError, match="--share"):
            generate.share_of(bad)

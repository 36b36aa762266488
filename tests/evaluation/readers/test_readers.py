"""The published layouts as they are, and each way in which they are not so: one line that says where."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ovi import benchmark_cli
from ovi.diffusion.prompts import prompt_problems
from ovi.errors import ConfigError, OviError
from ovi.evaluation.readers import library
from tests.evaluation.readers import layouts


def test_verse_bench_knows_what_each_item_is_scored_by(tmp_path: Path) -> None:
    found = library.read("verse-bench", layouts.verse_bench(tmp_path))
    assert found.pictures
    thud, beeps, tea, talk = found.items
    assert [item.name for item in found.items] == ["00007", "419", "420", "01083"]
    assert (thud.scene, thud.sound, thud.speech, thud.reference) == ("set1", "A thud.", "", None)
    assert (beeps.sound, beeps.clip_id) == ("Beeps.", "419")  # the first of its sounds; set2 alone has real ones
    assert (tea.sound, tea.speech, tea.reference) == ("", "Tea, please!", None)  # nothing heard: no distance to it
    assert (talk.sound, talk.speech) == ("", "Hello.")  # set3's sound is scored by its words alone
    assert talk.caption == "A man. <S>Hello.<E> <AUDCAP>Clap.<ENDAUDCAP>"  # but asked for as it is
    assert thud.image is not None
    assert thud.image.read_bytes() == b"a picture"


def test_audiocaps_cuts_to_eight_seconds(tmp_path: Path) -> None:
    found = library.read("audiocaps", layouts.audiocaps(tmp_path))
    assert found.seconds == 8.0
    assert "3 clips, the first 8 s" in found.protocol
    assert [item.name for item in found.items] == ["Y0ab", "Y1ab", "Y2ab"]
    assert found.items[1].caption == "<AUDCAP>A dog barks, 1 times<ENDAUDCAP>"
    assert all(item.reference is not None and item.reference.is_file() for item in found.items)
    (tmp_path / "data.csv").write_text("\ufeffname,caption\nY0ab.wav,x\n")  # with a byte order mark and an ending
    assert [item.name for item in library.read("audiocaps", tmp_path).items] == ["Y0ab"]


@pytest.mark.parametrize(
    ("line", "name", "said"),
    [
        ("utt|voice|v.wav|the sentence", "utt", "the sentence"),
        ("utt|voice|v.wav|the sentence|real.wav", "utt", "the sentence"),
        ("utt|the sentence", "utt", "the sentence"),
        ("utt.wav|the sentence|v.wav", "utt", "the sentence"),
    ],
)
def test_seed_tts_reads_lines_as_the_published_scorer(tmp_path: Path, line: str, name: str, said: str) -> None:
    (tmp_path / "meta.lst").write_text(line + "\n")
    (item,) = library.read("seed-tts", tmp_path).items
    assert (item.name, item.speech, item.sound, item.caption) == (name, said, "", f"<S>{said}<E>")


def test_javis_bench_counts_its_rows(tmp_path: Path) -> None:
    layouts.javis_bench(tmp_path)
    layouts.javis_bench(tmp_path, "JavisBench.csv")
    found = library.read("javis-bench", tmp_path)
    assert [item.name for item in found.items] == ["sample_0000", "sample_0001", "sample_0002"]
    assert found.items[2].sound == "A drum is hit, 2"
    assert library.read("javis-bench-mini", tmp_path).name == "javis-bench-mini"


def spoil(path: str, text: str | bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / path).write_bytes(text if isinstance(text, bytes) else text.encode())

    return write


def without(key: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "set1-I" / "00007.json"
        told = json.loads(path.read_text())
        del told[key]
        path.write_text(json.dumps(told))

    return write


LAYOUTS = {
    "verse-bench": layouts.verse_bench, "audiocaps": layouts.audiocaps, "seed-tts": layouts.seed_tts,
    "javis-bench-mini": layouts.javis_bench,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        ("verse-bench", without("speech_prompt"), "00007.json: has no speech_prompt"),
        ("verse-bench", without("audio_prompt"), "00007.json: has no audio_prompt"),
        ("verse-bench", spoil("set1-I/00007.json", "[]"), "00007.json: has no video_prompt"),
        ("verse-bench", spoil("set1-I/00007.json", "{"), "00007.json: not valid JSON"),
        ("verse-bench", lambda folder: (folder / "set1-I" / "00007.jpg").unlink(), "00007.jpg: no such file"),
        ("verse-bench", lambda folder: (folder / "set1").mkdir(), "2 folders for set1"),
        ("verse-bench", lambda folder: (folder / "set3-Ted").rename(folder / "ted"), "0 folders for set3"),
        ("audiocaps", spoil("data.csv", "id,caption\n1,x\n"), "data.csv: has no column name"),
        ("audiocaps", spoil("data.csv", "name,caption\nonly\n"), "data.csv, line 2: not as many cells"),
        ("audiocaps", spoil("data.csv", "name,caption\n"), "no items there"),
        ("audiocaps", spoil("data.csv", "name,caption\na,x\na,y\n"), "'a' is there twice"),
        ("audiocaps", spoil("data.csv", "name,caption\n../a,x\n"), "'../a' is no name of a file"),
        ("audiocaps", spoil("data.csv", b"name,caption\n\xff\xfe,x\n"), "not a CSV in UTF-8"),
        ("audiocaps", lambda folder: (folder / "data.csv").unlink(), "data.csv: no such file"),
        ("seed-tts", spoil("en/meta.lst", "a|b|c|d|e|f\n"), "meta.lst, line 1: not NAME"),
        ("seed-tts", spoil("en/meta.lst", "a|b|c|d\nutt|voice|v.wav|\n"), "meta.lst, line 2: not NAME"),
        ("seed-tts", spoil("en/meta.lst", b"a|\xff\n"), "meta.lst: not a text in UTF-8"),
        ("seed-tts", lambda folder: (folder / "en" / "meta.lst").unlink(), "meta.lst: no such file"),
        ("javis-bench-mini", spoil("JavisBench-mini.csv", "id,prompt\n"), "has no column text"),
        ("javis-bench-mini", spoil("JavisBench-mini.csv", "id,text\n1,a,b\n"), "line 2: not as many cells"),
    ],
)
def test_what_is_not_as_published_is_one_line(
    tmp_path: Path, name: str, damage: Callable[[Path], None], says: str
) -> None:
    folder = LAYOUTS[name](tmp_path / name)
    damage(folder)
    with pytest.raises(OviError) as caught:
        library.read(name, folder)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_benchmark_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no 'vbench'; there are verse-bench, audiocaps"):
        library.read("vbench", tmp_path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_prompts_of_a_benchmark_can_be_sampled(tmp_path: Path, name: str) -> None:
    data, out = LAYOUTS[name](tmp_path / name), tmp_path / "prompts.csv"
    done = CliRunner().invoke(benchmark_cli.app, ["table", name, "--data", str(data), "--out", str(out), "--seed", "5"])
    assert done.exit_code == 0, done.output
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text_prompt"] for row in rows] == [item.caption for item in library.read(name, data).items]
    assert [row["seed"] for row in rows] == [str(5 + at) for at in range(len(rows))]
    assert all(prompt_problems(row["text_prompt"]) == [] for row in rows)
    assert all(bool(row["image_path"]) == (name == "verse-bench") for row in rows)

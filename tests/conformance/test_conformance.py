"""The runner passes what is right, and fails what is wrong, unknown, missing or not looked at."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import golden
from tests.conformance.__main__ import main
from tests.conformance.tolerance import Tolerance, Unfit, measure
from tests.golden import curation, evaluation

ROOT = Path(__file__).parents[2]
Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]


def folder(place: Path, *ids: str, changed: Change | None = None, name: str = "{}") -> Path:
    """Some of the golden cases with their files under other names; `changed` may alter the last one and its tensors."""
    entries = []
    for one in ids:
        entry = json.loads(json.dumps(golden.CASES[one]))
        config = entry.get("config", {})
        tensors = load_file(golden.FOLDER / entry["file"])
        if changed and one == ids[-1]:
            changed(entry, tensors)
        entry["file"] = name.format(entry["file"])
        if "weights" in config:
            config["weights"] = name.format(config["weights"])
        save_file(tensors, place / entry["file"])
        entries.append(entry)
    (place / "some.json").write_text(json.dumps({"cases": entries}))
    return place


def run(place: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    status = main([str(place)])
    return status, capsys.readouterr().out.splitlines()


def test_the_golden_folder_passes() -> None:
    command = [sys.executable, "-m", "tests.conformance", str(golden.FOLDER)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    *lines, last = done.stdout.splitlines()
    assert (done.returncode, last) == (0, f"{len(golden.CASES)} passed, 0 failed"), done.stdout + done.stderr
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in golden.CASES]
    assert all("; tolerance " in line and line.endswith("%") for line in lines)


def test_every_golden_case_has_its_files() -> None:
    for case in golden.CASES.values():
        weights = case.get("config", {}).get("weights", [])
        for file in (case["file"], *([weights] if isinstance(weights, str) else weights)):
            assert (golden.FOLDER / file).is_file()
        if case["file"].endswith(".safetensors"):
            shapes = {name: list(tensor.shape) for name, tensor in load_file(golden.FOLDER / case["file"]).items()}
            assert shapes == {name: about["shape"] for name, about in case["tensors"].items()}


def test_names_of_files_do_not_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder(tmp_path, "fusion_weights", "fusion_i2v", "tower_audio_only", name="other-{}")
    assert run(place, capsys)[1][-1] == "3 passed, 0 failed"


def test_an_unknown_case_fails_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"in/a": torch.ones(1), "out/b": torch.ones(1)}, tmp_path / "a.safetensors")
    case = {"id": "something_new", "file": "a.safetensors", "tolerance": "exact"}
    (tmp_path / "index.json").write_text(json.dumps({"cases": [case]}))
    status, lines = run(tmp_path, capsys)
    assert status == 1
    assert lines[0].split(maxsplit=2) == ["FAIL", "something_new", "unknown kind of case"]
    assert lines[1] == "0 passed, 1 failed"


@pytest.mark.parametrize("case", ["time_sinusoid_256", "rope_head128", "sampler_shift5", "block_fusion", "fusion_slg"])
def test_a_corrupted_vector_fails_whichever_it_is(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = ["fusion_weights"] if "weights" in golden.CASES[case]["config"] else []
    for expected in [name for name in golden.tensors(case) if name.startswith("out/")]:

        def change(_: dict[str, Any], tensors: dict[str, torch.Tensor], name: str = expected) -> None:
            tensors[name].flatten()[0] += 1

        status, lines = run(folder(tmp_path, *needed, case, changed=change), capsys)
        assert (status, lines[-1]) == (1, f"{len(needed)} passed, 1 failed")
        assert f" in {expected}; " in lines[-2]


@pytest.mark.parametrize("stated", [{"rtol": 0, "atol": 0}, {"metric": "relative L2", "max": 0}, "exact"])
def test_no_tolerance_is_kept_by_floats(tmp_path: Path, stated: Any, capsys: pytest.CaptureFixture[str]) -> None:
    place = folder(tmp_path, "mel_16k", changed=lambda entry, _: entry.update(tolerance=stated))
    status, lines = run(place, capsys)
    assert (status, lines[-1]) == (1, "0 passed, 1 failed")
    assert lines[0].startswith("FAIL  mel_16k")
    assert lines[0].endswith("used inf")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda _, tensors: tensors.update({"out/more": torch.ones(1)}), "nothing here computes out/more"),
        (lambda _, tensors: tensors.pop("in/t"), "has no in/t"),
        (lambda _, tensors: tensors.update({"out/emb": torch.ones(3, 3)}), "out/emb is [6, 256], should be [3, 3]"),
        (lambda _, tensors: tensors["out/emb"].fill_(math.nan), "used inf"),
        (lambda entry, _: entry["config"].clear(), "KeyError: 'dim'"),
        (lambda entry, _: entry.update(tolerance="as near as can be"), "'as near as can be' is of no known form"),
    ],
)
def test_what_is_wrong_with_a_case_is_one_line(
    tmp_path: Path, changed: Change, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = run(folder(tmp_path, "time_sinusoid_256", changed=changed), capsys)
    assert (status, len(lines), lines[-1]) == (1, 2, "0 passed, 1 failed")
    assert words in lines[0]


def test_older_names_of_the_vocoder_s_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rename(_: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".parametrizations." in name]:
            older = name.replace("parametrizations.weight.original0", "weight_g")
            tensors[older.replace("parametrizations.weight.original1", "weight_v")] = tensors.pop(name)

    assert run(folder(tmp_path, "bigvgan_tiny", changed=rename), capsys)[1][-1] == "1 passed, 0 failed"


@pytest.mark.parametrize("file", ["../a.safetensors", "/etc/hostname", "absent.npz"])
def test_files_outside_the_folder_are_not_read(tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "a.safetensors").write_bytes((golden.FOLDER / "time_sinusoid_256.safetensors").read_bytes())
    case = {**golden.CASES["time_sinusoid_256"], "file": file}
    (tmp_path / "in" / "index.json").write_text(json.dumps({"cases": [case]}))
    status, lines = run(tmp_path / "in", capsys)
    assert status == 1
    assert lines[0].endswith(f"the folder has no file {file}")


@pytest.mark.parametrize("content", [None, "{}", "{", '{"cases": []}', '{"cases": [{"id": 1}]}'])
def test_a_folder_without_cases(tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    status = main([str(tmp_path)])
    said = capsys.readouterr()
    assert (status, said.out) == (1, "0 passed, 0 failed\n")
    assert said.err.startswith(str(tmp_path))
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "entry"),
    [
        (curation.FOLDER / "mfcc.npz", {"tolerance": "rtol 1e-6 atol 1e-6"}),
        (curation.FOLDER / "syncnet_offset.npz", {"tolerance": "exact offset; rtol 1e-5 on floats"}),
        (curation.FOLDER / "aesthetic_mlp.npz", {"tolerance": "rtol 1e-5 atol 1e-6"}),
        (curation.FOLDER / "raft_small.npz", {"what": "small, gain 1.0", "tolerance": "rtol 1e-3 atol 1e-3*max|flow|"}),
        (evaluation.FOLDER / "wer.npz", {"tolerance": "exact strings and integers; wer atol 1e-12"}),
        (evaluation.FOLDER / "av.npz", {"tolerance": "1e-5"}),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else "",
)
def test_indexes_of_files(
    tmp_path: Path, file: Path, entry: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "index.json").write_text(json.dumps({"files": {file.name: entry}}))
    status, lines = run(tmp_path, capsys)
    assert (status, lines[-1]) == (0, "1 passed, 0 failed"), lines
    with np.load(file) as arrays:
        np.savez(tmp_path / file.name, **arrays, more=np.zeros(3))
    assert run(tmp_path, capsys)[1][0].endswith("nothing here computes more")


@pytest.mark.parametrize(
    ("stated", "got", "share"),
    [
        ({"rtol": 0.1, "atol": 0.0}, [1.05, 2.0], 0.5),
        ({"rtol": 0.0, "atol": 0.1}, [1.05, 2.2], 2.0),
        ({"metric": "relative L2", "max": 0.1}, [1.0, 2 + 0.05 * 5**0.5], 0.5),
        ("rtol 1e-1 atol 1e-1*max|x|", [1.15, 2.0], 0.5),
        ("atol 0.1", [1.0, 2.05], 0.5),
        ("exact", [1.0, 2.0], 0.0),
        ("exact", [1.0, np.nextafter(2, 3)], math.inf),
        ({"rtol": 1, "atol": 1}, [1.0, math.nan], math.inf),
    ],
)
def test_the_share_of_a_tolerance(stated: Any, got: list[float], share: float) -> None:
    assert measure("x", got, [1.0, 2.0], Tolerance.of(stated)).share == pytest.approx(share)


def test_what_is_no_number_is_compared_too() -> None:
    nothing = Tolerance()
    assert measure("x", [math.inf, math.nan], [math.inf, math.nan], nothing).share == 0
    assert measure("x", {"a": [1]}, {"a": [1]}, nothing).share == 0
    found = measure("x", {"a": [1], "c": 1}, {"a": [2], "b": 1}, nothing)
    assert (found.what, found.error, found.share) == ("x a", 3, math.inf)
    assert measure("x", ["a", "b"], np.array(["a", "c"]), nothing).error == 1


@pytest.mark.parametrize("stated", [None, "", "about 1e-3", {}, {"far": 1}, {"metric": "cosine", "max": 1}, 3])
def test_unknown_tolerances(stated: Any) -> None:
    with pytest.raises(Unfit, match="of no known form"):
        Tolerance.of(stated)

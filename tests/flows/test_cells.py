"""The grid of an ablation and the places its cells are made in."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows.cells import FOLDER, Kept, absolute, grid, place
from flows.graph import Graph
from ovi.errors import ConfigError
from tests.flows import toy


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return toy.make(tmp_path / "clone")


def test_every_combination_with_every_seed(root: Path) -> None:
    cells = grid(root / "params.yaml", None, ["ablation.seeds=[3,4]"])
    assert len(cells) == 16
    assert cells[0].name == "combined-scaled-fused-3"
    assert cells[-1].name == "separate-unscaled-alone-4"
    last = cells[-1].settings
    assert (last.text.prompt, last.model.rope_scaling, last.training.fusion.fusion, last.seed) == (
        "separate", False, False, 4,
    )  # fmt: skip


def test_the_users_words_lie_over_the_ablations_and_levels_over_both(root: Path) -> None:
    path = root / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["ablation"] = {"sets": ["sampling.steps=3", "sampling.shift=2.0", "seed=9"], "prompt": ["combined"]}
    path.write_text(yaml.safe_dump(values))
    cells = grid(path, None, ["sampling.steps=7", "ablation.fusion=[true]"])
    assert [cell.name for cell in cells] == ["combined-scaled-fused-0", "combined-unscaled-fused-0"]
    assert (cells[0].settings.sampling.steps, cells[0].settings.sampling.shift) == (7, 2.0)


@pytest.mark.parametrize("word", ["ablation.seeds=[1,1]", "ablation.prompt=[loud]", "ablation.fusion=[]"])
def test_impossible_levels_are_one_line(root: Path, word: str) -> None:
    with pytest.raises(ConfigError, match=r"ablation") as caught:
        grid(root / "params.yaml", None, [word])
    assert "\n" not in str(caught.value)


def test_a_place_is_a_clone_that_shares_code_but_not_results(root: Path) -> None:
    (root / "data").mkdir()
    (cell, *_) = grid(root / "params.yaml", None, [])
    workspace = place(root, cell)
    assert workspace.root == root / FOLDER / "cells" / cell.name
    assert (workspace.root / "code" / "first" / "a.py").read_text() == "pass\n"
    assert not (workspace.root / "data").exists()
    graph = Graph(workspace.root)
    running = graph.begin("first")
    assert running.inputs.params == {"seed": 0}
    assert running.inputs.code.keys() == {"code/first"}
    graph.close()
    assert place(root, cell).root == workspace.root  # again, over what is there


def test_all_cells_write_to_one_tracking_store(root: Path) -> None:
    settings = toy.settings(root, "tracking.uri=sqlite:///out/mlflow.db", "tracking.artifacts=out/files")
    found = absolute(settings, root).tracking
    assert (found.uri, found.artifacts) == (f"sqlite:///{root}/out/mlflow.db", f"{root}/out/files")
    elsewhere = toy.settings(root, "tracking.uri=http://mlflow", "tracking.artifacts=s3://bucket/files")
    assert absolute(elsewhere, root).tracking == elsewhere.tracking


def test_what_is_kept_comes_back_whole_and_takes_no_room(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "data" / "deep").mkdir(parents=True)
    (one / "data" / "deep" / "a.txt").write_text("a")
    (one / "figures.json").write_text("{}")
    kept, outputs = Kept(tmp_path / "kept"), ["data", "figures.json"]
    assert not kept.has("key")
    kept.keep("key", outputs, one)
    assert kept.has("key")
    kept.fetch("key", outputs, other)
    assert (other / "data" / "deep" / "a.txt").read_text() == "a"
    assert (other / "figures.json").samefile(one / "figures.json")

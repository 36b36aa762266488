"""The cells of an ablation: every combination of levels with every seed, each with a place of its own to be made in.

A place is a small clone under out/ablation: the same dvc.yaml, links to the code, its own settings, data and models. So
a cell is made by the stages and commands of the pipeline. What two cells have in common is made once: outputs are kept
under the key of what their stage read, and linked where the key comes again. It does not know how stages are run.
Try it: `python -c "from flows.cells import grid; print(*(cell.name for cell in grid('params.yaml', None, [])))"`.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.workspace import Workspace
from ovi import config, storage
from ovi.config import Settings

FOLDER = "out/ablation"
SETTINGS = {  # factor -> its setting
    "prompt": "text.prompt", "rope_scaling": "model.rope_scaling", "fusion": "training.fusion.fusion", "seed": "seed",
}  # fmt: skip
WORDS = {  # how levels that are true or false are called
    "rope_scaling": {True: "scaled", False: "unscaled"}, "fusion": {True: "fused", False: "alone"},
}  # fmt: skip
DVC = """\
[core]
    analytics = false
    autostage = false
    check_update = false
[cache]
    dir = ../../../cache
"""
OWN = ("data", "models", "out", "dvc.yaml", "dvc.lock", ".dvc", ".dvcignore")  # what a place does not share


@dataclass(frozen=True)
class Cell:
    """One combination: its levels in words, and the settings that make it."""

    levels: dict[str, str]
    settings: Settings

    @property
    def name(self) -> str:
        """Such as combined-scaled-fused-0."""
        return "-".join(self.levels.values())


def grid(params: str | Path, profile: str | None, sets: Sequence[str]) -> list[Cell]:
    """All cells. `ablation.sets` lie under the user's own `sets`, the levels over both. Raises ConfigError."""
    chosen = config.load(params, profile, list(sets)).ablation
    levels: dict[str, Sequence[Any]] = {
        "prompt": chosen.prompt,
        "rope_scaling": chosen.rope_scaling,
        "fusion": chosen.fusion,
        "seed": chosen.seeds,
    }
    cells = []
    for combination in itertools.product(*levels.values()):
        named = dict(zip(levels, combination, strict=True))
        words = [f"{SETTINGS[factor]}={str(level).lower()}" for factor, level in named.items()]
        told = {factor: WORDS.get(factor, {}).get(level, str(level)) for factor, level in named.items()}
        cells.append(Cell(told, config.load(params, profile, [*chosen.sets, *sets, *words])))
    return cells


def place(root: Path, cell: Cell) -> Workspace:
    """The cell's clone below `root`, made or brought up to date."""
    here = root / FOLDER / "cells" / cell.name
    here.mkdir(parents=True, exist_ok=True)
    for entry in sorted(root.iterdir()):
        link = here / entry.name
        if entry.name not in OWN and not link.is_symlink():
            link.symlink_to(entry)
    for name in ("dvc.yaml", ".dvcignore"):
        if (root / name).exists():
            storage.write_bytes(here / name, (root / name).read_bytes())
    storage.write_bytes(here / ".dvc" / "config", DVC.encode())
    workspace = Workspace(here)
    workspace.out.mkdir(exist_ok=True)
    workspace.prepare(absolute(cell.settings, root))
    return workspace


def absolute(settings: Settings, root: Path) -> Settings:
    """With the tracking store of `root`, whatever folder a stage runs in."""
    tracking, slashes = settings.tracking, "sqlite:///"
    uri, artifacts = tracking.uri, tracking.artifacts
    if uri.startswith(slashes):
        uri = f"{slashes}{root / uri.removeprefix(slashes)}"
    if "://" not in artifacts:
        artifacts = str(root / artifacts)
    return settings.model_copy(update={"tracking": tracking.model_copy(update={"uri": uri, "artifacts": artifacts})})


@dataclass(frozen=True)
class Kept:
    """Outputs of stages by the key of what they read; files are shared with the places by hard links."""

    folder: Path

    def has(self, key: str) -> bool:
        return (self.folder / key).is_dir()

    def fetch(self, key: str, outputs: Sequence[str], into: Path) -> None:
        """Link what was kept under `key` into a place that has none of it."""
        for output in outputs:
            _link(self.folder / key / output, into / output)

    def keep(self, key: str, outputs: Sequence[str], at: Path) -> None:
        with storage.atomic_folder(self.folder / key) as folder:
            for output in outputs:
                _link(at / output, folder / output)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link)
    else:
        os.link(source, target)

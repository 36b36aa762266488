"""Checkpoints that are whole or not there: `<stage>/step-000100/` holds safetensors, history.json and checkpoint.json.

A checkpoint is written under a hidden name, synced, described with a sha256 a file (and one of the description), and
only then renamed. What is read back is the newest that verifies and was written with the same key (settings, data,
parents); nothing in it depends on the number of ranks. There is no random state to save: every draw is keyed by the
sample and its visit, so that the number of the next batch, which is the step unless batches were skipped, is all there
is to know of the loader.
Try it: `python -m json.tool checkpoints/fusion/step-000500/checkpoint.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovi import storage
from ovi.errors import OviError
from ovi.training.engine import MOMENTS, State

FORMAT = 2
DESCRIPTION = "checkpoint.json"
EMA = "ema.safetensors"


@dataclass
class Checkpoint:
    """After `step` optimiser steps; `history` is what the loop has to remember besides the weights (plain JSON)."""

    step: int
    state: State
    history: dict[str, Any]
    next_batch: int


class Checkpoints:
    """The checkpoints of one stage. `key` names what they depend on, as {"settings": digest, "data": digest, ...}."""

    def __init__(self, folder: Path, key: dict[str, str], keep: int, note: Callable[[str], None]) -> None:
        self._folder, self._key, self._keep, self._note = folder, key, keep, note

    def save(self, checkpoint: Checkpoint) -> Path:
        """Commit a checkpoint, then drop those no longer needed. Raises OviError when the disk is full."""
        path = self._folder / f"step-{checkpoint.step:06d}"
        with storage.atomic_folder(path) as temporary:
            self._write(temporary, checkpoint)
            _sync(temporary)
        _sync(self._folder)
        self._prune()
        return path

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole and fits; says why others were passed over."""
        for leftover in self._folder.glob(".*"):  # of a process that was killed while writing or removing
            shutil.rmtree(leftover, ignore_errors=True)
        foreign = []
        for path in reversed(self._all()):
            fault = self._fault(path)
            if fault:
                self._note(f"{path} is damaged ({fault}) and not used")
                continue
            description = storage.read_json(path / DESCRIPTION)
            if description["key"] == self._key:
                return self._read(path, description)
            foreign.append((path, description["key"]))
        if foreign:
            path, theirs = foreign[0]
            changed = " and ".join(part for part in sorted(self._key) if self._key[part] != theirs.get(part))
            self._note(f"{path} was written with other {changed}: starting anew; the first new checkpoint replaces it")
        return None

    def _write(self, folder: Path, checkpoint: Checkpoint) -> None:
        moments = checkpoint.state.moments
        try:
            save_file(_sorted(checkpoint.state.weights), folder / "weights.safetensors")
            for kind in MOMENTS:
                save_file(_sorted(moments[kind]), folder / f"{kind}.safetensors")
            if checkpoint.state.ema:
                save_file(_sorted(checkpoint.state.ema), folder / EMA)
        except SafetensorError as error:  # safetensors wraps the operating system's error in its own
            reason = " ".join(str(error).split())
            raise OviError(
                f"{folder.parent}: cannot write the checkpoint ({reason}); free some disk, run again"
            ) from None
        storage.write_json(folder / "history.json", checkpoint.history)
        files = {path.name: {"sha256": storage.sha256(path), "bytes": path.stat().st_size} for path in folder.iterdir()}
        description = {
            "format": FORMAT,
            "step": checkpoint.step,
            "next_batch": checkpoint.next_batch,
            "adam_step": checkpoint.state.step,
            "key": self._key,
            "files": files,
        }
        storage.write_json(folder / DESCRIPTION, {**description, "sha256": _digest(description)})

    def _read(self, path: Path, description: dict[str, Any]) -> Checkpoint:
        moments = {kind: load_file(path / f"{kind}.safetensors") for kind in MOMENTS}
        ema = load_file(path / EMA) if EMA in description["files"] else {}
        state = State(description["adam_step"], load_file(path / "weights.safetensors"), moments, ema)
        history = storage.read_json(path / "history.json")
        return Checkpoint(description["step"], state, history, description["next_batch"])

    def _fault(self, path: Path) -> str | None:
        """What is wrong with a checkpoint's files, None when all is well."""
        try:
            description = storage.read_json(path / DESCRIPTION)
            if description["format"] != FORMAT:
                return f"format {description['format']}, this version reads {FORMAT}"
            if description.pop("sha256") != _digest(description):
                return f"{DESCRIPTION} differs from its sha256"
            for name, facts in sorted(description["files"].items()):
                file = path / name
                if not file.is_file():
                    return f"{name} is missing"
                if file.stat().st_size != facts["bytes"] or storage.sha256(file) != facts["sha256"]:
                    return f"{name} differs from its sha256"
        except (OviError, KeyError, TypeError, AttributeError):
            return f"{DESCRIPTION} is missing or unreadable"
        return None

    def _prune(self) -> None:
        """Keep the newest `keep` of our key; those of another key belong to a training that is over."""
        ours = [path for path in self._all() if self._key_of(path) == self._key]
        for path in set(self._all()) - set(ours[-self._keep :]):
            doomed = path.with_name(f".{path.name}.old")
            path.rename(doomed)  # first out of sight, so that a kill leaves no half of a checkpoint
            shutil.rmtree(doomed, ignore_errors=True)

    def _key_of(self, path: Path) -> Any:
        try:
            return storage.read_json(path / DESCRIPTION)["key"]
        except (OviError, KeyError, TypeError):
            return None

    def _all(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"))


def _digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _sorted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name].contiguous() for name in sorted(tensors)}


def _sync(folder: Path) -> None:
    """Push a folder and the files right in it to the disk."""
    for path in [*(path for path in folder.iterdir() if path.is_file()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

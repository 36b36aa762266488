"""One checkpoint: a folder of safetensors, history.json and a checkpoint.json that names every file with its sha256.

Nothing in it depends on the number of ranks or how they share the work. Frozen weights are not in it: they are in the
model folder the stage started from, once, whose digest is part of the key. There is no random state to save: every draw
is keyed by the sample and its visit, so that the number of the next batch, which is the step unless batches were
skipped, is all there is to know of the loader. Which checkpoints there are and which is taken is store.py's business.
Try it: `python -m json.tool checkpoints/fusion/step-000500/checkpoint.json`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovi import storage
from ovi.errors import OviError
from ovi.training.state import MOMENTS, State

FORMAT = 2
DESCRIPTION = "checkpoint.json"
EMA = "ema.safetensors"
UNREADABLE = f"{DESCRIPTION} is missing or unreadable"


@dataclass
class Checkpoint:
    """After `step` optimiser steps; `history` is what the loop has to remember besides the weights (plain JSON)."""

    step: int
    state: State
    history: dict[str, Any]
    next_batch: int
    score: float | None = None  # held-out loss where it was measured; the least of them is worth keeping


def write(folder: Path, checkpoint: Checkpoint, key: dict[str, str]) -> None:
    """Raises OviError when the disk is full."""
    moments = checkpoint.state.moments
    try:
        save_file(_sorted(checkpoint.state.weights), folder / "weights.safetensors")
        for kind in MOMENTS:
            save_file(_sorted(moments[kind]), folder / f"{kind}.safetensors")
        if checkpoint.state.ema:
            save_file(_sorted(checkpoint.state.ema), folder / EMA)
    except SafetensorError as error:  # safetensors wraps the operating system's error in its own
        reason = " ".join(str(error).split())
        raise OviError(f"{folder.parent}: cannot write the checkpoint ({reason}); free some disk, run again") from None
    storage.write_json(folder / "history.json", checkpoint.history)
    files = {path.name: {"sha256": storage.sha256(path), "bytes": path.stat().st_size} for path in folder.iterdir()}
    description = {
        "format": FORMAT,
        "step": checkpoint.step,
        "next_batch": checkpoint.next_batch,
        "adam_step": checkpoint.state.step,
        "score": checkpoint.score,
        "key": key,
        "files": files,
    }
    storage.write_json(folder / DESCRIPTION, {**description, "sha256": _digest(description)})


def read(folder: Path) -> Checkpoint:
    """Of a folder without a fault."""
    about = storage.read_json(folder / DESCRIPTION)
    moments = {kind: load_file(folder / f"{kind}.safetensors") for kind in MOMENTS}
    ema = load_file(folder / EMA) if EMA in about["files"] else {}
    state = State(about["adam_step"], load_file(folder / "weights.safetensors"), moments, ema)
    history = storage.read_json(folder / "history.json")
    return Checkpoint(about["step"], state, history, about["next_batch"], about.get("score"))


def describe(folder: str | Path) -> dict[str, Any] | str:
    """What a checkpoint's description says, or what is wrong with it; a folder or s3://.

    Raises OviError when the store does not answer, which says nothing about the checkpoint.
    """
    address = f"{folder}/{DESCRIPTION}"
    if not storage.exists(address):
        return UNREADABLE
    try:
        about = json.loads(storage.read_bytes(address))
        if about["format"] != FORMAT:
            return f"format {about['format']}, this version reads {FORMAT}"
        if about["sha256"] != _digest({name: value for name, value in about.items() if name != "sha256"}):
            return f"{DESCRIPTION} differs from its sha256"
    except (ValueError, KeyError, TypeError, AttributeError):
        return UNREADABLE
    return about


def fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, None when all is well."""
    about = describe(folder)
    if isinstance(about, str):
        return about
    return next((f"{name} {what}" for name in sorted(about["files"]) if (what := wrong(folder, about, name))), None)


def wrong(folder: Path, about: dict[str, Any], name: str) -> str | None:
    """What is wrong with one of the files that a sound description names."""
    file, facts = folder / name, about["files"][name]
    if not file.is_file():
        return "is missing"
    if file.stat().st_size != facts["bytes"] or storage.sha256(file) != facts["sha256"]:
        return "differs from its sha256"
    return None


def _digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _sorted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name].contiguous() for name in sorted(tensors)}

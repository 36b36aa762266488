"""Figures from outputs of networks that are not here: the published ones, with intervals, and what fails by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ovi.config import Outputs
from ovi.errors import OviError
from ovi.evaluation import given
from ovi.evaluation.measured import How
from ovi.evaluation.take import Made

EMPTY = np.zeros(0)
TAKES = [Made(f"clip_{at}", f"caption {at}", "", EMPTY, EMPTY) for at in range(6)]


def logits(*classes: int) -> np.ndarray:
    return np.eye(21, dtype=np.float32)[list(classes)]


def outputs(folder: Path, **tensors: np.ndarray) -> Path:
    save_file(tensors, folder / "made.safetensors")
    return folder / "made.safetensors"


def test_desync_is_the_mean_magnitude_and_the_sign_is_kept_apart(tmp_path: Path) -> None:
    made = {f"clip_{at}": logits(10 + at, 10 - at) for at in range(5)}  # 0.2 s a class, one early and one late
    found = Outputs(synchformer=str(outputs(tmp_path, **made)))
    desync, javis = given.give(TAKES, found, How(0, 200))
    assert desync.score.value == pytest.approx(np.mean([0.0, 0.2, 0.4, 0.6, 0.8]))
    assert (desync.score.n, desync.score.n_failed) == (5, 1)
    assert desync.failed == {"clip_5": "made.safetensors has nothing of this clip"}
    assert desync.interval is not None
    assert len(desync.score.identity.weights) == 64  # the file's own hash: other outputs, another identity
    assert desync.comparable
    assert given.offsets(found)["clip_4"] == pytest.approx(0)  # early and late cancel, as Verse-Bench has it
    assert javis.score.reason == ("not applicable: its network's outputs are not given (evaluation.outputs.imagebind)")
    assert given.offsets(Outputs()) == {}


def test_javis_score_looks_at_the_least_alike(tmp_path: Path) -> None:
    made = {f"clip_{at}": np.tile(np.array([0.1, 0.2, 0.8, 0.9, 1.0], np.float32), (3, 1)) for at in range(6)}
    _, javis = given.give(TAKES, Outputs(imagebind=str(outputs(tmp_path, **made))), How(0, 50))
    assert javis.score.value == pytest.approx(0.15)
    assert javis.no_interval.startswith("all clips have one value")


def test_what_does_not_fit_is_one_line(tmp_path: Path) -> None:
    path = outputs(tmp_path, clip_0=np.zeros((2, 20), np.float32), clip_1=logits(3, 4))
    desync, _ = given.give(TAKES[:2], Outputs(synchformer=str(path)), How(0, 50))
    assert desync.failed["clip_0"] == "logits of 21 offsets are expected, [2, 21], not [2, 20]"
    path.write_bytes(b"no tensors")
    with pytest.raises(OviError, match=r"made\.safetensors: not a safetensors file"):
        given.give(TAKES, Outputs(imagebind=str(path)), How(0, 50))
    with pytest.raises(OviError, match=r"none: no such file"):
        given.give(TAKES, Outputs(imagebind=str(tmp_path / "none")), How(0, 50))

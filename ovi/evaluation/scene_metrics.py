"""What single clips of a scene have of sync/..., as metrics: with an identity, so that two runs can be compared.

The identity holds all that changes the numbers: the estimator with its constants, the scene, how many clips there are
and their rates. It judges nothing itself.
Try it: `ovi evaluate`, then `ovi compare out/before out/evaluation`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ovi.evaluation import sync
from ovi.evaluation.evidence import Mean
from ovi.evaluation.intervals import Interval
from ovi.evaluation.measured import Measured
from ovi.evaluation.metric import Identity, Score
from ovi.evaluation.statistics import wilson
from ovi.evaluation.sync import SceneSync
from ovi.perception import onsets

Z = 1.96  # half of a 95 % interval in standard errors
_CONSTANTS = (
    onsets.STEP, onsets.SMOOTH, onsets.NEAR_ZERO, onsets.STEADY, onsets.WINDOW, onsets.BANDS, onsets.SHORT_SIDE,
    sorted(onsets.PAIRS.items()),
)  # fmt: skip
ESTIMATOR = f"onset estimator 1, constants {hashlib.sha256(repr(_CONSTANTS).encode()).hexdigest()[:8]}"


def metrics(judged: SceneSync, clips: Sequence[str], fps: int, rate: int) -> list[Measured]:
    """sync/<scene>/auc and in_sync as metrics, which have an identity and can be compared; `clips`: their names."""
    generated, n = judged.generated, len(clips)
    about = f"scene {judged.scene}, {n} clips at {fps} fps and {rate} Hz"
    bias = f"{sync.CALIBRATION_MS.get(judged.scene, 0.0):g} ms taken off"
    found = [
        ("auc", "share of other sounds that the own beats", about, generated.wins(),
         (judged.separation.low, judged.separation.high), "bca"),
        ("in_sync", f"share of offsets in {sync.IN_SYNC_MS} ms", f"{about}; {bias}", generated.in_sync(),
         wilson(float(generated.in_sync().mean()), n), "wilson"),
    ]  # fmt: skip
    return [
        Measured(
            f"sync/{judged.scene}/{name}",
            Score(Identity(metric, ESTIMATOR, protocol=protocol), float(values.mean()), n, 0), Mean.of(values),
            tuple(clips), interval=Interval(low, high, (high - low) / 2 / Z, method),
        )
        for name, metric, protocol, values, (low, high), method in found
    ]  # fmt: skip

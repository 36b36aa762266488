"""What a stage computes does not depend on the threads that its machine or its environment would give it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FIT = """
import hashlib
import numpy as np
from ovi import threads
from ovi.config import Training
from ovi.models.linear_codec import LinearVideoCodec

threads.use(Training.model_construct(ranks=1, threads=2))
rng = np.random.default_rng(0)
parts = rng.random((8, 32, 32, 3))
clips = [np.einsum("tk,khwc->thwc", rng.random((61, 8)), 60 * parts).clip(0, 255).astype(np.uint8) for _ in range(16)]
codec = LinearVideoCodec.fit(clips, 40, (32, 32))
print(hashlib.sha256(codec.basis.numpy().tobytes()).hexdigest())
"""


def fitted(**environment: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")} | environment
    return subprocess.run(
        [sys.executable, "-c", FIT], env=env, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_a_codec_is_the_same_whatever_the_environment_says() -> None:
    assert fitted(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1") == fitted(OMP_NUM_THREADS="3") == fitted()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux pins processes to processors")
def test_a_codec_is_the_same_on_one_processor() -> None:
    here = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(here)})
        alone = fitted()
    finally:
        os.sched_setaffinity(0, here)
    assert alone == fitted()

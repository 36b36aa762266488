"""All metrics of a set of generated clips: those of networks, and those that need none.

It does not know how the clips were made, nor where the figures go.
Try it: `pytest tests/evaluation/test_quality.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ovi.evaluation import levels, listening, measured, scores, watching
from ovi.evaluation.listening import Heard
from ovi.evaluation.measured import How, Measured, Take, each
from ovi.evaluation.networks import Networks
from ovi.perception import motion


def measure(takes: Sequence[Take], heard: Heard, networks: Networks, how: How) -> list[Measured]:
    """Every metric by the catalogue's names, the ones of networks first."""
    fps, rate = heard.fps, heard.rate
    plain: dict[str, Callable[[Take], float]] = {
        "av_align": lambda take: watching.av_align(take.frames, take.audio, fps, rate),
        "temporal_flickering": lambda take: scores.steadiness(take.frames),
        "motion_smoothness": lambda take: watching.smoothness(take.frames),
        "motion": lambda take: motion.motion(take.frames, fps).flow,
        "loudness_lufs": lambda take: levels.loudness(take.audio, rate),
        "silence_share": lambda take: levels.silence(take.audio, rate),
        "clipping_share": lambda take: levels.clipping(take.audio),
        "bandwidth_hz": lambda take: levels.bandwidth(take.audio, rate),
    }
    found = listening.listen(takes, heard, networks, how)
    found += [measured.mean(name, takes, *each(takes, compute), how) for name, compute in plain.items()]
    return found

"""All metrics of a set of generated clips: those of networks, and those that need none.

It does not know how the clips were made, nor where the figures go.
Try it: `pytest tests/evaluation/test_quality.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ovi.config import Outputs
from ovi.evaluation import given, levels, listening, looking, measured, scores, watching
from ovi.evaluation.listening import Real
from ovi.evaluation.measured import How, Measured, each
from ovi.evaluation.networks import Networks
from ovi.evaluation.take import Take
from ovi.perception import motion

NONE = Outputs()
SEEN: dict[str, Callable[[Take], float]] = {
    "av_align": lambda take: watching.av_align(take.frames, take.audio, take.fps, take.rate),
    "temporal_flickering": lambda take: scores.steadiness(take.frames),
    "motion_smoothness": lambda take: watching.smoothness(take.frames),
    "motion": lambda take: motion.motion(take.frames, take.fps).flow,
}
HEARD: dict[str, Callable[[Take], float]] = {
    "loudness_lufs": lambda take: levels.loudness(take.audio, take.rate),
    "silence_share": lambda take: levels.silence(take.audio, take.rate),
    "clipping_share": lambda take: levels.clipping(take.audio),
    "bandwidth_hz": lambda take: levels.bandwidth(take.audio, take.rate),
}


def measure(
    takes: Sequence[Take], reference: Mapping[str, Real], networks: Networks, how: How, outputs: Outputs = NONE,
    pictures: bool = True,
) -> list[Measured]:  # fmt: skip
    """Every metric by the catalogue's names, the ones of networks first; without `pictures` those of sound alone.

    `reference`: the real clips' sounds by name; partners of takes are among them.
    """
    found = listening.listen(takes, reference, networks, how, pictures)
    if pictures:
        found += looking.look(takes, networks, how) + given.give(takes, outputs, how)
    plain = SEEN | HEARD if pictures else HEARD
    return found + [measured.mean(name, takes, *each(takes, compute), how) for name, compute in plain.items()]

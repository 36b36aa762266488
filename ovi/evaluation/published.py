"""Figures as the published scorers compute them, each with what is wrong with it.

They are there to be compared with published numbers, and for nothing else. The defects are kept on purpose; all else of
evaluation has none of them. Where a scorer's network is another than ours, that is said too. They have no intervals.
Try it: `ovi benchmark score verse-bench --data verse_bench --clips out/clips --published`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ovi.errors import OviError
from ovi.evaluation import scores, watching, words
from ovi.evaluation.listening import Real, centred
from ovi.evaluation.measured import each
from ovi.evaluation.networks import NOT_COMPARABLE, Networks
from ovi.evaluation.results import NOT_APPLICABLE
from ovi.evaluation.take import Take
from ovi.media.audio import resample
from ovi.perception import asr, clap, panns

FLOOR = 1e-6  # that audioldm_eval adds to probabilities
LOST_MS = 14 * 40  # offsets from which Verse-Bench leaves a clip out of LSE-C
REACH = 3  # frames between peaks that JavisBench's text calls aligned
ABSENT = -999  # what Verse-Bench writes for a figure that it has not
NO_NETWORK = ("AV-A", "av_align_text")  # figures in which none of ours takes part
NO_CLIP = f"{NOT_APPLICABLE}no clip of the benchmark is scored by it"
BOUNDS = {  # of Verse-Bench's figures: (best, worst)
    "AS": (1.0, 0.0), "ID": (1.0, 0.0), "FD": (0.0, 3.0), "KL": (0.0, 4.0), "CS": (1.0, 0.0), "CE": (10.0, 1.0),
    "CU": (10.0, 1.0), "PC": (1.0, 10.0), "PQ": (10.0, 1.0), "WER": (0.0, 1.0), "LSE-C": (10.0, 0.0),
    "AV-A": (0.0, 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A figure in the published scorer's way, of n clips; None with the reason."""

    name: str
    value: float | None
    n: int
    defect: str
    reason: str = ""


def compute(
    benchmark: str,
    takes: Sequence[Take],
    reference: Mapping[str, Real],
    networks: Networks,
    offsets: Mapping[str, float],
) -> list[Published]:
    """What there is of the published scorer of a benchmark, by its name among the readers.

    `offsets`: Synchformer's in s by clip, positive = sound late; empty where they are not given.
    """
    found = _scored(benchmark, takes, reference, networks, offsets)
    if not networks.by_formula:
        return found
    return [one if one.name in NO_NETWORK else replace(one, defect=f"{NOT_COMPARABLE}; {one.defect}") for one in found]


def overall(figures: Mapping[str, float | None], as_published: bool = False) -> float | None:
    """Verse-Bench's score of its twelve figures, 0 to 1. None where one is missing; `as_published` that counts as -999,
    which of a figure where less is better is the best there is.
    """
    if not as_published and any(figures.get(name) is None for name in BOUNDS):
        return None
    share = {}
    for name, (best, worst) in BOUNDS.items():
        value = figures.get(name)
        share[name] = min(1.0, max(0.0, ((ABSENT if value is None else value) - worst) / (best - worst)))
    joint = 2 * share["CS"] * share["AV-A"] / (share["CS"] + share["AV-A"]) if share["CS"] + share["AV-A"] else 0.0
    video = (share["AS"] + share["ID"]) / 2
    audio = sum(share[name] for name in ("FD", "KL", "CS", "CE", "CU", "PC", "PQ")) / 7
    return 0.5 * joint + 0.2 * video + 0.2 * audio + 0.1 * (share["WER"] + share["LSE-C"]) / 2


def _scored(
    benchmark: str,
    takes: Sequence[Take],
    reference: Mapping[str, Real],
    networks: Networks,
    offsets: Mapping[str, float],
) -> list[Published]:
    if benchmark == "verse-bench":
        return _verse_bench(takes, reference, networks, offsets)
    if benchmark == "audiocaps":
        return _audiocaps(takes, reference, networks)
    if benchmark.startswith("javis-bench"):
        return [_javis(takes)]
    return []  # Seed-TTS: wer_seed_tts is the published figure, once no file is missing


def _verse_bench(
    takes: Sequence[Take], reference: Mapping[str, Real], networks: Networks, offsets: Mapping[str, float]
) -> list[Published]:
    unknown = None if offsets else f"{NOT_APPLICABLE}Synchformer's outputs are not given"
    sounding = [take for take in takes if take.sound and take.name in offsets]
    paired = [take for take in takes if take.partner in reference]
    spoken, told = [take for take in takes if take.speech], [take for take in takes if take.sound]
    found = [
        _of("FD", "2 - 2 cos of the CLAP points of a pair, no Fréchet distance; by another CLAP than published",
            networks.why_not("clap"), paired, lambda: _apart(paired, reference, networks)),
        _of("KL", "of PANNs' softmax; the published one is of another network's",
            networks.why_not("panns"), paired, lambda: _divergences(paired, reference, networks, "softmax", 0.0)),
        _of("WER", "marks are parts of words: 'Hello, world!' heard as 'hello world' is wrong twice",
            networks.why_not("whisper"), spoken, lambda: _rates(spoken, networks)),
        _of("LSE-C", f"clips that are {LOST_MS} ms off or more are left out",
            networks.why_not("syncnet"), spoken, lambda: _confidences(spoken, networks)),
        _of("AV-A", "offsets keep their sign: early and late clips cancel, and below zero counts as perfect",
            unknown, sounding, lambda: [offsets[take.name] for take in sounding]),
        _of("CS", "by another CLAP than published",
            networks.why_not("clap"), told, lambda: _alike(told, networks)),
    ]  # fmt: skip
    values = {one.name: one.value for one in found}
    lacking = ", ".join(name for name in BOUNDS if values.get(name) is None)
    defect = f"figures that are missing count as {ABSENT}, which where less is better is the best: {lacking}"
    return [*found, Published("overall", overall(values, as_published=True), len(takes), defect)]


def _audiocaps(takes: Sequence[Take], reference: Mapping[str, Real], networks: Networks) -> list[Published]:
    paired, absent = [take for take in takes if take.partner in reference], networks.why_not("panns")
    return [
        _of("kl_sigmoid", "the share of classes that are not heard is left out: no divergence, and it may be negative",
            absent, paired, lambda: _divergences(paired, reference, networks, "sigmoid", 0.0)),
        _of("kl_floor", f"{FLOOR:g} is added inside the logarithm, which makes it smaller",
            absent, paired, lambda: _divergences(paired, reference, networks, "softmax", FLOOR)),
    ]  # fmt: skip


def _javis(takes: Sequence[Take]) -> Published:
    def aligned(take: Take) -> float:
        peaks = watching.peaks(take.frames, take.audio, take.fps, take.rate)
        return scores.av_align_both_ways(*peaks, take.fps, REACH)

    defect = f"by its text, both ways and within {REACH} frames; its code looks one way and within less than one"
    return _of("av_align_text", defect, None, takes, lambda: list(each(takes, aligned)[0].values()))


def _of(
    name: str, defect: str, absent: str | None, takes: Sequence[Take], compute: Callable[[], list[float]]
) -> Published:
    """The mean, over what could be computed: the published scorers leave the rest out."""
    if absent or not takes:
        return Published(name, None, 0, defect, absent or NO_CLIP)
    values = compute()
    if not values:
        return Published(name, None, 0, defect, "it could be computed of no clip")
    return Published(name, float(np.mean(values)), len(values), defect)


def _apart(takes: Sequence[Take], reference: Mapping[str, Real], networks: Networks) -> list[float]:
    network = networks.get("clap").network

    def apart(take: Take) -> float:
        pair = ((take.audio, take.rate), reference[take.partner])
        points = clap.hear(network, [centred(*sound, clap.RATE) for sound in pair])
        return float(2 - 2 * scores.cosines(points[0], points[1]))

    return list(each(takes, apart)[0].values())


def _alike(takes: Sequence[Take], networks: Networks) -> list[float]:
    network = networks.get("clap").network

    def alike(take: Take) -> float:
        heard = clap.hear(network, [centred(take.audio, take.rate, clap.RATE)])[0]
        return float(scores.cosines(heard, clap.read(network, [take.sound])[0]))

    return list(each(takes, alike)[0].values())


def _divergences(
    takes: Sequence[Take], reference: Mapping[str, Real], networks: Networks, of: scores.Divergence, floor: float
) -> list[float]:
    network = networks.get("panns").network

    def apart(take: Take) -> float:
        pair = ((take.audio, take.rate), reference[take.partner])
        mine, theirs = (panns.describe(network, [centred(*sound, panns.RATE)])[1] for sound in pair)
        return float(scores.divergence(mine, theirs, of, floor)[0])

    return list(each(takes, apart)[0].values())


def _rates(takes: Sequence[Take], networks: Networks) -> list[float]:
    network = networks.get("whisper").network

    def rate(take: Take) -> float:
        said = asr.hear(network, [resample(take.audio, take.rate, asr.RATE)])[0]
        found = words.errors(words.verse_bench(take.speech), words.verse_bench(said)).rate
        if found is None:
            raise OviError("nothing is written")
        return found

    return list(each(takes, rate)[0].values())


def _confidences(takes: Sequence[Take], networks: Networks) -> list[float]:
    network = networks.get("syncnet").network
    seen, _ = each(takes, lambda take: watching.lips(network, take.frames, take.audio, take.fps, take.rate))
    return [one.confidence for one in seen.values() if abs(one.offset_ms) < LOST_MS]

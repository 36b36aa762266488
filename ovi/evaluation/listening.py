"""The metrics that networks hear: Fréchet distances, inception score, divergence, CLAP, word error rates, lip sync.

Each is null with its reason where its network is not configured. It does not know how clips are made or shown.
Try it: `ovi evaluate --set evaluation.formula_networks=true`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ovi.errors import OviError
from ovi.evaluation import measured, scores, watching, words
from ovi.evaluation.evidence import Frechet, Inception, Mean
from ovi.evaluation.measured import How, Measured, absent, each
from ovi.evaluation.networks import Networks
from ovi.evaluation.results import NOT_APPLICABLE
from ovi.evaluation.take import Sound, Take
from ovi.media.audio import resample
from ovi.perception import asr, clap, panns, vggish

Real = tuple[Sound, int]  # mono, and its rate
Value = TypeVar("Value")
PANNS = ("fd_panns_cnn14_16k", "is_panns_cnn14_16k", "kl_panns_cnn14_16k")
WER = ("wer_seed_tts", "wer_f5_tts", "wer_whisper")
LIPS = ("lse_c", "lse_d")
NO_CLIPS = f"{NOT_APPLICABLE}there are no clips"
NO_SPEECH = f"{NOT_APPLICABLE}no prompt asks for speech (<S>...<E>)"
NO_SOUND = f"{NOT_APPLICABLE}no prompt says what is heard"
NO_REFERENCE = f"{NOT_APPLICABLE}there are no real clips to compare with"


def listen(
    takes: Sequence[Take], reference: Mapping[str, Real], networks: Networks, how: How, pictures: bool = True
) -> list[Measured]:
    """All of them, in the catalogue's names, without `pictures` but lip sync. Partners of takes are in `reference`."""
    spoken = [take for take in takes if take.speech]
    sounding = [take for take in takes if take.sound]
    paired = [take for take in takes if take.partner]
    found: list[Measured] = []
    of_networks = [
        ("panns", PANNS, takes, NO_CLIPS, lambda: _panns(takes, reference, networks, how)),
        ("vggish", ("fd_vggish",), paired, NO_REFERENCE, lambda: _vggish(paired, reference, networks, how)),
        ("clap", ("clap_laion_htsat",), sounding, NO_SOUND, lambda: _clap(sounding, networks, how)),
        ("whisper", WER, spoken, NO_SPEECH, lambda: _words(spoken, networks, how)),
        ("syncnet", LIPS, spoken, NO_SPEECH, lambda: _lips(spoken, networks, how)),
    ]
    for name, figures, counted, none, compute in of_networks[: None if pictures else -1]:
        reason = networks.why_not(name) or (None if takes else NO_CLIPS) or (None if counted else none)
        found += [absent(figure, reason) for figure in figures] if reason else compute()
    return found


def centred(audio: Sound, rate: int, to: int) -> Sound:
    """As the catalogue says (CENTRED): less its mean, then at the network's rate."""
    return resample(audio - audio.mean(dtype=np.float32), rate, to)


def _panns(takes: Sequence[Take], reference: Mapping[str, Real], networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("panns")

    def describe(real: Real) -> tuple[Sound, Sound]:
        features, logits = panns.describe(opened.network, [centred(*real, panns.RATE)])
        return features, logits[0]

    made, failed = each(takes, lambda take: describe((take.audio, take.rate)))
    logits = np.stack([rows for _, rows in made.values()]) if made else np.zeros((0, panns.CLASSES), np.float32)
    inception = measured.of(PANNS[1], takes, list(made), Inception(logits), failed, how, opened.weights)
    partners = {take.name: take.partner for take in takes if take.partner}
    if not partners:
        return [absent(PANNS[0], NO_REFERENCE), inception, absent(PANNS[2], NO_REFERENCE)]
    real, features = _real(reference, describe), {name: made[name][0] for name in partners if name in made}
    distance = _distance(features, [one for one, _ in real.values()])
    failed = {name: reason for name, reason in failed.items() if name in partners}
    alone = {name: f"its real clip {partners[name]} is missing" for name in features if partners[name] not in real}
    apart = {
        name: float(scores.divergence(made[name][1][None], real[partners[name]][1][None])[0])
        for name in features if name not in alone
    }  # fmt: skip
    return [
        measured.of(PANNS[0], takes, list(features), distance, failed, how, opened.weights),
        inception,
        measured.mean(PANNS[2], takes, apart, failed | alone, how, opened.weights),
    ]


def _vggish(takes: Sequence[Take], reference: Mapping[str, Real], networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("vggish")

    def describe(real: Real) -> Sound:
        return vggish.describe(opened.network, centred(*real, vggish.RATE))

    made, failed = each(takes, lambda take: describe((take.audio, take.rate)))
    distance = _distance(made, list(_real(reference, describe).values()))
    return [measured.of("fd_vggish", takes, list(made), distance, failed, how, opened.weights)]


def _clap(takes: Sequence[Take], networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("clap")
    texts = list(dict.fromkeys(take.sound for take in takes))
    told = dict(zip(texts, clap.read(opened.network, texts), strict=True))

    def alike(take: Take) -> float:
        point = clap.hear(opened.network, [centred(take.audio, take.rate, clap.RATE)])[0]
        return float(scores.cosines(point, told[take.sound]))

    return [measured.mean("clap_laion_htsat", takes, *each(takes, alike), how, opened.weights)]


def _words(takes: Sequence[Take], networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("whisper")
    sounds, silent = each(takes, lambda take: resample(take.audio, take.rate, asr.RATE))
    said = dict(zip(sounds, asr.hear(opened.network, list(sounds.values())), strict=True))
    rules = [words.seed_tts, words.f5_tts]
    found = []
    for name, normalise in zip(WER, [*rules, _whisper_rules(opened.network)], strict=True):
        if normalise is None:
            found.append(absent(name, "Whisper's folder has no normalizer.json, which holds its spellings"))
            continue
        compared = {
            take.name: words.errors(normalise(take.speech), normalise(said[take.name]))
            for take in takes if take.name in said
        }  # fmt: skip
        counted = {clip: one for clip, one in compared.items() if one.written}
        unwritten = {clip: "no written word is left by the rules for text" for clip in compared if clip not in counted}
        failed = silent | unwritten
        errors, written = (
            np.array([getattr(one, what) for one in counted.values()], np.float64) for what in ("errors", "written")
        )
        whole = name == "wer_whisper"  # all errors over all words; the others are means of the utterances' rates
        evidence = Mean(errors, written) if whole else Mean.of(errors / written)
        found.append(measured.of(name, takes, list(counted), evidence, failed, how, opened.weights))
    return found


def _whisper_rules(recogniser: asr.Recogniser) -> words.Normaliser | None:
    return None if recogniser.spellings is None else words.whisper(recogniser.spellings)


def _lips(takes: Sequence[Take], networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("syncnet")
    seen, failed = each(takes, lambda take: watching.lips(opened.network, take.frames, take.audio, take.fps, take.rate))
    found = []
    for name, what in zip(LIPS, ("confidence", "distance"), strict=True):
        values = {clip: getattr(one, what) for clip, one in seen.items()}
        found.append(measured.mean(name, takes, values, failed, how, opened.weights))
    return found


def _real(reference: Mapping[str, Real], describe: Callable[[Real], Value]) -> dict[str, Value]:
    """What `describe` says of the reference's clips. One that it cannot describe ends the run: the set would shrink."""
    found = {}
    for name in reference:
        try:
            found[name] = describe(reference[name])
        except OviError as error:
            raise OviError(f"real clip {name}: {error}") from None
    return found


def _distance(made: dict[str, Sound], real: Iterable[Sound]) -> Frechet:
    """Of clips' features, each [rows, d]."""
    mine, theirs = list(made.values()), list(real)
    return Frechet(len(mine), *_stacked(mine), *_stacked(theirs))


def _stacked(parts: Sequence[Sound]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(all rows, the part of each)."""
    rows = np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, 1))
    return rows, np.repeat(np.arange(len(parts)), [len(part) for part in parts])

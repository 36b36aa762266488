"""The metrics that networks hear: Fréchet distances, inception score, divergence, CLAP, word error rates, lip sync.

Each is null with its reason where its network is not configured. It does not know how clips are made or shown.
Try it: `ovi evaluate --set evaluation.formula_networks=true`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ovi.errors import OviError
from ovi.evaluation import measured, scores, watching, words
from ovi.evaluation.evidence import Frechet, Inception, Mean
from ovi.evaluation.measured import How, Measured, Take, absent, each
from ovi.evaluation.networks import Networks
from ovi.evaluation.results import NOT_APPLICABLE
from ovi.media.audio import resample
from ovi.perception import asr, clap, panns, vggish

Sound = NDArray[np.float32]
Value = TypeVar("Value")
SPEECH = re.compile(r"<S>(.*?)<E>", re.S)
PANNS = ("fd_panns_cnn14_16k", "is_panns_cnn14_16k", "kl_panns_cnn14_16k")
WER = ("wer_seed_tts", "wer_f5_tts", "wer_whisper")
LIPS = ("lse_c", "lse_d")
NO_CLIPS = f"{NOT_APPLICABLE}there are no clips"
NO_SPEECH = f"{NOT_APPLICABLE}no prompt asks for speech (<S>...<E>)"


@dataclass(frozen=True)
class Heard:
    """What a set of clips is compared with, and the clock of both."""

    reference: dict[str, Sound]  # real clips by their id, mono; each take's partner is among them
    fps: int
    rate: int


def listen(takes: Sequence[Take], heard: Heard, networks: Networks, how: How) -> list[Measured]:
    """All of them, in the catalogue's names."""
    spoken = [take for take in takes if text(take.caption)]
    found: list[Measured] = []
    for name, figures, compute in (
        ("panns", PANNS, lambda: _panns(takes, heard, networks, how)),
        ("vggish", ("fd_vggish",), lambda: _vggish(takes, heard, networks, how)),
        ("clap", ("clap_laion_htsat",), lambda: _clap(takes, heard, networks, how)),
        ("whisper", WER, lambda: _words(spoken, heard, networks, how)),
        ("syncnet", LIPS, lambda: _lips(spoken, heard, networks, how)),
    ):
        reason = networks.why_not(name) or (None if takes else NO_CLIPS)
        if name in ("whisper", "syncnet") and not spoken:
            reason = reason or NO_SPEECH
        found += [absent(figure, reason) for figure in figures] if reason else compute()
    return found


def text(caption: str) -> str:
    """What a caption has said in it."""
    return " ".join(part.strip() for part in SPEECH.findall(caption))


def _panns(takes: Sequence[Take], heard: Heard, networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("panns")

    def describe(audio: Sound) -> tuple[Sound, Sound]:
        features, logits = panns.describe(opened.network, [_centred(audio, heard.rate, panns.RATE)])
        return features, logits[0]

    made, failed = each(takes, lambda take: describe(take.audio))
    real = _real(heard, describe)
    distance = _distance({name: one for name, (one, _) in made.items()}, [one for one, _ in real.values()])
    partners = {take.name: take.partner for take in takes}
    apart = {
        name: float(scores.divergence(logits[None], real[partners[name]][1][None])[0])
        for name, (_, logits) in made.items()
    }
    logits = np.stack([rows for _, rows in made.values()]) if made else np.zeros((0, panns.CLASSES), np.float32)
    return [
        measured.of(PANNS[0], takes, list(made), distance, failed, how, opened.weights),
        measured.of(PANNS[1], takes, list(made), Inception(logits), failed, how, opened.weights),
        measured.mean(PANNS[2], takes, apart, failed, how, opened.weights),
    ]


def _vggish(takes: Sequence[Take], heard: Heard, networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("vggish")

    def describe(audio: Sound) -> Sound:
        return vggish.describe(opened.network, _centred(audio, heard.rate, vggish.RATE))

    made, failed = each(takes, lambda take: describe(take.audio))
    distance = _distance(made, list(_real(heard, describe).values()))
    return [measured.of("fd_vggish", takes, list(made), distance, failed, how, opened.weights)]


def _clap(takes: Sequence[Take], heard: Heard, networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("clap")
    texts = list(dict.fromkeys(take.caption for take in takes))
    told = dict(zip(texts, clap.read(opened.network, [_plain(one) for one in texts]), strict=True))

    def alike(take: Take) -> float:
        point = clap.hear(opened.network, [_centred(take.audio, heard.rate, clap.RATE)])[0]
        return float(scores.cosines(point, told[take.caption]))

    return [measured.mean("clap_laion_htsat", takes, *each(takes, alike), how, opened.weights)]


def _words(takes: Sequence[Take], heard: Heard, networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("whisper")
    sounds = [resample(take.audio, heard.rate, asr.RATE) for take in takes]
    said = asr.hear(opened.network, sounds)
    rules = [words.seed_tts, words.f5_tts]
    found = []
    for name, normalise in zip(WER, [*rules, _whisper_rules(opened.network)], strict=True):
        if normalise is None:
            found.append(absent(name, "Whisper's folder has no normalizer.json, which holds its spellings"))
            continue
        compared = {
            take.name: words.errors(normalise(text(take.caption)), normalise(one))
            for take, one in zip(takes, said, strict=True)
        }
        counted = {clip: one for clip, one in compared.items() if one.written}
        failed = {clip: "no written word is left by the rules for text" for clip in compared if clip not in counted}
        errors, written = (
            np.array([getattr(one, what) for one in counted.values()], np.float64) for what in ("errors", "written")
        )
        whole = name == "wer_whisper"  # all errors over all words; the others are means of the utterances' rates
        evidence = Mean(errors, written) if whole else Mean.of(errors / written)
        found.append(measured.of(name, takes, list(counted), evidence, failed, how, opened.weights))
    return found


def _whisper_rules(recogniser: asr.Recogniser) -> words.Normaliser | None:
    return None if recogniser.spellings is None else words.whisper(recogniser.spellings)


def _lips(takes: Sequence[Take], heard: Heard, networks: Networks, how: How) -> list[Measured]:
    opened = networks.get("syncnet")
    seen, failed = each(
        takes, lambda take: watching.lips(opened.network, take.frames, take.audio, heard.fps, heard.rate)
    )
    found = []
    for name, what in zip(LIPS, ("confidence", "distance"), strict=True):
        values = {clip: getattr(one, what) for clip, one in seen.items()}
        found.append(measured.mean(name, takes, values, failed, how, opened.weights))
    return found


def _real(heard: Heard, describe: Callable[[Sound], Value]) -> dict[str, Value]:
    """What `describe` says of the reference's clips. One that it cannot describe ends the run: the set would shrink."""
    found = {}
    for name, audio in heard.reference.items():
        try:
            found[name] = describe(audio)
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


def _centred(audio: Sound, rate: int, to: int) -> Sound:
    return resample(audio - audio.mean(dtype=np.float32), rate, to)


def _plain(caption: str) -> str:
    """A prompt as CLAP is told it: what is heard, where that is set apart; else all of it, without tags."""
    apart = re.findall(r"<AUDCAP>(.*?)<ENDAUDCAP>", caption, re.S)
    return " ".join(apart) if apart else re.sub(r"<[A-Z]+>", "", caption)

"""The paper's metrics by name, each with its identity but for the weights, which are the user's files.

Names carry the network: figures of different ones never stand under one name. It computes nothing.
Try it: `python -c "from ovi.evaluation import catalogue as c; print(c.identity('fd_vggish').hash)"`.
"""

from __future__ import annotations

from dataclasses import replace

from ovi.evaluation import scores
from ovi.evaluation.metric import NONE, Identity
from ovi.media.audio import HALF_WIDTH
from ovi.perception import asr, clap, panns, syncnet, vggish

RESAMPLER = f"polyphase, Kaiser 8, {HALF_WIDTH} zero crossings"  # ovi.media.audio
CENTRED = "mean of the channels, less its mean, before resampling"
SETS = "all generated clips against all reference clips"
PAIRS = "each generated clip against the reference of its prompt"
UTTERANCES = "each generated clip against the speech of its prompt"

_PANNS = Identity("", panns.METHOD, resampler=RESAMPLER, normaliser=CENTRED)
_WER = Identity("word error rate", asr.METHOD, resampler=RESAMPLER)
_LIPS = Identity("", syncnet.METHOD, resampler=RESAMPLER)
METRICS = {
    "fd_panns_cnn14_16k": replace(_PANNS, metric="Fréchet distance", protocol=f"{SETS}; features, one a clip"),
    "fd_vggish": Identity(
        "Fréchet distance", vggish.METHOD, resampler=RESAMPLER, normaliser=CENTRED, protocol=f"{SETS}; one a 0.96 s"
    ),
    "is_panns_cnn14_16k": replace(
        _PANNS, metric="inception score",
        protocol=f"softmax; mean of {scores.SPLITS} splits, shuffled by RandomState({scores.SHUFFLE})",
    ),
    "kl_panns_cnn14_16k": replace(_PANNS, metric="KL(reference || generated)", protocol=f"{PAIRS}; softmax, no floor"),
    "clap_laion_htsat": Identity(
        "cosine of sound and text", clap.METHOD, resampler=RESAMPLER, normaliser=CENTRED,
        protocol="each generated clip against its text; 10 s: whole repeats and silence, or the middle",
    ),
    "wer_seed_tts": replace(_WER, normaliser="Seed-TTS", protocol=f"{UTTERANCES}; mean of the utterances' rates"),
    "wer_f5_tts": replace(_WER, normaliser="F5-TTS", protocol=f"{UTTERANCES}; mean of the utterances' rates"),
    "wer_whisper": replace(_WER, normaliser="Whisper, English", protocol=f"{UTTERANCES}; all errors over all words"),
    "lse_c": replace(_LIPS, metric="lip sync confidence", protocol="median less least mean distance, 15 frames about"),
    "lse_d": replace(_LIPS, metric="lip sync distance", protocol="least mean distance, 15 frames about"),
    "desync_synchformer": Identity(
        "mean |offset| in s", "synchformer", resampler=RESAMPLER, protocol="first and last 14 segments; 21 classes"
    ),
    "av_align": Identity("AV-Align", protocol="maxima of the mean flow; heard peaks look for seen ones, one frame"),
    "javis_imagebind": Identity("JavisScore", "imagebind-huge", protocol="0.5 s windows, the 40 % that fit least"),
    "temporal_flickering": Identity("temporal flickering", protocol="VBench"),
    "dynamic_degree": Identity("dynamic degree", "raft-things", protocol="VBench"),
}  # fmt: skip


def identity(name: str, weights: str = NONE) -> Identity:
    """That of one of METRICS with the sha256 of its network's file. Raises KeyError for another name."""
    return replace(METRICS[name], weights=weights)

"""The paper's metrics by name, each with its identity but for the weights, which are the user's files.

Names carry the network: figures of different ones never stand under one name. It computes nothing.
Try it: `python -c "from ovi.evaluation import catalogue as c; print(c.identity('fd_vggish').hash)"`.
"""

from __future__ import annotations

from dataclasses import replace

from ovi.evaluation import levels, scores, watching
from ovi.evaluation.metric import NONE, Identity
from ovi.media.audio import HALF_WIDTH
from ovi.perception import aesthetic, asr, clap, motion, panns, syncnet, vggish

RESAMPLER = f"polyphase, Kaiser 8, {HALF_WIDTH} zero crossings"  # ovi.media.audio
CENTRED = "mean of the channels, less its mean, before resampling"
LOOK_S = 0.5  # between pictures that CLIP sees
FLOW_S = 1 / 8  # between pictures whose flow counts for the dynamic degree
SETS = "all generated clips against all reference clips"
PAIRS = "each generated clip against the reference of its prompt"
UTTERANCES = "each generated clip against the speech of its prompt"

_PANNS = Identity("", panns.METHOD, resampler=RESAMPLER, normaliser=CENTRED)
_WER = Identity("word error rate", asr.METHOD, resampler=RESAMPLER)
_LIPS = Identity("", syncnet.METHOD, resampler=RESAMPLER, normaliser=watching.CROP)
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
    "av_align": Identity(
        "AV-Align", watching.FLOW,
        protocol=f"maxima of the mean flow; {watching.ONSETS}; a heard one looks for a seen one",
    ),
    "javis_imagebind": Identity("JavisScore", "imagebind-huge", protocol="0.5 s windows, the 40 % that fit least"),
    "temporal_flickering": Identity("temporal flickering", protocol="VBench; 1 = frozen"),
    "motion_smoothness": Identity("motion smoothness", protocol="1 - mean change from a frame to its neighbours' mean"),
    "motion": Identity("mean flow over 0.5 s in frame diagonals", motion.METHOD),
    "loudness_lufs": Identity("integrated loudness in LUFS", protocol="ITU-R BS.1770-4, mono", resampler=RESAMPLER),
    "silence_share": Identity("share of silence", protocol=f"stretches of 0.1 s below {levels.SILENT_DB:g} dB"),
    "clipping_share": Identity("share of clipped samples", protocol=f"magnitude from {levels.FULL} on"),
    "bandwidth_hz": Identity("bandwidth in Hz", protocol=f"{levels.INSIDE:.0%} of the energy lies below"),
    "dynamic_degree_raft": Identity(
        "share of clips with fast motion", "raft", protocol=f"VBench; every {FLOW_S:g} s"
    ),
    "aesthetic_clip_vit_l14": Identity(
        "aesthetic score, 1 to 10", aesthetic.METHOD, protocol=f"mean of a picture every {LOOK_S:g} s"
    ),
    "consistency_clip_vit_l14": Identity(
        "consistency of pictures", "clip-vit-l14",
        protocol=f"VBench's formula over a picture every {LOOK_S:g} s; 1 = frozen",
    ),
}  # fmt: skip
HIGHER = (
    "is_panns_cnn14_16k",
    "clap_laion_htsat",
    "lse_c",
    "av_align",
    "javis_imagebind",
    "motion_smoothness",
    "aesthetic_clip_vit_l14",
)
LOWER = ("fd_panns_cnn14_16k", "fd_vggish", "kl_panns_cnn14_16k", "wer_seed_tts", "wer_f5_tts", "wer_whisper", "lse_d",
         "desync_synchformer", "clipping_share")  # fmt: skip


SYNC = "sync/"  # before the scene and the figure: ovi.evaluation.scene_metrics knows their identities


def better(name: str) -> int:
    """1 where a higher value is better, -1 where a lower one is, 0 where it depends on what is shown."""
    return (name in HIGHER or name.startswith(SYNC)) - (name in LOWER)


def identity(name: str, weights: str = NONE, also: str = "") -> Identity:
    """That of one of METRICS with the sha256 of its network's file, and what a benchmark adds to its protocol.

    Raises KeyError for another name.
    """
    known = METRICS[name]
    return replace(known, weights=weights, protocol=f"{known.protocol}; {also}" if also else known.protocol)

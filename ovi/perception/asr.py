"""What is said in a clip, by Whisper through transformers: English, greedy, in single precision, as Seed-TTS hears it.

It knows no right text: `ovi.evaluation.words` compares. `spellings` come with the weights, for Whisper's own rules.
Try it: `pytest tests/perception/test_asr.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovi import storage
from ovi.errors import OviError, one_line

METHOD = "whisper-greedy-english"
RATE = 16_000
BATCH = 8  # each takes 30 s of the network's time, however short


@dataclass(frozen=True)
class Recogniser:
    """transformers' WhisperForConditionalGeneration, and what turns sound into its input and its output into text.

    spellings: British -> American, from the folder's normalizer.json; None where it has none.
    """

    network: Any
    processor: Any
    spellings: dict[str, str] | None


def load(folder: str | Path, device: str | torch.device = "cpu") -> Recogniser:
    """Whisper (the paper's is large-v3) from a folder as transformers writes it. Nothing is downloaded.

    Raises OviError for a folder that is missing, damaged or of another network.
    """
    from transformers import WhisperForConditionalGeneration, WhisperProcessor, logging  # takes seconds to import

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise OviError(f"{folder}: not a folder of Whisper (no config.json); give one as transformers writes it")
    try:
        network, found = WhisperForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a foreign or damaged folder makes of transformers
        raise OviError(f"{folder}: Whisper cannot be loaded ({one_line(error)})") from None
    absent = sorted(found["missing_keys"])
    if absent:
        raise OviError(f"{folder}: not the weights of Whisper: {len(absent)} missing (first {absent[0]})")
    spellings = folder / "normalizer.json"
    return Recogniser(
        network.to(device).eval().requires_grad_(False),
        processor,
        storage.read_json(spellings) if spellings.is_file() else None,
    )


@torch.no_grad()
def hear(recogniser: Recogniser, clips: Sequence[NDArray[np.float32]]) -> list[str]:
    """Mono clips float32 [N] in [-1, 1] at 16 kHz -> their texts, as Whisper writes them; of a clip 30 s are heard."""
    network, processor = recogniser.network, recogniser.processor
    texts: list[str] = []
    for at in range(0, len(clips), BATCH):
        sound = processor(list(clips[at : at + BATCH]), sampling_rate=RATE, return_tensors="pt")
        tokens = network.generate(
            sound["input_features"].to(network.device),
            language="english", task="transcribe", num_beams=1, do_sample=False,
        )  # fmt: skip
        texts += processor.batch_decode(tokens, skip_special_tokens=True)
    return texts

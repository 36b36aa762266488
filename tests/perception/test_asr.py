"""Whisper from a folder: a tiny one of random weights, which says something, always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ovi.errors import OviError
from ovi.perception import asr

MARKS = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    tokenizer = WhisperTokenizer(vocab={chr(at): at - 33 for at in range(33, 127)}, merges=[])
    tokenizer.add_tokens(list(MARKS), special_tokens=True)
    start, english, transcribe, no_times = tokenizer.convert_tokens_to_ids(list(MARKS))
    ends = dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), tokenizer.eos_token_id)
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder")
             for name, size in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 16))}  # fmt: skip
    torch.manual_seed(0)
    network = WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=len(tokenizer), num_mel_bins=8, d_model=16, max_target_positions=16,
                      decoder_start_token_id=start, suppress_tokens=None, begin_suppress_tokens=None, **sizes, **ends)
    )  # fmt: skip
    network.generation_config = GenerationConfig(
        decoder_start_token_id=start, is_multilingual=True, lang_to_id={"<|en|>": english},
        task_to_id={"transcribe": transcribe}, no_timestamps_token_id=no_times, max_length=12, **ends,
    )  # fmt: skip
    network.save_pretrained(tmp_path)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=8), tokenizer).save_pretrained(tmp_path)
    return tmp_path


def test_clips_of_any_lengths_become_texts_without_marks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = asr.load(folder)
    clips = [np.random.default_rng(size).normal(size=size).astype(np.float32) / 10 for size in (16_000, 100, 8000)]
    texts = asr.hear(made, clips)
    assert len(texts) == 3
    assert all(isinstance(text, str) and text and "<|" not in text for text in texts)
    monkeypatch.setattr(asr, "BATCH", 2)
    assert asr.hear(made, clips) == texts
    assert asr.hear(made, []) == []


def test_spellings_come_with_the_weights(folder: Path) -> None:
    assert asr.load(folder).spellings is None
    (folder / "normalizer.json").write_text('{"colour": "color"}')
    assert asr.load(folder).spellings == {"colour": "color"}


def test_what_is_no_whisper(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(OviError, match=r"no config\.json"):
        asr.load(tmp_path_factory.mktemp("empty"))
    state = load_file(folder / "model.safetensors")
    del state["model.encoder.conv1.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OviError, match=r"1 missing \(first model\.encoder\.conv1\.weight\)"):
        asr.load(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(OviError, match="Whisper cannot be loaded") as caught:
        asr.load(folder)
    assert "\n" not in str(caught.value)

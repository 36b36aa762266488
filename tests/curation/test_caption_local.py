"""The captioner on this machine, with a tiny Qwen2.5-Omni of random weights: its inputs and its way of answering."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    WhisperFeatureExtractor,
)

from ovi.config import Captions
from ovi.curation import captioning
from ovi.curation.caption_dialogue import converse
from ovi.curation.caption_local import LocalCaptioner, chat, sound_tokens
from ovi.curation.caption_prompts import Material, Picture, Track, Turn, again, describe, listen
from ovi.curation.captioner import HttpCaptioner
from ovi.errors import ConfigError
from ovi.progress import Silent

NAMES = {
    "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>",
}  # fmt: skip
NOISE = np.random.default_rng(0)
MATERIAL = Material(
    tuple(Picture(NOISE.integers(0, 256, (64, 96, 3), np.uint8)) for _ in range(7)),
    tuple(20 * n / 24 for n in range(7)),
    Track(NOISE.integers(-3000, 3000, 80640).astype("<i2").tobytes(), 16000),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("omni") / "tiny-omni"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|endoftext|>",
        extra_special_tokens={**NAMES, "start_token": "<|im_start|>"},
    )  # fmt: skip
    place = {name: tokenizer.convert_tokens_to_ids(token) for name, token in NAMES.items()}
    torch.manual_seed(0)
    model = Qwen2_5OmniThinkerForConditionalGeneration(
        Qwen2_5OmniThinkerConfig(
            audio_config={
                "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 16,
                "output_dim": 32,
            },
            vision_config={
                "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
                "fullatt_block_indexes": [1],
            },
            text_config={
                "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 1,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
            },
            image_token_index=place["image_token"], audio_token_index=place["audio_token"],
            video_token_index=place["video_token"], vision_start_token_id=place["vision_bos_token"],
            vision_end_token_id=place["vision_eos_token"], audio_start_token_id=place["audio_bos_token"],
            audio_end_token_id=place["audio_eos_token"],
        )
    )  # fmt: skip
    extractors = {}
    for kind in (Qwen2VLImageProcessorPil(), WhisperFeatureExtractor(feature_size=128, chunk_length=30)):
        kind.save_pretrained(out)
        extractors |= json.loads((out / "preprocessor_config.json").read_text())
    (out / "preprocessor_config.json").write_text(json.dumps(extractors))  # one file for both, as released
    tokenizer.save_pretrained(out)
    model.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def captioner(folder: Path) -> LocalCaptioner:
    return LocalCaptioner(Captions(source="local", model=str(folder)))


def test_the_talk_as_the_model_reads_it() -> None:
    turns = [
        Turn("user", ("See:", MATERIAL.pictures[0], MATERIAL.pictures[1], "Hear:", MATERIAL.track, "Now.")),
        Turn("assistant", ("Hm.",)),
        Turn("user", ("Again.",)),
    ]
    names = SimpleNamespace(
        vision_bos_token="[", vision_eos_token="]", image_token="i", audio_bos_token="(", audio_eos_token=")",
        audio_token="a",
    )  # fmt: skip
    assert chat(turns, names, [2, 3], 4) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nSee:[ii][iii]Hear:(aaaa)Now.<|im_end|>\n"
        "<|im_start|>assistant\nHm.<|im_end|>\n"
        "<|im_start|>user\nAgain.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(("frames", "tokens"), [(504, 126), (1200, 300), (100, 25), (1, 0)])
def test_sound_tokens(frames: int, tokens: int) -> None:
    assert sound_tokens(frames) == tokens


def test_inputs_have_a_place_for_every_patch_and_sound(captioner: LocalCaptioner) -> None:
    inputs = captioner.inputs(describe(MATERIAL, spoken=False))
    tokenizer = captioner._parts.tokenizer
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(tokenizer.image_token_id) == 7 * (2 * 3)  # 28-pixel squares of 56x84, what 64x96 is scaled to
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 6]] * 7
    assert ids.count(tokenizer.audio_token_id) == 126
    assert inputs["feature_attention_mask"].sum() == 504
    text = tokenizer.decode(ids)
    assert text.index("At 0.00 s:<|vision_bos|>") < text.index("At 5.00 s:<|vision_bos|>") < text.index("<|audio_bos|>")
    alone = captioner.inputs(listen(MATERIAL))
    assert "pixel_values" not in alone
    assert alone["input_ids"][0].tolist().count(tokenizer.audio_token_id) == 126


def test_answers_are_greedy_bounded_and_depend_on_what_is_seen_and_heard(captioner: LocalCaptioner) -> None:
    turns = describe(MATERIAL, spoken=True)
    first, second = (asyncio.run(captioner.ask(turns, 12)) for _ in range(2))
    assert first == second
    assert (first.output_tokens, first.whole) == (12, False)
    assert first.input_tokens == captioner.inputs(turns)["input_ids"].shape[1]
    model = captioner._parts.model
    with torch.inference_mode():
        plain, dark, quiet = (
            model(**captioner.inputs(describe(material, spoken=True))).logits[0, -1]
            for material in (
                MATERIAL,
                Material(tuple(Picture(p.pixels // 8) for p in MATERIAL.pictures), MATERIAL.seconds, MATERIAL.track),
                Material(MATERIAL.pictures, MATERIAL.seconds, Track(bytes(161280), 16000)),
            )
        )
    assert not torch.equal(plain, dark)
    assert not torch.equal(plain, quiet)


def test_a_random_model_is_refused_and_nothing_breaks(captioner: LocalCaptioner) -> None:
    record = asyncio.run(converse(captioner, MATERIAL, reasks=1))
    assert record.caption is None
    assert len(record.refused) == 2
    talk = again(listen(MATERIAL), *record.refused[0])
    assert asyncio.run(captioner.ask(talk, 4)).output_tokens <= 4


def test_the_end_token_ends_an_answer(captioner: LocalCaptioner, monkeypatch: pytest.MonkeyPatch) -> None:
    end = captioner._parts.tokenizer.convert_tokens_to_ids("<|im_end|>")

    def generate(input_ids: torch.Tensor, **how: object) -> torch.Tensor:
        assert how["eos_token_id"] == end
        assert how["do_sample"] is False
        said = captioner._parts.tokenizer("<S>Hé!<E>")["input_ids"]
        return torch.cat([input_ids, torch.tensor([[*said, end]])], dim=1)

    monkeypatch.setattr(captioner._parts.model, "generate", generate)
    answer = asyncio.run(captioner.ask(listen(MATERIAL), 50))
    assert (answer.text, answer.whole) == ("<S>Hé!<E>", True)


def test_the_whole_released_layout_is_read(folder: Path, captioner: LocalCaptioner, tmp_path: Path) -> None:
    whole = shutil.copytree(folder, tmp_path / "whole")
    thinker = json.loads((folder / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({"model_type": "qwen2_5_omni", "thinker_config": thinker}))
    weights = {f"thinker.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file({**weights, "talker.x": torch.zeros(1)}, whole / "model.safetensors", {"format": "pt"})
    read = LocalCaptioner(Captions(source="local", model=str(whole)))._parts.model.state_dict()
    expected = captioner._parts.model.state_dict()
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], value) for name, value in expected.items())


def test_names_tell_models_apart_and_hide_where_they_lie(folder: Path, tmp_path: Path) -> None:
    name = LocalCaptioner(Captions(source="local", model=str(folder))).name
    assert name.startswith("tiny-omni@")
    assert "/" not in name
    other = shutil.copytree(folder, tmp_path / "tiny-omni")
    assert LocalCaptioner(Captions(source="local", model=str(other))).name == name
    (other / "more.txt").write_text("x")
    assert LocalCaptioner(Captions(source="local", model=str(other))).name != name


def test_settings_choose_the_model(folder: Path) -> None:
    def chosen(**captions: str) -> object:
        curation = SimpleNamespace(captions=Captions(**captions))
        return captioning.backend(SimpleNamespace(curation=curation, seed=0), Silent())

    assert chosen() is None
    assert isinstance(chosen(source="local", model=str(folder)), LocalCaptioner)
    assert isinstance(chosen(source="http", model="omni"), HttpCaptioner)


def test_folders_that_cannot_work_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder with a model"):
        LocalCaptioner(Captions(source="local", model="Qwen/Qwen2.5-Omni-7B"))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ConfigError, match="holds llama, not qwen2_5_omni"):
        LocalCaptioner(Captions(source="local", model=str(tmp_path)))
    less = shutil.copytree(folder, tmp_path / "less")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, less / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks lm_head\.weight"):
        asyncio.run(LocalCaptioner(Captions(source="local", model=str(less))).ask(listen(MATERIAL), 4))
    (less / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="cannot be read") as refused:
        asyncio.run(LocalCaptioner(Captions(source="local", model=str(less))).ask(listen(MATERIAL), 4))
    assert "\n" not in str(refused.value)

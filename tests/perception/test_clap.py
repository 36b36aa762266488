"""CLAP: the sound tower against the golden points, the text tower against RoBERTa, and files of both layouts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ovi.errors import OviError
from ovi.perception import clap
from ovi.perception.clap import Clap, from_laion, hear, log_mels, read, ten_seconds, transformers_names
from tests.golden import evaluation as golden

CASE = golden.arrays("clap_htsat")
WHOLE = ("num_batches_tracked", "relative_position_index")  # tensors of whole numbers
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyz", "Ġ"]


def audio_state(layout: dict[str, list[int]]) -> dict[str, Tensor]:
    """LAION's sound tower, filled by formula; its front end and masks, which nobody reads, are zero."""
    kept = {key: shape for key, shape in layout.items() if not key.endswith(WHOLE) and not clap.UNUSED.search(key)}
    filled = golden.filled({key: torch.empty(shape, device="meta") for key, shape in kept.items()}, "htsat")
    return {key: filled.get(key, torch.zeros(shape, dtype=kind(key))) for key, shape in layout.items()}


def kind(key: str) -> torch.dtype:
    return torch.int64 if key.endswith(WHOLE) else torch.float32


@cache
def roberta() -> Any:
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(0)
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 96}
    return RobertaModel(RobertaConfig(vocab_size=len(WORDS), max_position_embeddings=90, type_vocab_size=1, **small,
                                      layer_norm_eps=1e-5)).eval()  # fmt: skip


def laion(layout: dict[str, list[int]], points: int = 16) -> dict[str, Tensor]:
    """A whole state dict in LAION's names."""
    sound = {f"audio_branch.{key}": tensor for key, tensor in audio_state(layout).items()}
    text = {f"text_branch.{key}": tensor for key, tensor in roberta().state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    sizes = {"audio": sound["audio_branch.norm.weight"].shape[0], "text": 64}
    heads = {
        f"{side}_projection.{at}.{part}": torch.randn(shape, generator=generator) / 8
        for side, size in sizes.items()
        for at, width in ((0, size), (2, points))
        for part, shape in (("weight", (points, width)), ("bias", (points,)))
    }
    training = {
        "text_transform.sequential.0.weight": torch.zeros(1),
        "text_branch.embeddings.position_ids": torch.arange(9),
    }
    scales = {"logit_scale_a": torch.tensor(1.0), "logit_scale_t": torch.tensor(1.0)}
    return {f"module.{key}": tensor for key, tensor in {**sound, **text, **heads, **training, **scales}.items()}


def small_layout() -> dict[str, list[int]]:
    """HTSAT with a block a stage and channels of 8, 16, 32 and 64, in place of 128 and up."""
    layout = {}
    for key, shape in golden.layout("htsat_base").items():
        block = key.split(".blocks.")[-1][0]
        if ".blocks." in key and block != "0":
            continue
        narrow = [size // 16 if size >= 128 and ".stft" not in key and "melW" not in key else size for size in shape]
        if key.endswith("bias_table"):
            narrow = [225, shape[1] // 4]
        layout[key] = narrow
    return layout


@cache
def small() -> Any:
    return from_laion(laion(small_layout()), "small.pt", "cpu")


def tokenizer(folder: Path) -> None:
    from transformers import RobertaTokenizer

    RobertaTokenizer(vocab={word: at for at, word in enumerate(WORDS)}, merges=[]).save_pretrained(folder)


def test_the_sound_tower_is_the_golden_one() -> None:
    """The names of the released file, the front end, and the points before the projection."""
    network = from_laion(laion(golden.layout("htsat_base")), "base.pt", "cpu")
    assert network.config.audio_config.depths == [2, 2, 12, 2]
    sound = golden.chirp(clap.RATE, 10, 60, 13_000, 0.5).astype(np.float32)
    heard = log_mels(torch.from_numpy(sound)[None])
    np.testing.assert_allclose(heard[0, ::10], CASE["logmel"], rtol=0, atol=0.2)  # dB, of near silence
    points = network.audio_model(input_features=heard[:, None]).pooler_output
    np.testing.assert_allclose(points, CASE["embedding"], rtol=0, atol=1e-4)


def test_the_text_tower_is_roberta() -> None:
    ids = torch.tensor([[0, 5, 9, 31, 2, 1, 1], [0, 7, 8, 9, 10, 11, 2]])
    seen = (ids != 1).long()
    with torch.no_grad():
        want = roberta()(ids, seen).pooler_output
    got = small().text_model(input_ids=ids, attention_mask=seen).pooler_output
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_names_are_those_of_transformers() -> None:
    """All of them, once, and no other."""
    named = transformers_names(laion(small_layout()))
    wanted = {key for key, tensor in small().state_dict().items() if tensor.is_floating_point()}
    assert {key for key, tensor in named.items() if tensor.is_floating_point()} == wanted


def test_points_have_length_one_and_do_not_know_of_each_other(tmp_path: Path) -> None:
    torch.save({"epoch": 15, "state_dict": laion(small_layout())}, tmp_path / "clap.pt")
    tokenizer(tmp_path / "roberta")
    made = clap.load(tmp_path / "clap.pt", tmp_path / "roberta")
    clips = [np.random.default_rng(at).normal(size=9000 * (at + 1)).astype(np.float32) / 10 for at in range(2)]
    texts = ["a dog", "rain on a tin roof", "x" * 200]
    for points, each in (
        (hear(made, clips), [hear(made, [clip]) for clip in clips]),
        (read(made, texts), [read(made, [text]) for text in texts]),
    ):
        assert points.shape == (len(each), 16)
        np.testing.assert_array_equal(points, np.concatenate(each))
        np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=1e-5)
        assert np.abs(points[0] - points[1]).max() > 1e-3
    np.testing.assert_array_equal(read(made, ["x" * 75]), read(made, ["x" * 200]))  # 77 tokens with both ends
    assert hear(made, []).shape == (0, 16)


def test_a_folder_of_transformers_is_the_same_network(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    tokenizer(tmp_path)
    clip = np.random.default_rng(0).normal(size=48_000).astype(np.float32) / 10
    want = hear(Clap(small(), None), [clip])
    np.testing.assert_array_equal(hear(clap.load(tmp_path), [clip]), want)


def test_what_is_no_clap(tmp_path: Path) -> None:
    state = laion(small_layout())
    del state["module.audio_branch.norm.weight"]
    with pytest.raises(OviError, match=r"x\.pt: not the weights of ClapModel: 1 missing \(first audio_model.*norm"):
        from_laion(state, "x.pt", "cpu")
    with pytest.raises(OviError, match=r"x\.pt: not a checkpoint of CLAP \(no audio_model"):
        from_laion({"a": torch.zeros(1)}, "x.pt", "cpu")
    with pytest.raises(OviError, match=r"no config\.json"):
        clap.load(tmp_path)
    small().save_pretrained(tmp_path)
    with pytest.raises(OviError, match=r"a tokenizer of \d words, CLAP has 32"):
        clap.load(tmp_path)
    with pytest.raises(OviError, match="roberta: not a folder"):
        clap.load(tmp_path, tmp_path / "roberta")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OviError, match=r"model\.safetensors: no such file"):
        clap.load(tmp_path)


def test_a_fused_checkpoint_is_refused() -> None:
    from transformers import ClapConfig

    config = ClapConfig(audio_config={"enable_fusion": True})
    with pytest.raises(OviError, match="a fused CLAP"):
        clap._fill(config, {}, "fused.pt", "cpu")


@pytest.mark.parametrize(("samples", "repeats"), [(480_000, 1), (241_920, 1), (240_000, 2), (100_000, 4)])
def test_short_clips_are_repeated_whole_and_then_silent(samples: int, repeats: int) -> None:
    clip = np.arange(1, samples + 1, dtype=np.float32)
    found = ten_seconds(clip)
    assert found.shape == (480_000,)
    np.testing.assert_array_equal(found[: repeats * samples], np.tile(clip, repeats))
    assert not found[repeats * samples :].any()


def test_of_a_long_clip_the_middle_is_heard_and_of_none_nothing() -> None:
    np.testing.assert_array_equal(ten_seconds(np.arange(480_003, dtype=np.float32)), np.arange(1, 480_001))
    with pytest.raises(OviError, match="without samples"):
        ten_seconds(np.zeros(0, np.float32))

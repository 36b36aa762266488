"""umT5 against its golden vectors, the released file's names, and how it takes texts apart."""

import json

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from ovi.errors import OviError
from ovi.models.umt5 import UmT5, clean, from_released, to_released
from tests import golden

LETTERS = "abcdefghijklmnopqrstuvwxyz<>"


def tiny(case="umt5_tiny"):
    """The golden encoder and its tensors."""
    sizes, x = golden.config(case), golden.tensors(case)
    encoder = UmT5(
        dim=sizes["dim"],
        layers=sizes["num_layers"],
        vocabulary=sizes["vocab"],
        ffn_dim=sizes["dim_ffn"],
        heads=sizes["num_heads"],
    )
    weights = from_released({name[2:]: tensor for name, tensor in x.items() if name.startswith("w/")})
    encoder.load_state_dict(weights)
    return encoder, x


def unpadded(ids, mask):
    return [row[: int(n)].tolist() for row, n in zip(ids, mask.sum(1), strict=True)]


def tokenizer_file(path, *, ends=False, first=("<pad>", "</s>", "<unk>")):
    """A tokenizer.json of single letters, made as the real one is; with `ends`, one that appends </s> by itself."""
    pieces = [(piece, 0.0) for piece in (*first, "▁", *LETTERS)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False) for piece in first])
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.enable_truncation(4)  # a file may say so, and is not to be obeyed
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def encoder():
    return UmT5(dim=16, layers=1, max_tokens=8, vocabulary=40, ffn_dim=8, heads=2)


def test_golden():
    encoder, x = tiny()
    rows = encoder.embed(unpadded(x["in/ids"], x["in/mask"]))
    assert [len(row) for row in rows] == golden.config("umt5_tiny")["lens"]
    for row, want in zip(rows, x["out/emb"], strict=True):
        golden.check("umt5_tiny", row, want[: len(row)])


def test_released_weights_are_bf16_and_rows_float32():
    encoder, x = tiny()
    rows = encoder.to(torch.bfloat16).embed(unpadded(x["in/ids"], x["in/mask"]))
    for row, want in zip(rows, x["out/emb"], strict=True):
        assert row.dtype == torch.float32
        assert (row - want[: len(row)]).norm() < 0.02 * want[: len(row)].norm()


def test_names_and_shapes_of_the_released_file():
    with torch.device("meta"):
        state = UmT5().state_dict()
    shapes = {name: list(tensor.shape) for name, tensor in to_released(state).items()}
    released = golden.table("table_umt5_xxl_encoder_state_dict_shapes")
    assert shapes == released["tensors"]
    assert len(shapes) == released["n_tensors"] == 242
    assert sum(tensor.numel() for tensor in state.values()) == released["total"] == 5_680_910_336
    assert from_released(to_released(state)).keys() == state.keys()


def test_weights_can_be_assigned_to_a_model_without_any():
    made, x = tiny()
    with torch.device("meta"):
        empty = UmT5(dim=32, layers=2, vocabulary=100, ffn_dim=48, heads=4)
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    empty.load_state_dict(state, assign=True)
    assert not list(empty.buffers())
    assert sum(weight.numel() for weight in empty.parameters()) == sum(tensor.numel() for tensor in state.values())
    assert empty.t5.encoder.embed_tokens.weight is empty.t5.shared.weight
    assert not any(weight.requires_grad for weight in empty.parameters())
    rows = unpadded(x["in/ids"], x["in/mask"])
    for got, want in zip(empty.embed(rows), made.embed(rows), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_a_missing_weight_is_missed():
    made, _ = tiny()
    state = made.state_dict()
    del state["t5.shared.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*t5\.shared\.weight"):
        tiny()[0].load_state_dict(state)


def test_clean():
    for text, want in golden.table("text_and_resolution")["t5_clean_whitespace"].items():
        assert clean(text) == want
    assert clean("a\ud800 b") == "a\ufffd b"  # no tokenizer takes half a surrogate pair


@pytest.mark.parametrize("ends", [False, True])
def test_one_end_whoever_adds_it(encoder, tmp_path, ends):
    encoder.read_tokenizer(tokenizer_file(tmp_path / "tokenizer.json", ends=ends))
    a, b = 4, 5
    assert encoder.tokens("ab") == [3, a, b, 1]
    assert encoder.tokens("  a \n&amp;lt;b ") == [3, a, 3, 4 + LETTERS.index("<"), b, 1]
    assert encoder.tokens("") == [1]
    assert encoder.tokens("a" * 20) == [3, *[a] * 20, 1]


def test_long_texts_are_cut_and_said_so(encoder, tmp_path, caplog):
    encoder.read_tokenizer(tokenizer_file(tmp_path / "tokenizer.json"))
    cut, whole, other = encoder.encode(["abcdefghij", "abcdef", "b"])
    assert [row.shape for row in (cut, whole, other)] == [(8, 16), (8, 16), (3, 16)]
    torch.testing.assert_close(cut, whole)
    assert caplog.messages == ["text of 12 tokens cut to 8: abcdefghij..."]


def test_a_pad_in_the_text_is_text(encoder, tmp_path):
    """Rows are as long as their tokens say, whatever the ids are."""
    encoder.read_tokenizer(tokenizer_file(tmp_path / "tokenizer.json"))
    ids = encoder.tokens("a<pad>b")
    assert 0 in ids[:-1]
    got, _ = encoder.embed([ids, [*ids, 4, 1]])
    torch.testing.assert_close(got, encoder.t5(input_ids=torch.tensor([ids])).last_hidden_state[0])


def test_without_a_tokenizer():
    bare = UmT5(dim=16, layers=1, vocabulary=40, ffn_dim=8, heads=2)
    with pytest.raises(OviError, match=r"^text encoder: umT5 was given no tokenizer; .*google/umt5-xxl") as caught:
        bare.encode(["a"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "{}", json.dumps({"model": {"type": "pickle"}})])
def test_no_tokenizer(encoder, tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(OviError, match=r"tokenizer\.json: no tokenizer can be read \(.*\); give ") as caught:
        encoder.read_tokenizer(path)
    assert "\n" not in str(caught.value)


def test_another_models_tokenizer(encoder, tmp_path):
    swapped = tokenizer_file(tmp_path / "swapped.json", first=("</s>", "<pad>", "<unk>"))
    with pytest.raises(OviError, match="the id of <pad> is 1, umT5 wants 0"):
        encoder.read_tokenizer(swapped)
    small = UmT5(dim=16, layers=1, vocabulary=20, ffn_dim=8, heads=2)
    with pytest.raises(OviError, match="has the token id 31, the weights have 20 tokens"):
        small.read_tokenizer(tokenizer_file(tmp_path / "big.json"))

"""umT5: the text encoder of the released Ovi, umT5-xxl's encoder behind the interface of `ovi.models.text_encoder`.

It cleans a text, cuts it into the tokens of google/umt5-xxl and gives one row a token. The weights come from the
release's own file (models_t5_umt5-xxl-enc-bf16.pth), whose names `from_released` turns into this module's. It knows
nothing of prompts: their tags are text like any other.
Try it: `pytest tests/models/test_umt5.py`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import ftfy
from tokenizers import Tokenizer
from torch import Tensor

from ovi.errors import OviError, one_line
from ovi.models.text_encoder import END, PAD, TextEncoder

TOKENIZER = "the tokenizer.json of google/umt5-xxl"
NAMES = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}  # the release's -> transformers'
BLOCK_NAMES = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


class UmT5(TextEncoder):
    """The umT5 encoder; by default umT5-xxl's, 5,680,910,336 weights. `read_tokenizer` comes before the first text."""

    def __init__(
        self,
        dim: int = 4096,
        layers: int = 24,
        max_tokens: int = 512,
        vocabulary: int = 256384,
        ffn_dim: int = 10240,
        heads: int = 64,
    ) -> None:
        super().__init__(
            max_tokens,
            vocab_size=vocabulary,
            d_model=dim,
            d_kv=dim // heads,
            d_ff=ffn_dim,
            num_layers=layers,
            num_heads=heads,
        )
        self.tokenizer: Tokenizer | None = None

    def read_tokenizer(self, path: str | Path) -> Self:
        """Take the tokenizer of a tokenizer.json. OviError when it is none, or not one of these weights."""
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library has no narrower one
            raise OviError(f"{path}: no tokenizer can be read ({one_line(error)}); give {TOKENIZER}") from None
        for token, index in (("<pad>", PAD), ("</s>", END)):
            if tokenizer.token_to_id(token) != index:
                found = tokenizer.token_to_id(token)
                raise OviError(f"{path}: the id of {token} is {found}, umT5 wants {index}; give {TOKENIZER}")
        last, rows = max(tokenizer.get_vocab().values()), self.t5.config.vocab_size
        if last >= rows:
            raise OviError(f"{path}: has the token id {last}, the weights have {rows} tokens; give {TOKENIZER}")
        tokenizer.no_truncation()  # `encode` cuts, and says so
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        return self

    def tokens(self, text: str) -> list[int]:
        if self.tokenizer is None:
            raise OviError(f"text encoder: umT5 was given no tokenizer; read {TOKENIZER} before the first text")
        return [*self.tokenizer.encode(clean(text), add_special_tokens=False).ids, END]


def clean(text: str) -> str:
    """The text as the released model was told it: encoding mended, HTML entities resolved twice, single blanks."""
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released file's tensors under the names of `UmT5.state_dict()`; unknown names stay as they are."""
    names = _names(len(state))
    return {names.get(name, name): tensor for name, tensor in state.items()}


def to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `UmT5.state_dict()` under the released file's names; unknown names stay as they are."""
    names = {ours: released for released, ours in _names(len(state)).items()}
    return {names.get(name, name): tensor for name, tensor in state.items()}


def _names(layers: int) -> dict[str, str]:
    """Released name -> ours. A state has no more layers than tensors, so that its length will do for their number."""
    names = {f"{released}.weight": f"t5.{ours}.weight" for released, ours in NAMES.items()}
    for i in range(layers):
        for released, ours in BLOCK_NAMES.items():
            names[f"blocks.{i}.{released}.weight"] = f"t5.encoder.block.{i}.{ours}.weight"
    return names

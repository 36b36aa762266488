from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ovi import config
from ovi.errors import ConfigError
from ovi.models.prompt_parts import Parts, split
from ovi.models.rows import Rows
from ovi.models.separate_text import SeparateText, told
from ovi.models.tower import Tower
from tests.models.common import golden_model


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("A dog. <AUDCAP>Woof.<ENDAUDCAP>", Parts("A dog.", "", "Woof.")),
        ("She says <S>hello<E>, then <S> bye <E>. <AUDCAP>A voice.<ENDAUDCAP>",
         Parts("She says <S>hello<E>, then <S> bye <E>.", "hello bye", "A voice.")),
        ("A dog. Audio: Woof.", Parts("A dog.", "", "Woof.")),
        ("robotic, muffled", Parts("robotic, muffled", "", "robotic, muffled")),
        ("He says <S>hello<E>.", Parts("He says <S>hello<E>.", "hello", "He says .")),
        ("", Parts("", "", "")),
    ],
)  # fmt: skip
def test_a_prompt_has_three_parts(prompt: str, parts: Parts) -> None:
    assert split(prompt) == parts


def test_what_has_no_clap_is_refused() -> None:
    sets = ["text.kind=umt5_xxl", "text.prompt=separate"]
    with pytest.raises(ConfigError, match=r"text: prompt: separate has no CLAP beside kind=umt5_xxl; use combined, or"):
        config.load(Path(__file__).parents[2] / "params.yaml", sets=sets)


def test_towers_are_told_different_parts() -> None:
    encoder = SeparateText(32, 1, 24).init(0)
    asked = ("A dog. <AUDCAP>Woof.<ENDAUDCAP>", "A dog. <AUDCAP>Loud.<ENDAUDCAP>", "A cat <S>o<E>. Audio: Woof.")
    one, louder, other = encoder.encode(list(asked))
    assert torch.equal(told(one, "video"), told(louder, "video"))
    assert not torch.equal(told(one, "video")[:3], told(other, "video")[:3])
    sounds = [told(rows, "audio")[0] for rows in (one, louder, other)]
    torch.testing.assert_close(sounds[0], sounds[2])
    assert not torch.allclose(sounds[0], sounds[1])
    torch.testing.assert_close(told(one, "audio")[1], encoder.t5.encode([""])[0][0])  # nothing is said
    assert encoder.encode(["x" * 99])[0].shape == (2, 24, 32)
    same = torch.randn(5, 32)
    assert told(same, "audio") is told(same, "video") is same


def test_the_first_row_has_an_embedding_of_its_own_padded_or_in_rows() -> None:
    config = dataclasses.replace(golden_model().audio_model.config, sound_dim=6)
    tower, draw = Tower(config), torch.Generator().manual_seed(0)
    for weight in tower.parameters():
        weight.data.normal_(0, 0.2, generator=draw)
    audio = [torch.randn(n, config.in_dim, generator=draw) for n in (9, 4)]
    texts = [torch.randn(n, config.text_dim, generator=draw) for n in (3, 2)]
    t, lens = torch.tensor([100.0, 700.0]), torch.tensor([9, 4])

    def answer() -> Tensor:
        return tower(pad_sequence(audio, batch_first=True), t, pad_sequence(texts, batch_first=True), lens)

    padded = answer()
    rows = Rows.of([[0, 1]], [9, 4], [3, 2])
    packed = tower(rows.lay(audio), t, rows.lay_text(texts), rows=rows)
    torch.testing.assert_close(packed[0, rows.sample == 1], padded[1, :4], atol=1e-5, rtol=1e-5)
    padded.square().sum().backward()
    assert tower.sound_embedding[0].weight.grad.any()
    texts[0][0, 6:] += 1  # past the point's width: nobody looks there
    torch.testing.assert_close(answer(), padded)

"""The random T5: seeded, well scaled, and able to tell captions apart."""

import pytest
import torch

from ovi.models.text_encoder import RandomT5


@pytest.fixture(scope="module")
def encoder():
    return RandomT5(64, 2, 160).init(0)


def test_rows_are_bytes_and_an_end(encoder):
    assert encoder.tokens("né") == [ord("n") + 3, 0xC3 + 3, 0xA9 + 3, 1]
    rows = encoder.encode(["", "A lamp", "né"])
    assert [row.shape for row in rows] == [(1, 64), (7, 64), (4, 64)]
    assert all(row.dtype == torch.float32 and not row.requires_grad for row in rows)


def test_unit_variance(encoder):
    rows = torch.cat(encoder.encode(["A red lamp blinks in the dark.", "<AUDCAP>Low thuds.<ENDAUDCAP>"]))
    assert rows.std() == pytest.approx(1, abs=0.05)


def test_one_word_changes_much(encoder):
    """Captions that differ in one word differ in many rows, and in their mean."""
    red, blue = encoder.encode(["A red lamp blinks in the dark.", "A tan lamp blinks in the dark."])
    assert ((red - blue).norm(dim=1) > 0.5).sum() >= 6
    # The same words in another order, which a bag of bytes would not tell apart.
    one, other = encoder.encode(["a red lamp and a tan ball", "a tan lamp and a red ball"])
    assert (one.mean(0) - other.mean(0)).norm() > 0.1


def test_neighbours_in_a_batch_do_not_matter(encoder):
    alone = encoder.encode(["A lamp"])[0]
    together = encoder.encode(["A much longer caption than the other", "A lamp"])[1]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_a_seed_is_an_encoder(encoder):
    state, same, other = (RandomT5(64, 2, 160).init(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(state[key], same[key]) for key in state)
    assert not torch.equal(state["t5.shared.weight"], other["t5.shared.weight"])
    assert "t5.encoder.embed_tokens.weight" not in state


def test_long_texts_are_cut_and_said_so(caplog):
    encoder = RandomT5(32, 1, 8).init(0)
    cut, whole = encoder.encode(["0123456789", "0123456"])
    assert cut.shape == whole.shape == (8, 32)
    assert caplog.messages == ["text of 11 tokens cut to 8: 0123456789..."]
    torch.testing.assert_close(cut, whole)  # the first bytes and </s> are kept

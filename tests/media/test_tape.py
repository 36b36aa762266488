"""A tape plays what the whole sound holds, and forgets it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovi.media import cut
from ovi.media.decode import Sound
from ovi.media.tape import SLACK, Tape

RATE = 8000
WHOLE = np.random.default_rng(0).normal(0, 0.1, (4 * RATE, 2)).astype(np.float32)


def blocks(start: Fraction, size: int = 700) -> Iterator[Sound]:
    for first in range(0, len(WHOLE), size):
        yield Sound(WHOLE[first : first + size], RATE, start + Fraction(first, RATE))


@settings(max_examples=40, deadline=None)
@given(st.fractions(Fraction(-1), Fraction(1), max_denominator=1000), st.lists(st.integers(0, 4000), max_size=5))
def test_stretches_are_those_of_the_whole_sound(start: Fraction, places: list[int]) -> None:
    whole, tape = Sound(WHOLE, RATE, start), Tape(blocks(start))
    for place in sorted(places):
        at = Fraction(place, 1000)
        piece = tape.between(at, at + 1)
        assert np.array_equal(cut.window(piece, at, 16000, 16000), cut.window(whole, at, 16000, 16000))


def test_it_keeps_no_more_than_it_was_asked_for() -> None:
    tape = Tape(blocks(Fraction(0), size=80))
    longest = max(len(tape.between(Fraction(at, 10), Fraction(at + 5, 10)).samples) for at in range(35))
    assert longest <= (Fraction(1, 2) + 2 * SLACK) * RATE
    assert len(tape._held) <= (Fraction(1, 2) + 2 * SLACK) * RATE / 80 + 2


def test_beyond_its_end_is_nothing() -> None:
    tape = Tape(blocks(Fraction(0)))
    assert len(tape.between(Fraction(9), Fraction(10)).samples) == 0
    assert (tape.start, tape.end) == (0, 4)


def test_what_is_wrong_with_the_rest_is_said() -> None:
    def broken() -> Iterator[Sound]:
        yield from blocks(Fraction(0))
        raise ValueError("torn")

    tape = Tape(broken())
    tape.between(Fraction(0), Fraction(1))
    with pytest.raises(ValueError, match="torn"):
        tape.rest()

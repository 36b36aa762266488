"""Word errors against the golden ones: normalised texts, rates, and which errors, under each set of rules."""

from __future__ import annotations

import numpy as np
import pytest

from ovi.evaluation import words
from ovi.evaluation.words import WordErrors, errors
from tests.golden import evaluation as golden

CASE = golden.arrays("wer")
COUNT = len(CASE["ref"])
SPELLINGS = {"colour": "color", "favourite": "favorite"}
RULES = {"seed": words.seed_tts, "f5": words.f5_tts, "wh": words.whisper(SPELLINGS)}


def found(normalise: words.Normaliser) -> list[WordErrors]:
    return [errors(normalise(str(CASE["ref"][at])), normalise(str(CASE["hyp"][at]))) for at in range(COUNT)]


@pytest.mark.parametrize("rules", RULES)
def test_texts_are_normalised_as_published(rules: str) -> None:
    for at in range(COUNT):
        written = RULES[rules](str(CASE["ref"][at]))
        assert written == CASE[f"{rules}_ref"][at]
        if written:  # of the others the golden run stopped short
            assert RULES[rules](str(CASE["hyp"][at])) == CASE[f"{rules}_hyp"][at]


@pytest.mark.parametrize("rules", RULES)
def test_errors_are_the_golden_ones(rules: str) -> None:
    for one, counts, rate in zip(found(RULES[rules]), CASE[f"{rules}_sdi"], CASE[f"{rules}_wer"], strict=True):
        if one.rate is None:
            assert np.isnan(rate)
            continue
        assert [one.substitutions, one.deletions, one.insertions, one.hits] == list(counts)
        assert one.rate == pytest.approx(rate, abs=1e-12)


def test_the_marks_are_all_there() -> None:
    assert set(words.MARKS) == set(str(CASE["punctuation_all"]))


def test_verse_bench_leaves_marks_in() -> None:
    rates = [one.rate for one in found(words.verse_bench)]
    np.testing.assert_allclose([np.nan if rate is None else rate for rate in rates], CASE["versebench_wer"], atol=1e-12)
    assert errors(words.verse_bench("Hello, world!"), "hello world").rate == 1


def test_means_are_the_golden_ones() -> None:
    assert words.mean_rate(found(words.seed_tts)) == pytest.approx(float(CASE["seed_macro"]), abs=1e-12)
    assert words.corpus_rate(found(words.seed_tts)) == pytest.approx(float(CASE["seed_micro"]), abs=1e-12)


def test_where_nothing_is_written_there_is_no_rate() -> None:
    nothing = errors("", "some words")
    assert nothing == WordErrors(0, 0, 2, 0)
    assert nothing.rate is None
    assert words.mean_rate([nothing]) is words.corpus_rate([nothing]) is words.mean_rate([]) is None
    half = errors("two words", "two")
    assert words.mean_rate([nothing, half]) == words.corpus_rate([nothing, half]) == 0.5


@pytest.mark.parametrize(
    ("written", "heard", "counts"),
    [
        ("a b c", "a b c", (0, 0, 0, 3)),
        ("a b", "b a", (0, 1, 1, 1)),  # and not two substitutions
        ("a b c d", "d c b a", (2, 1, 1, 1)),
        ("a a", "a", (0, 1, 0, 1)),
        ("a", "", (0, 1, 0, 0)),
        ("a b x c", "b y c d", (1, 1, 1, 2)),
    ],
)
def test_of_equal_paths_the_one_that_jiwer_takes(written: str, heard: str, counts: tuple[int, ...]) -> None:
    one = errors(written, heard)
    assert (one.substitutions, one.deletions, one.insertions, one.hits) == counts

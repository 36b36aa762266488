"""Identities and scores: what changes a hash, and that a missing figure is null with its reason and its counts."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from ovi.errors import OviError
from ovi.evaluation import catalogue
from ovi.evaluation.metric import Identity, Score
from ovi.evaluation.results import Results

CLAP = catalogue.identity("clap_laion_htsat", "ab" * 32)


def test_every_part_of_an_identity_is_in_its_hash() -> None:
    others = [replace(CLAP, **{field.name: "another"}) for field in fields(Identity)]
    assert len({CLAP.hash, *(other.hash for other in others)}) == len(others) + 1
    assert replace(CLAP).hash == CLAP.hash
    assert len(CLAP.hash) == 16


def test_no_two_metrics_are_one() -> None:
    assert len({identity.hash for identity in catalogue.METRICS.values()}) == len(catalogue.METRICS)
    assert all(identity.metric for identity in catalogue.METRICS.values())


def fails() -> float:
    raise OviError("too few clips")


def test_what_cannot_be_computed_is_null_for_its_reason() -> None:
    assert Score.of(CLAP, 3, 1, lambda: 2) == Score(CLAP, 2.0, 3, 1)
    assert Score.of(CLAP, 3, 1, fails) == Score(CLAP, None, 3, 1, "too few clips")
    assert Score.of(CLAP, 3, 1, lambda: float("inf")).reason == "came out as inf"
    with pytest.raises(ZeroDivisionError):  # a defect of ours is no missing score
        Score.of(CLAP, 3, 1, lambda: 1 / 0)


def test_a_score_is_written_with_its_counts() -> None:
    results = Results()
    Score.of(CLAP, 3, 1, fails).write("clap", results)
    Score.of(CLAP, 1, 0, lambda: 0.5).write("kl", results)
    assert results.values == {"clap": None, "clap/n": 3, "clap/n_failed": 1, "kl": 0.5, "kl/n": 1, "kl/n_failed": 0}
    assert results.reasons == {"clap": "too few clips"}

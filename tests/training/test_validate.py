from __future__ import annotations

from typing import Any

import pytest
import torch

from ovi.training import engine as engines
from ovi.training import towers
from ovi.training.latents import LatentSet, Pool, read_empty_text
from ovi.training.validate import Validation
from tests.training import made

SETTINGS = made.settings()
COUNTS = {"av": {"train": 1, "val": 40}}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Validation, engines.Engine]:
    folder = tmp_path_factory.mktemp("validate")
    made.latents(folder, COUNTS)
    model = towers.init(towers.codecs.build("transformer", towers.codecs.model_config(SETTINGS)["transformer"]), 0)
    draw = torch.Generator().manual_seed(0)
    for weight in model.parameters():  # the head starts at zero: nothing would matter
        torch.nn.init.normal_(weight, std=0.3, generator=draw)
    engine = engines.make(model, SETTINGS.training, SETTINGS.training.fusion, engines.Place())
    pool = Pool([LatentSet.open(folder, "av", "val")])
    return Validation(pool, ("video", "audio"), 0, read_empty_text(folder), engine.device), engine


def test_at_most_32_clips_and_always_the_same_figures(parts: tuple[Validation, engines.Engine]) -> None:
    validation, engine = parts
    assert sum(len(chunk) for chunk in validation._chunks) == 32
    assert validation.losses(engine) == validation.losses(engine)


class Alone:
    """One of several ranks, asked for its share."""

    def __init__(self, engine: engines.Engine, rank: int, ranks: int) -> None:
        self.network, self.rank, self.ranks = engine.module, rank, ranks
        self.shares: list[torch.Tensor] = []
        self.passes = 0

    def module(self, *inputs: Any, **named: Any) -> Any:
        self.passes += 1
        return self.network(*inputs, **named)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        self.shares.append(values.clone())
        return values


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_work_and_add_up(parts: tuple[Validation, engines.Engine], ranks: int) -> None:
    validation, engine = parts
    whole = Alone(engine, 0, 1)
    validation.losses(whole)  # type: ignore[arg-type]
    members = [Alone(engine, rank, ranks) for rank in range(ranks)]
    for member in members:
        validation.losses(member)  # type: ignore[arg-type]
    assert torch.equal(sum(member.shares[0] for member in members), whole.shares[0])
    assert {member.passes for member in members} == {-(-whole.passes // ranks)}  # under ZeRO 3 no rank may sit one out


def test_a_shuffled_partner_is_heard(parts: tuple[Validation, engines.Engine]) -> None:
    validation, engine = parts
    found = validation.partners(engine)
    assert found["true"] == validation.losses(engine)  # every clip has one to be mixed with
    assert all(found["true"][name] != found["shuffled"][name] for name in ("video", "audio"))


def test_without_fusion_no_partner_matters(parts: tuple[Validation, engines.Engine]) -> None:
    """With the other tower's values silenced, true, shuffled and alone are the same."""
    validation, engine = parts
    kept = {name: weight.clone() for name, weight in engine.module.named_parameters() if "v_fusion" in name}
    with torch.no_grad():
        for name, weight in engine.module.named_parameters():
            if name in kept:
                weight.zero_()
    found = {**validation.partners(engine), "tower": validation.towers(engine)}
    with torch.no_grad():
        for name, weight in engine.module.named_parameters():
            if name in kept:
                weight.copy_(kept[name])
    for name in ("video", "audio"):
        assert found["shuffled"][name] == pytest.approx(found["true"][name], rel=1e-5)
        assert found["tower"][name] == pytest.approx(found["true"][name], rel=1e-5)

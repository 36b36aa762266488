from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ovi.errors import OviError
from ovi.training import engine as engines
from tests.training import engine_probe as probe

ZEROS = ("zero1", "zero2", "zero3")
CASES = (*ZEROS, "bf16", "bf16-3")


def ranks(count: int, out: Path, *start: Path) -> Path:
    """What DeepSpeed ranks made of the toy network."""
    command = [sys.executable, "-m", probe.__name__]
    rest = [str(count), str(out / "meeting"), str(out), *map(str, start)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with open(out / "log", "w") as log:
        started = [
            subprocess.Popen([*command, str(rank), *rest], env=environment, stdout=log, stderr=log)
            for rank in range(count)
        ]
        try:
            codes = [rank.wait(timeout=300) for rank in started]
        finally:
            for rank in started:
                rank.kill()
    assert codes == [0] * count, (out / "log").read_text()[-3000:]
    return out


@pytest.fixture(scope="module")
def deepspeed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ranks(2, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def torch_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same from one torch process."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("torch")
    losses = {}
    for case, precision in (("fp32", "fp32"), ("bf16", "bf16")):
        engine = engines.make(
            probe.Toy(), probe.training(engine="torch", precision=precision), probe.STAGE, engines.Place()
        )
        probe.save(engine.state(), out / f"{case}-start.safetensors")
        losses[case] = probe.run(engine, 0, 1)
        probe.save(engine.state(), out / f"{case}-first.safetensors")
        losses[case] += probe.run(engine, 1, 6)
        middle = engine.state()
        losses[case] += probe.run(engine, 6, 20)
        probe.save(engine.state(), out / f"{case}-end.safetensors")
        resumed = engines.make(
            probe.Toy(), probe.training(engine="torch", precision=precision), probe.STAGE, engines.Place()
        )
        resumed.restore(middle)
        assert probe.run(resumed, 6, 20) == losses[case][6:]
        probe.save(resumed.state(), out / f"{case}-resumed.safetensors")
    for case, precision in (("parts", "fp32"), ("parts-bf16", "bf16")):
        for parts in (1, 2, 4):
            stage = probe.STAGE.model_copy(update={"accumulate": parts})
            set_up = probe.training(engine="torch", precision=precision)
            losses[f"{case}{parts}"] = probe.watched(
                engines.make(probe.Toy(), set_up, stage, engines.Place()), 0, 20, parts
            )
    (out / "losses.json").write_text(json.dumps(losses))
    return out


def losses(folder: Path) -> dict[str, list[float]]:
    return json.loads((folder / "losses.json").read_text())


@pytest.mark.parametrize("zero", ZEROS)
def test_two_ranks_compute_what_one_process_computes(deepspeed: Path, torch_engine: Path, zero: str) -> None:
    ours, theirs = losses(torch_engine)["fp32"], losses(deepspeed)[zero]
    assert theirs == pytest.approx(ours, rel=1e-5)
    one, many = (
        load_file(f) for f in (torch_engine / "fp32-first.safetensors", deepspeed / f"{zero}-first.safetensors")
    )
    for name, moment in one.items():
        if name.startswith("exp_avg."):  # after one step: (1 - beta1) times the clipped gradient
            assert (many[name] - moment).norm() <= 1e-6 * moment.norm()


@pytest.mark.parametrize("other", ZEROS[1:])
@pytest.mark.parametrize("moment", ["start", "first", "middle", "end", "mean"])
def test_zero_stages_agree_to_the_bit(deepspeed: Path, other: str, moment: str) -> None:
    assert losses(deepspeed)["zero1"] == losses(deepspeed)[other]
    one, two = (deepspeed / f"{zero}-{moment}.safetensors" for zero in ("zero1", other))
    assert one.read_bytes() == two.read_bytes()


def test_another_number_of_ranks_continues_with_any_stage(deepspeed: Path, tmp_path: Path) -> None:
    found = losses(ranks(4, tmp_path, deepspeed / "zero3-middle.safetensors"))
    for zero in ZEROS:
        assert found[zero] == pytest.approx(losses(deepspeed)["zero1"][6:], rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_frozen_weights_come_whole_and_as_they_were(deepspeed: Path, case: str) -> None:
    frozen = load_file(deepspeed / f"{case}-frozen.safetensors")
    before = probe.Toy().frozen.state_dict()
    assert frozen.keys() == {f"frozen.{name}" for name in before}
    assert all(
        torch.equal(frozen[f"frozen.{name}"], x.to(frozen[f"frozen.{name}"].dtype)) for name, x in before.items()
    )


@pytest.mark.parametrize("case", CASES)
def test_the_mean_takes_the_place_of_the_weights(deepspeed: Path, case: str) -> None:
    end, mean = (load_file(deepspeed / f"{case}-{name}.safetensors") for name in ("end", "mean"))
    for name in (name for name in end if name.startswith("ema.")):
        assert torch.equal(mean["weights." + name.removeprefix("ema.")], end[name])
    model = probe.Toy()
    model.load_state_dict({n.removeprefix("ema."): x for n, x in end.items() if n.startswith("ema.")}, strict=False)
    model = model.bfloat16() if "bf16" in case else model
    want = float(model(probe.batch(0, 0, 1)[0]).detach().sum())
    assert losses(deepspeed)[f"{case}-mean"] == [pytest.approx(want, rel=1e-2 if "bf16" in case else 1e-6)]


def test_the_first_rank_is_heard_by_all(deepspeed: Path) -> None:
    assert losses(deepspeed)["told"] == [{"rank": 0, "text": ""}, None]


def test_a_gradient_that_is_not_finite_in_one_rank_counts_in_none(deepspeed: Path) -> None:
    straight = json.dumps(losses(deepspeed)["zero1"][:3])
    assert losses(deepspeed)["diverged"] == ["the gradient is not finite", straight] * 3


@pytest.mark.parametrize("case", CASES)
def test_restored_ranks_continue_to_the_bit(deepspeed: Path, case: str) -> None:
    assert losses(deepspeed)[f"{case}-resumed"] == losses(deepspeed)[case][6:]
    end, resumed = (deepspeed / f"{case}-{name}.safetensors" for name in ("end", "resumed"))
    assert end.read_bytes() == resumed.read_bytes()


@pytest.mark.parametrize("case", ["fp32", "bf16"])
def test_a_restored_process_continues_to_the_bit(torch_engine: Path, case: str) -> None:
    end, resumed = (torch_engine / f"{case}-{name}.safetensors" for name in ("end", "resumed"))
    assert end.read_bytes() == resumed.read_bytes()


def test_bf16_keeps_fp32_masters_and_takes_whole_steps(deepspeed: Path, torch_engine: Path) -> None:
    """Adam's first step is lr times the gradient's sign; a hidden step on zeros before it would make it smaller."""
    for folder in (deepspeed, torch_engine):
        start, first = (load_file(folder / f"bf16-{name}.safetensors") for name in ("start", "first"))
        moved = (first["weights.close.weight"] - start["weights.close.weight"]).abs()
        assert torch.all((moved - probe.STAGE.lr).abs() < 1e-4)
        assert int(first["step"]) == 1
    assert losses(deepspeed)["bf16"] == pytest.approx(losses(torch_engine)["bf16"], rel=0.02)


def test_frozen_weights_are_no_state_and_do_not_move(torch_engine: Path) -> None:
    model = probe.Toy()
    before = model.frozen.weight.clone()
    engine = engines.make(model, probe.training(engine="torch"), probe.STAGE, engines.Place())
    probe.run(engine, 0, 2)
    assert torch.equal(model.frozen.weight, before)
    assert not any("frozen" in name for name in engine.state().weights)


def test_a_checkpoint_of_ranks_continues_in_one_process(deepspeed: Path) -> None:
    engine = engines.make(probe.Toy(), probe.training(engine="torch"), probe.STAGE, engines.Place())
    engine.restore(probe.load(deepspeed / "zero3-middle.safetensors"))
    assert probe.run(engine, 6, 20) == pytest.approx(losses(deepspeed)["zero1"][6:], rel=1e-6)


def test_a_gradient_that_is_not_finite_stops_and_leaves_the_weights() -> None:
    model = probe.Toy()
    engine = engines.make(model, probe.training(engine="torch"), probe.STAGE, engines.Place())
    before = {name: x.clone() for name, x in engine.state().weights.items()}
    with pytest.raises(OviError, match="not finite"):
        engine.step([engine.forward(torch.full((2, 7), torch.inf)).mean()], 0.1)
    assert all(torch.equal(before[name], x) for name, x in engine.state().weights.items())


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_a_batch(torch_engine: Path, parts: int) -> None:
    """Losses and norms of twenty steps; the sums are rounded otherwise."""
    found = losses(torch_engine)
    for ours, theirs in zip(found[f"parts{parts}"], found["parts1"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert found[f"parts{parts}"][0] == pytest.approx(found["parts1"][0], rel=1e-6)


@pytest.mark.parametrize("case", ["parts1", "parts2", "parts3"])
def test_ranks_take_batches_in_parts_and_know_the_norms_of_parts(
    deepspeed: Path, torch_engine: Path, case: str
) -> None:
    ours, theirs = losses(deepspeed)[case], losses(torch_engine)["parts1"]
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    for row, other in zip(ours, theirs, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_parts_are_added_up_in_fp32(deepspeed: Path, torch_engine: Path) -> None:
    ours, theirs = losses(deepspeed)["parts-bf16"], losses(torch_engine)["parts-bf161"]
    assert [row[0] for row in ours] == pytest.approx([row[0] for row in theirs], rel=0.05)


def test_the_running_mean_follows_the_weights(torch_engine: Path) -> None:
    start, first = (load_file(torch_engine / f"fp32-{name}.safetensors") for name in ("start", "first"))
    for name in (name for name in start if name.startswith("weights.")):
        mean = "ema." + name.removeprefix("weights.")
        assert torch.equal(start[mean], start[name])
        torch.testing.assert_close(first[mean], 0.9 * start[name] + 0.1 * first[name])

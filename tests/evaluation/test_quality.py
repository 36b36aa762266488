"""The whole path of the metrics over short clips, with networks filled by the formula and without any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ovi.config import Evaluation
from ovi.config import Networks as Files
from ovi.errors import OviError
from ovi.evaluation import catalogue, formula, quality, record
from ovi.evaluation.listening import Real
from ovi.evaluation.measured import How, Measured
from ovi.evaluation.networks import NOT_COMPARABLE, Networks
from ovi.evaluation.results import Results
from ovi.evaluation.samples import Prompt
from ovi.evaluation.take import Made, said, told
from ovi.perception import panns, raft
from ovi.synthetic.scenes import render

GIVEN = ("synchformer", "imagebind-huge")  # networks that are not here
NETWORKS = ("panns", "vggish", "clap", "whisper", "syncnet", "clip", "raft", *GIVEN)
FRAMES, RATE = 27, 16_000  # 1.12 s: a little more than VGGish needs


def takes(count: int = 10) -> tuple[list[Made], dict[str, Real]]:
    made, real = [], {}
    for at in range(count):
        shot = render("mouth" if at in (0, 4, 8) else "bounce", at, frames=FRAMES, size=(32, 32))
        made.append(Made(f"clip_{at:02d}", shot.caption, f"real {at}", shot.frames, shot.audio))
        real[f"real {at}"] = render("bounce", 100 + at, frames=FRAMES, size=(16, 16)).audio, RATE
    return made, real


@pytest.fixture(scope="module")
def measured() -> dict[str, Measured]:
    """By formula; a narrow PANNs."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panns, "CHANNELS", (4, 4, 8, 8, 16, 16))
        patch.setattr(panns, "FEATURES", 16)
        patch.setattr(raft.Raft.forward, "__defaults__", (1,))
        return measure(Evaluation(formula_networks=True))


def measure(chosen: Evaluation, count: int = 10) -> dict[str, Measured]:
    found = quality.measure(*takes(count), Networks(chosen), How(0, 100))
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def test_with_formula_networks_all_is_measured_and_nothing_is_comparable(measured: dict[str, Measured]) -> None:
    results = Results()
    for one in measured.values():
        one.write(results)
    assert [name for name, one in measured.items() if one.score.value is None] == [
        "desync_synchformer", "javis_imagebind",
    ]  # fmt: skip
    networks = [
        name
        for name in measured
        if catalogue.METRICS[name].backbone not in ("none", "farneback-opencv", "opencv-dis-v1", *GIVEN)
    ]
    assert len(networks) == 13
    for name, one in measured.items():
        if catalogue.METRICS[name].backbone in GIVEN:
            continue
        assert one.comparable == (name not in networks)
        assert results.reasons.get(name) == (NOT_COMPARABLE if name in networks else None)
        assert results.values[one.key] == pytest.approx(one.score.value, rel=1e-5)
        assert one.key == (f"not_comparable/{name}" if name in networks else name)
        assert one.score.n + one.score.n_failed == (3 if name.startswith(("wer", "lse")) else 10)
        assert one.score.identity.hash != catalogue.METRICS[name].hash or name not in networks
    for name in ("kl_panns_cnn14_16k", "clap_laion_htsat", "fd_vggish", "is_panns_cnn14_16k", "loudness_lufs"):
        name = measured[name].key
        assert results.values[f"{name}/ci_low"] < results.values[f"{name}/ci_high"]
    assert results.reasons["not_comparable/fd_vggish/at_infinity"].startswith(
        "extrapolating a distance of 128 features needs 256"
    )
    assert results.values["not_comparable/wer_whisper"] > 0


def test_equal_clips_give_equal_figures(measured: dict[str, Measured]) -> None:
    one, other = (formula.filled(torch.nn.Linear(3, 4)) for _ in range(2))
    assert torch.equal(one.weight, other.weight)
    per_clip = measured["clap_laion_htsat"].per_clip
    assert list(per_clip) == [f"clip_{at:02d}" for at in range(10)]
    assert measured["clap_laion_htsat"].score.value == pytest.approx(np.mean(list(per_clip.values())))


def test_without_networks_their_figures_are_null_and_the_others_are_there() -> None:
    found = measure(Evaluation(), 4)
    for name, one in found.items():
        if catalogue.METRICS[name].backbone.startswith(NETWORKS):
            assert one.score.value is None
            assert one.score.reason.startswith("not applicable: ")
            assert "(evaluation." in one.score.reason  # where to give it
        else:
            assert one.score.value is not None


def test_a_clip_that_fails_is_counted_and_named() -> None:
    made, real = takes(4)
    silent = replace(made[1], audio=np.zeros_like(made[1].audio))
    found = {
        one.name: one for one in quality.measure([made[0], silent, *made[2:]], real, Networks(Evaluation()), How(0, 50))
    }
    loudness = found["loudness_lufs"]
    assert (loudness.score.n, loudness.score.n_failed) == (3, 1)
    assert "silent" in loudness.failed["clip_01"]
    assert quality.measure([], real, Networks(Evaluation(formula_networks=True)), How(0, 50))[0].score.value is None


def test_a_missing_file_of_weights_is_one_line(tmp_path: Path) -> None:
    chosen = Evaluation(weights=Files(vggish=str(tmp_path / "none.pth")))
    with pytest.raises(OviError, match=r"none\.pth: no such file"):
        measure(chosen, 3)


def test_speech_and_sound_of_a_prompt() -> None:
    spoken = "A man says <S>hello there<E>, then <S>bye<E>. <AUDCAP>Wind.<ENDAUDCAP>"
    assert (said(spoken), told(spoken)) == ("hello there bye", "Wind.")
    assert (said("Rain. <AUDCAP>Rain.<ENDAUDCAP>"), told("It <S>rains<E>.")) == ("", "It rains.")


def test_a_record_is_stable_and_comes_back(tmp_path: Path, measured: dict[str, Measured]) -> None:
    asked = [Prompt("bounce", at, take.caption, at, take.partner) for at, take in enumerate(takes()[0])]
    named = [replace(prompt, scene="clip") for prompt in asked]
    for folder in ("one", "other"):
        record.write(tmp_path / folder, {"model": "ab"}, named, list(measured.values()))
    for file in (record.REPORT, record.EVIDENCE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    back = record.read(tmp_path / "one")
    for name, one in measured.items():
        assert back.metric(name)["hash"] == one.score.identity.hash
        if one.score.value is not None:
            assert back.evidence[name].exact() == pytest.approx(one.score.value, rel=1e-5)
    assert back.about["clips"][0]["values"].keys() >= {"clap_laion_htsat", "wer_f5_tts"}
    (tmp_path / "one" / record.EVIDENCE).write_bytes(b"nothing")
    with pytest.raises(OviError, match="evaluate again"):
        record.read(tmp_path / "one")

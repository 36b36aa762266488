"""Settings: what loads, what is refused, and that every refusal is one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ovi import config
from ovi.errors import ConfigError

PARAMS = Path(__file__).parent.parent / "params.yaml"


def load(**kwargs: object) -> config.Settings:
    return config.load(PARAMS, **kwargs)  # type: ignore[arg-type]


def test_demo_values_are_the_papers_clip() -> None:
    settings = load()
    assert (settings.clip.frames, settings.clip.fps, settings.clip.samples) == (121, 24, 80_640)
    assert (settings.training.fusion.video_weight, settings.training.fusion.audio_weight) == (0.85, 0.15)


@pytest.mark.parametrize("profile", ["tiny", *yaml.safe_load(PARAMS.read_text())["profiles"]])
def test_every_profile_loads_and_survives_a_round_trip(profile: str, tmp_path: Path) -> None:
    settings = load(profile=profile)
    assert settings.profile == profile
    (tmp_path / "settings.yaml").write_text(config.dump(settings))
    assert config.load(tmp_path / "settings.yaml") == settings


def test_paper_profile_has_the_papers_numbers() -> None:
    settings = load(profile="ovi-11b")
    model, train = settings.model, settings.training
    assert (model.dim, model.ffn_dim, model.heads, model.layers) == (3072, 14336, 24, 30)
    assert model.rope_theta == 10_000
    assert not model.local_start
    assert train.fusion.shift == 1
    assert (train.audio_pretrain.steps, train.audio_pretrain.batch, train.audio_pretrain.lr) == (50_000, 2880, 1e-4)
    assert (train.fusion.steps, train.fusion.batch, train.fusion.lr) == (40_000, 768, 5e-5)
    assert (train.audio_pretrain.betas, train.fusion.betas) == ((0.9, 0.999), (0.9, 0.95))
    assert (train.fusion.video_weight, train.fusion.audio_weight, train.fusion.shared_t) == (0.85, 0.15, True)
    for stage in (train.video_backbone, train.audio_pretrain, train.audio_finetune, train.fusion):
        assert (stage.t, stage.shift, stage.eps) == ("uniform", 1.0, 1e-8)
        assert (stage.warmup, stage.cooldown, stage.weight_decay, stage.ema) == (0, 0, 0, 0)
    assert settings.curation.min_pixels == 720 * 720 + 1


@pytest.mark.parametrize("stage", ["video_backbone", "audio_pretrain", "audio_finetune", "fusion"])
def test_paper_profile_takes_nothing_of_a_stage_from_the_demo(stage: str) -> None:
    """A profile is laid over the demo: what a stage of the paper does not say itself, the demo's would decide."""
    said = yaml.safe_load(PARAMS.read_text())["profiles"]["ovi-11b"]["training"][stage]
    kind = config.Training.model_fields[stage].annotation
    assert said.keys() == kind.model_fields.keys()


def test_a_mean_is_exported_only_where_there_is_one() -> None:
    with pytest.raises(ConfigError, match="there is no running mean to export; set ema"):
        load(sets=["training.fusion.export_ema=true"])


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("training.fusion.stepz=3", "training.fusion.stepz: unknown key; allowed here"),
        ("nonsense=1", "nonsense: unknown key; allowed here"),
        ("training.fusion.steps=0", "training.fusion.steps: Input should be greater than or equal to 1, given 0"),
        ("training.fusion.steps=many", "training.fusion.steps: "),
        ("clip.frames=120", "clip: frames=120 must be 4k+1"),
        ("model.heads=7", "model: dim=96 must split into heads=7"),
        ("codec.kind=magic", "codec.kind: "),
        ("seed", "write it as section.key=value"),
        ("seed.deeper=1", "is a value, not a section"),
    ],
)
def test_bad_words_are_one_line_with_the_key(word: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(sets=[word])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 78


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="ovi-11b"):
        load(profile="huge")


@pytest.mark.parametrize("text", ["", "- 1\n", "a: [", "\x00"])
def test_damaged_params_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        config.load(path)


@given(st.text(max_size=40))
def test_no_word_crashes(word: str) -> None:
    try:
        load(sets=[word])
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017

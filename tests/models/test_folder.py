"""Model folders: what is saved is what is loaded, equal content is equal bytes, damage is one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ovi.config import load
from ovi.errors import ConfigError, OviError
from ovi.models import codecs
from ovi.models.folder import ModelFolder, digest, load_model, save_folder
from ovi.models.fusion import init
from ovi.storage import sha256_folder

SETTINGS = load(
    Path(__file__).parents[2] / "params.yaml",
    sets=["model.dim=24", "model.ffn_dim=32", "model.heads=2", "model.layers=2", "text.dim=32"],
)


@pytest.fixture(scope="module")
def parts():
    """The components of a small model: fitted codecs, a text encoder, two towers."""
    draw = np.random.default_rng(0)
    clips = [draw.integers(0, 255, (9, 16, 16, 3), dtype=np.uint8) for _ in range(3)]
    sounds = [draw.normal(0, 0.1, 16000).astype(np.float32) for _ in range(3)]
    config = codecs.model_config(SETTINGS)
    return {
        "transformer": init(codecs.build("transformer", config["transformer"]), 0).state_dict(),
        "video_codec": codecs.fit_video_codec(SETTINGS, clips).state_dict(),
        "audio_codec": codecs.fit_audio_codec(SETTINGS, sounds).state_dict(),
        "text_encoder": codecs.new_text_encoder(SETTINGS).state_dict(),
    }


@pytest.fixture
def folder(parts, tmp_path):
    save_folder(tmp_path / "model", codecs.model_config(SETTINGS), parts, {"stage": "test"})
    return tmp_path / "model"


def test_what_is_saved_is_what_is_loaded(parts, folder):
    model = load_model(folder)
    for name, module in (
        ("transformer", model.fusion),
        ("video_codec", model.video_codec),
        ("audio_codec", model.audio_codec),
        ("text_encoder", model.text_encoder),
    ):
        state = module.state_dict()
        assert state.keys() == parts[name].keys()
        assert all(torch.equal(state[key], parts[name][key]) for key in state)
        assert not module.training
    assert (model.clip.samples, model.picture, model.lineage) == (80640, (32, 32), {"stage": "test"})
    assert model.fusion.audio_model.config == codecs.tower_configs(SETTINGS)[1]


def test_two_saves_are_equal_bytes(parts, folder, tmp_path):
    save_folder(tmp_path / "again", codecs.model_config(SETTINGS), dict(reversed(parts.items())), {"stage": "test"})
    assert sha256_folder(folder) == sha256_folder(tmp_path / "again")


def test_the_digest_is_of_weights_and_configuration_not_of_lineage(parts, folder, tmp_path):
    save_folder(tmp_path / "other", codecs.model_config(SETTINGS), parts, {"stage": "another"})
    assert digest(tmp_path / "other") == digest(folder)
    changed = {**parts, "audio_codec": {**parts["audio_codec"], "scale": parts["audio_codec"]["scale"] * 2}}
    save_folder(tmp_path / "other", codecs.model_config(SETTINGS), changed, {"stage": "test"})
    assert digest(tmp_path / "other") != digest(folder)


def test_a_stage_links_the_frozen_components_of_its_base(parts, tmp_path):
    config = codecs.model_config(SETTINGS)
    frozen = {name: parts[name] for name in ("video_codec", "audio_codec", "text_encoder")}
    save_folder(tmp_path / "codec", config, frozen, {})
    save_folder(tmp_path / "stage", config, {"transformer": parts["transformer"]}, {}, base=tmp_path / "codec")
    assert (tmp_path / "stage/text_encoder.safetensors").samefile(tmp_path / "codec/text_encoder.safetensors")
    assert load_model(tmp_path / "stage").config == config
    with pytest.raises(OviError, match="has no transformer; it has audio_codec, text_encoder, video_codec"):
        load_model(tmp_path / "codec")
    other = {**config, "text_encoder": {**config["text_encoder"], "max_tokens": 9}}
    with pytest.raises(OviError, match="its text_encoder was made with other settings"):
        save_folder(tmp_path / "bad", other, {"transformer": parts["transformer"]}, {}, base=tmp_path / "codec")
    assert not (tmp_path / "bad").exists()


def test_other_files_may_lie_beside(folder):
    (folder / "metrics.json").write_text("{}")
    assert ModelFolder.open(folder).lineage == {"stage": "test"}


def drop(folder):
    (folder / "video_codec.safetensors").unlink()


def truncate(folder):
    file = folder / "transformer.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def flip(folder):
    file = folder / "transformer.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def edit_config(folder):
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"fps": 24', '"fps": 25'))


def edit_about(folder, **values):
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**about, **values}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.json").unlink(), "not a model folder"),
        (lambda folder: (folder / "model.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "model.json").write_text("[]"), "not as this project writes it"),
        (lambda folder: edit_about(folder, format=7), "has format 7, this version reads 1"),
        (lambda folder: edit_about(folder, components={"transformer": {}}), "not as this project writes it"),
        (drop, "video_codec.safetensors: missing"),
        (truncate, "bytes, model.json says"),
        (flip, "its sha256 is not the one in model.json"),
        (edit_config, "config.json: its sha256 is not"),
    ],
)
def test_damage_is_one_line(folder, damage, words):
    damage(folder)
    with pytest.raises(OviError, match=words) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("audio_model.head.modulation"), "lacks audio_model.head.modulation;"),
        (lambda state: state.update(extra=torch.zeros(1)), "has unexpected extra;"),
        (lambda state: state.update({"video_model.head.head.bias": torch.zeros(3)}), r"is \[3\], config.json asks for"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(parts, tmp_path, change, words):
    state = dict(parts["transformer"])
    change(state)
    save_folder(tmp_path / "model", codecs.model_config(SETTINGS), {**parts, "transformer": state}, {})
    with pytest.raises(OviError, match=words) as caught:
        load_model(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_kinds_that_are_not_there_are_one_line():
    settings = load(Path(__file__).parents[2] / "params.yaml", sets=["codec.kind=ovi", "text.kind=umt5_xxl"])
    with pytest.raises(ConfigError, match=r"codec.kind: 'ovi' is not available in this version; available: linear"):
        codecs.fit_video_codec(settings, [])
    with pytest.raises(ConfigError, match=r"text.kind: 'umt5_xxl' is not available"):
        codecs.new_text_encoder(settings)


def test_towers_of_the_settings():
    video, audio = codecs.tower_configs(SETTINGS)
    assert (video.in_dim, audio.in_dim, video.text_len, audio.patch_size) == (16, 20, 160, (1,))
    assert audio.rope_scale == pytest.approx(0.19676, abs=1e-5)
    assert video.rope_scale == 1.0
    flat = SETTINGS.model_copy(update={"model": SETTINGS.model.model_copy(update={"rope_scaling": False})})
    assert codecs.tower_configs(flat)[1].rope_scale == 1.0


def test_the_paper_s_area_gives_704_pixels():
    """720 is not a multiple of 32; the release generates 704x704."""
    sizes = {"target_pixels": 518_400, "side_multiple": 32}
    large = SETTINGS.model_copy(update={"curation": SETTINGS.curation.model_copy(update=sizes)})
    assert codecs.picture_size(large) == (704, 704)
    odd = SETTINGS.model_copy(update={"curation": SETTINGS.curation.model_copy(update={"side_multiple": 12})})
    with pytest.raises(ConfigError, match="takes 32x32 pixels"):
        codecs.picture_size(odd)

"""Model folders: what is saved is what is loaded, equal content is equal bytes, damage is one line."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ovi import storage
from ovi.config import load
from ovi.errors import ConfigError, OviError
from ovi.models import codecs
from ovi.models.folder import ModelFolder, digest, load_model, save_folder
from ovi.models.fusion import init
from ovi.storage import sha256_folder
from tests.models.common import PATCHES
from tests.models.test_umt5 import tokenizer_file

PARAMS = Path(__file__).parents[2] / "params.yaml"
SMALL = ["model.dim=24", "model.ffn_dim=32", "model.heads=2", "model.layers=2", "text.dim=32"]
SETTINGS = load(PARAMS, sets=[*SMALL, *PATCHES])


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


def edit_file(folder, name):
    components = json.loads((folder / "model.json").read_text())["components"]
    components["transformer"]["file"] = name
    edit_about(folder, components=components)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.json").unlink(), "not a model folder"),
        (lambda folder: (folder / "model.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "model.json").write_text("[]"), "not as this project writes it"),
        (lambda folder: edit_about(folder, format=7), "has format 7, this version reads 2"),
        (lambda folder: edit_about(folder, components={"transformer": {}}), "not as this project writes it"),
        (lambda folder: edit_file(folder, "../x.safetensors"), r"names ../x.safetensors, which is not in the folder"),
        (lambda folder: edit_file(folder, "/etc/passwd"), r"names /etc/passwd, which is not in the folder"),
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


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_no_numbers_are_refused_by_name(parts, tmp_path, number, dtype):
    state = {key: tensor.to(dtype, copy=True) for key, tensor in parts["transformer"].items()}
    state["audio_model.blocks.1.ffn.2.weight"][3, 5] = number
    save_folder(tmp_path / "model", codecs.model_config(SETTINGS), {**parts, "transformer": state}, {})
    with pytest.raises(
        OviError, match=r"transformer.safetensors: NaN or infinity in audio_model.blocks.1.ffn.2.weight;"
    ):
        load_model(tmp_path / "model")


def test_a_sum_that_overflows_is_not_infinity(parts, tmp_path):
    state = {key: tensor.half() for key, tensor in parts["transformer"].items()}
    state["audio_model.head.modulation"].fill_(60000)
    save_folder(tmp_path / "model", codecs.model_config(SETTINGS), {**parts, "transformer": state}, {})
    assert load_model(tmp_path / "model").fusion.audio_model.head.modulation.eq(60000).all()


def test_a_damaged_file_is_told_before_what_it_caused(parts, folder):
    """A NaN that was not saved but got into the file later: the file is at fault, not the training."""
    file = folder / "transformer.safetensors"
    start = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    with open(file, "r+b") as data:
        data.seek(start)
        data.write(b"\xff" * 4)
    with pytest.raises(OviError, match="its sha256 is not"):
        load_model(folder)


def test_every_file_is_hashed_once_a_load(folder, monkeypatch):
    hashed = []
    real = storage.sha256
    monkeypatch.setattr(storage, "sha256", lambda path: hashed.append(Path(path).name) or real(path))
    load_model(folder)
    assert sorted(hashed) == sorted(["config.json", *(f"{name}.safetensors" for name in codecs.COMPONENTS)])


def test_a_dtype_is_for_the_transformer_and_the_text_encoder(folder):
    model = load_model(folder, dtype=torch.bfloat16)
    kinds = [next(iter(part.state_dict().values())).dtype for part in (model.fusion, model.text_encoder)]
    assert kinds == [torch.bfloat16, torch.bfloat16]
    assert model.video_codec.basis.dtype == model.audio_codec.basis.dtype == torch.float32
    assert model.text_encoder.encode(["a lamp"])[0].dtype == torch.float32


LOAD = """
import sys, threading
import torch
from transformers import UMT5EncoderModel  # before the count begins: libraries are no weights
from ovi.models.folder import load_model

def private():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, private())

for dtype in (None, torch.float32):
    before = peak = private()
    done = threading.Event()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    model = load_model(sys.argv[1], dtype=dtype)
    done.set()
    watcher.join()
    print(peak - before, sum(x.nbytes for x in model.fusion.state_dict().values()))
    del model
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_holds_one_copy(parts, tmp_path):
    """150 MB as they are stored are pages of the file, with nothing private; cast while read they are 300 MB once."""
    sets = ["model.dim=512", "model.ffn_dim=2048", "model.heads=4", "model.layers=6", "text.dim=32"]
    config = codecs.model_config(load(PARAMS, sets=[*sets, *PATCHES]))
    with torch.device("meta"):
        shapes = codecs.build("transformer", config["transformer"]).state_dict()
    state = {name: torch.full(like.shape, 0.01, dtype=torch.bfloat16) for name, like in shapes.items()}
    save_folder(tmp_path / "model", config, {**parts, "transformer": state}, {})
    command = [sys.executable, "-c", LOAD, str(tmp_path / "model")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (stored, small), (cast, large) = (map(int, line.split()) for line in said.splitlines())
    assert 280e6 < large == 2 * small
    assert stored < 0.3 * small  # threads and buffers of 1 MiB
    assert cast < 1.3 * large


def test_a_tokenizer_is_a_file_of_the_folder(parts, tmp_path):
    text = {"kind": "umt5", "dim": 32, "layers": 1, "max_tokens": 9, "vocabulary": 40, "ffn_dim": 8, "heads": 2}
    config = {**codecs.model_config(SETTINGS), "text_encoder": text, "tokenizer": {"kind": "tokenizers"}}
    encoder = codecs.build("text_encoder", text)
    file = tokenizer_file(tmp_path / "some.json")
    frozen = {**parts, "text_encoder": encoder.state_dict(), "tokenizer": file}
    del frozen["transformer"]
    save_folder(tmp_path / "codec", config, frozen, {})
    save_folder(tmp_path / "model", config, {"transformer": parts["transformer"]}, {}, base=tmp_path / "codec")
    assert (tmp_path / "model/tokenizer.json").samefile(tmp_path / "codec/tokenizer.json")
    assert ModelFolder.open(tmp_path / "model").components["tokenizer"]["kind"] == "tokenizers"
    assert load_model(tmp_path / "model").text_encoder.tokens("ab") == [*encoder.read_tokenizer(file).tokens("ab")]
    before = digest(tmp_path / "model")
    other = tokenizer_file(tmp_path / "other.json", ends=True)
    save_folder(tmp_path / "model", config, {**frozen, "transformer": parts["transformer"], "tokenizer": other}, {})
    assert digest(tmp_path / "model") != before
    (tmp_path / "model/tokenizer.json").write_text("{}")
    with pytest.raises(OviError, match=r"2 bytes, model\.json says"):
        load_model(tmp_path / "model")


def test_the_settings_name_released_networks_that_nothing_makes_here():
    settings = load(PARAMS, sets=["codec.kind=ovi", "text.kind=umt5_xxl"])
    config = codecs.model_config(settings)
    assert [config[name]["kind"] for name in codecs.COMPONENTS] == ["fusion", "wan22", "mmaudio", "umt5"]
    assert config["tokenizer"] == {"kind": "tokenizers"}
    with pytest.raises(ConfigError, match=r"codec.kind: 'ovi' has released weights, nothing makes new ones here"):
        codecs.fit_video_codec(settings, [])
    with pytest.raises(ConfigError, match=r"text.kind: 'umt5_xxl' has released weights"):
        codecs.new_text_encoder(settings)
    with pytest.raises(
        ConfigError, match=r"video_codec: 'vq' is not available in this version; available: linear, wan22"
    ):
        codecs.build("video_codec", {"kind": "vq"})


def test_what_config_json_says_of_clips():
    config = codecs.model_config(SETTINGS)
    assert (config["version"], config["audio_latents"]) == (None, 157)
    assert config["picture"] == {"height": 32, "width": 32, "area": 1024, "multiple": 32}
    assert "tokenizer" not in config


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


def test_a_large_file_is_hashed_again_only_when_it_was_touched(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("ovi.models.folder.LARGE", 1)
    hashed = []
    honest = storage.sha256
    monkeypatch.setattr(storage, "sha256", lambda path: hashed.append(Path(path).name) or honest(path))
    ModelFolder.open(folder)
    assert len(hashed) == 5
    hashed.clear()
    ModelFolder.open(folder)
    assert hashed == []
    file = folder / "audio_codec.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(OviError, match=r"audio_codec\.safetensors: its sha256 is not the one"):
        ModelFolder.open(folder)
    assert hashed == ["audio_codec.safetensors"]

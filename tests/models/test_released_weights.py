"""Released files become model folders and come back byte for byte; what is wrong is named by file and key."""

import json
import math
import re
import shutil
import time

import pytest
import torch
from safetensors.torch import save_file

from ovi.config import load
from ovi.errors import OviError
from ovi.models import checkpoint_file, codecs
from ovi.models import released_layout as layout
from ovi.models.folder import ModelFolder, load_model
from ovi.models.released_layout import AUDIO, BACKBONE, OLDER_VOICE, TEXT, VERSIONS, VIDEO, VOICE
from ovi.models.released_weights import backbone, export_weights, import_weights, verify_weights
from tests import golden
from tests.models import released

FILES = [VERSIONS["720x720_5s"].file, VIDEO.file, TEXT.file, AUDIO.file, VOICE.file]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return released.release(tmp_path_factory.mktemp("release") / "ckpts")


@pytest.fixture(scope="module")
def model(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "ovi"
    import_weights(source, "720x720_5s", out)
    return out


@pytest.fixture
def own(source, tmp_path):
    """A release to be spoilt."""
    return shutil.copytree(source, tmp_path / "ckpts")


def raw(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(raw(got[name]), raw(tensor)), name


@pytest.mark.parametrize("older_names", [True, False])
def test_in_and_out_again_is_the_same_byte_for_byte(tmp_path, older_names):
    source = released.release(tmp_path / "ckpts", older_names=older_names)
    import_weights(source, "720x720_5s", tmp_path / "model")
    export_weights(tmp_path / "model", tmp_path / "again")
    for file in FILES:
        assert_same(checkpoint_file.read(tmp_path / "again" / file), checkpoint_file.read(source / file))
    names = checkpoint_file.read(tmp_path / "again" / VOICE.file)
    assert any(name.endswith("weight_g") for name in names) == older_names
    assert torch.load(tmp_path / "again" / VOICE.file, weights_only=True).keys() == {"generator"}
    assert (tmp_path / "again" / layout.TOKENIZER).read_bytes() == (source / layout.TOKENIZER).read_bytes()
    import_weights(tmp_path / "again", "720x720_5s", tmp_path / "second")
    assert ModelFolder.open(tmp_path / "second").digest == ModelFolder.open(tmp_path / "model").digest


def test_an_imported_folder_is_a_whole_model(model, source):
    loaded = load_model(model)
    assert (loaded.clip.frames, loaded.picture, loaded.config["audio_latents"]) == (121, (704, 704), 157)
    assert loaded.config["picture"] == {"height": 704, "width": 704, "area": 518_400, "multiple": 32}
    assert loaded.config["version"] == "720x720_5s"
    assert loaded.fusion.audio_model.config == released.towers()["audio"]
    assert loaded.fusion.audio_model.config.rope_scale == 0.19676
    assert loaded.fusion.video_model.head.head.weight.dtype == torch.bfloat16
    assert loaded.text_encoder.encode(["a b"])[0].shape == (5, released.TEXT_DIM)
    video = loaded.video_codec.decode(loaded.video_codec.encode(torch.zeros(1, 3, 5, 32, 32)))
    assert video.shape == (1, 3, 5, 32, 32)
    sound = loaded.audio_codec.encode(torch.zeros(1, 4096))
    assert sound.shape == (1, 8, 20)
    assert loaded.audio_codec.decode(sound).shape == (1, 4096)


def test_the_transformer_is_linked_and_nothing_is_cast(model, source):
    assert (model / "transformer.safetensors").samefile(source / FILES[0])
    folder = ModelFolder.open(model)
    kinds = {name: {tensor.dtype for tensor in folder.tensors(name).values()} for name in codecs.COMPONENTS}
    half, single = {torch.bfloat16}, {torch.float32}
    assert kinds == {"transformer": half, "text_encoder": half, "video_codec": single, "audio_codec": single}
    assert folder.components["tokenizer"]["kind"] == "tokenizers"


def test_the_ten_second_version(own, tmp_path):
    save_file(released.transformer(), own / VERSIONS["960x960_10s"].file)
    import_weights(own, "960x960_10s", tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert (loaded.clip.frames, loaded.picture, loaded.config["audio_latents"]) == (241, (960, 960), 314)
    assert loaded.fusion.audio_model.config.rope_scale == 0.19676
    assert FILES[0] not in export_weights(tmp_path / "model", tmp_path / "again")
    assert (tmp_path / "again" / VERSIONS["960x960_10s"].file).samefile(own / VERSIONS["960x960_10s"].file)


def test_a_dump_of_deepspeed_in_place_of_the_transformer(own, tmp_path):
    state = released.transformer()
    dump = tmp_path / "mp_rank_00_model_states.pt"
    torch.save({"module": state, "dp_world_size": 8}, dump)
    (own / FILES[0]).unlink()
    import_weights(own, "720x720_5s", tmp_path / "model", transformer=dump)
    assert_same(ModelFolder.open(tmp_path / "model").tensors("transformer"), state)


def test_sizes_that_no_shape_tells_come_from_the_release_s_configs(own, tmp_path):
    sizes = {"dim": 64, "heads": 4}
    save_file(released.transformer(**sizes), own / FILES[0])
    towers = released.towers(**sizes)
    for side, file in layout.TOWER_FILES.items():
        (own / file).write_text(json.dumps(layout.tower_about(towers[side]) | {"text_len": 77, "eps": 1e-5}))
    import_weights(own, "720x720_5s", tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    config = loaded.fusion.video_model.config
    assert (config.heads, config.text_len, config.eps) == (4, 77, 1e-5)
    assert loaded.text_encoder.max_tokens == 77
    export_weights(tmp_path / "model", tmp_path / "again")
    for file in layout.TOWER_FILES.values():
        assert json.loads((tmp_path / "again" / file).read_text()) == json.loads((own / file).read_text())


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"num_heads": 3}, "3 heads do not split 128 channels"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_heads": "24"}, "num_heads is '24'"),
        ([], "not a model's config"),
    ],
)
def test_configs_that_cannot_be(own, tmp_path, about, words):
    (own / layout.TOWER_FILES["video"]).write_text(json.dumps(about))
    with pytest.raises(OviError, match=words):
        import_weights(own, "720x720_5s", tmp_path / "model")


def test_the_wan_backbone_in_shards(tmp_path):
    state = released.backbone()
    released.shards(tmp_path / "ckpts" / layout.WAN, state)
    assert "blocks.0.modulation" in state
    import_weights(tmp_path / "ckpts", BACKBONE, tmp_path / "model")
    folder = ModelFolder.open(tmp_path / "model")
    tensors = folder.tensors("transformer")
    assert len(tensors) == len(state)
    assert torch.equal(tensors["video_model.blocks.1.modulation.modulation"], state["blocks.1.modulation"])
    assert (folder.config["version"], set(folder.components)) == (None, {"transformer"})
    files = export_weights(tmp_path / "model", tmp_path / "again")
    assert files == [f"{layout.WAN}/config.json", f"{layout.WAN}/{layout.DIT}.safetensors"]
    assert_same(checkpoint_file.read(tmp_path / "again" / files[1]), state)
    assert_same(backbone(tmp_path / "again" / layout.WAN).tensors(), tensors)


def test_files_of_another_kind_are_named(own, tmp_path):
    def refused(words, version="720x720_5s", **named):
        with pytest.raises(OviError, match=words) as caught:
            import_weights(own, version, tmp_path / "model", **named)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "model").exists()

    refused("model_960x960.safetensors: no such file; .* has 720x720_5s, get this", "960x960_5s")
    (own / FILES[0]).rename(own / layout.EIGHT_BITS)
    refused("has 8-bit weights, which cannot be imported, get this")
    save_file({"a": torch.ones(1).to(torch.float8_e4m3fn)}, own / FILES[0])
    refused("holds 8-bit weights; take the 16-bit ones")
    save_file({k: x for k, x in released.transformer().items() if k.startswith("video")}, own / FILES[0])
    refused("is the video tower of an Ovi model alone, not an Ovi model")
    save_file(released.backbone(), own / FILES[0])
    refused("is a Wan video model of 128 channels for latents of 48, not an Ovi model")
    save_file({**released.backbone(), "blocks.0.cross_attn.k_img.weight": torch.ones(1)}, own / FILES[0])
    refused(r"is a Wan model of another kind \(k_img")
    save_file({"a": torch.ones(1)}, own / FILES[0])
    refused("is no transformer of this family")
    mixed = {k: x for k, x in released.transformer().items() if "video_model.blocks.1." not in k}
    save_file(mixed, own / FILES[0])
    refused("towers of different widths or depths")


def test_parts_that_do_not_belong_together(own, tmp_path):
    torch.save(released.weights(AUDIO, {"channels": 16, "hidden": 4}), own / AUDIO.file)
    with pytest.raises(OviError, match=r"v1-16.pth: has 16 audio channels, .*model.safetensors wants 20"):
        import_weights(own, "720x720_5s", tmp_path / "model")


def test_a_folder_of_something_else_is_not_replaced(source, model, tmp_path):
    (tmp_path / "precious").mkdir()
    with pytest.raises(OviError, match="is there and is no model folder"):
        import_weights(source, "720x720_5s", tmp_path / "precious")
    (tmp_path / "precious/x").touch()
    with pytest.raises(OviError, match="is not empty"):
        export_weights(model, tmp_path / "precious")


def test_a_good_release_has_no_findings(source):
    report = verify_weights(source)
    assert list(report) == FILES
    assert not any(report.values())


@pytest.mark.parametrize("file", FILES)
def test_findings_are_by_key(own, file):
    """One tensor of each file is lost, one is new, one has another shape, one another dtype."""
    state = checkpoint_file.read(own / file)
    lost, shaped, typed = list(state)[-1], list(state)[-2], list(state)[-3]
    state = {name: tensor.clone() for name, tensor in state.items() if name != lost}
    state |= {"novel": torch.ones(1), shaped: torch.ones(2, 3, 5), typed: state[typed].double()}
    (own / file).unlink()
    if file.endswith(".safetensors"):
        save_file(state, own / file)
    else:
        torch.save({"generator": state} if file == VOICE.file else state, own / file)
    report = verify_weights(own)
    assert [name for name, found in report.items() if found] == [file]
    found = {finding.key: finding.problem for finding in report[file]}
    assert found.keys() == {lost, "novel", shaped, typed}
    assert (found[lost], found["novel"]) == ("missing", "unexpected")
    assert found[shaped].startswith("is [2, 3, 5], should be [")
    assert found[typed] == "is torch.float64, should be a float of 16 or 32 bits"
    assert str(report[file][0]).startswith(f"{file}: {report[file][0].key}: ")


def test_verifying_reads_no_tensor(own):
    """The released transformer's 23 GB as a hole in a file behind its header."""
    header, end = {}, 0
    for name, shape in golden.table("table_ovi_11b_state_dict_shapes")["tensors"].items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(own / FILES[0], "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    assert (own / FILES[0]).stat().st_size > 23e9
    began = time.process_time()
    assert not any(verify_weights(own).values())
    assert time.process_time() - began < 3  # reading the zeros alone takes longer


def test_findings_of_whole_files(own):
    (own / VIDEO.file).unlink()
    (own / AUDIO.file).write_bytes(b"torn")
    torch.save({"a": torch.ones(1)}, own / TEXT.file)
    (own / layout.TOKENIZER).unlink()
    report = {file: [finding.problem for finding in found] for file, found in verify_weights(own).items()}
    assert report[VIDEO.file] == ["no such file"]
    assert report[AUDIO.file][0].startswith("not a checkpoint of tensors")
    assert report[TEXT.file] == ["lacks token_embedding.weight, and without it the sizes are unknown"]
    assert report[layout.TOKENIZER] == ["no such file"]
    assert report[FILES[0]] == []
    save_file(released.transformer() | {"video_model.text_embedding.0.weight": torch.ones(7)}, own / FILES[0])
    torch.save(
        released.weights(VIDEO, released.SIZES[VIDEO.file]) | {"conv2.weight": torch.ones(16, 16, 1, 1, 1)},
        own / VIDEO.file,
    )
    report = {file: [finding.problem for finding in found] for file, found in verify_weights(own).items()}
    assert report[FILES[0]] == ["text_embedding.0.weight is [7], which is no shape of 2 axes"]
    assert report[VIDEO.file] == ["has latents of 16 channels, and is not the codec of Wan2.2 with its 48"]
    assert verify_weights(own, BACKBONE).keys() == {f"{layout.WAN}/{layout.DIT}.safetensors"}
    with pytest.raises(OviError, match="no such folder"):
        verify_weights(own / "nowhere")


def test_an_import_names_the_first_finding(own, tmp_path):
    state = released.weights(VIDEO, released.SIZES[VIDEO.file])
    del state["conv1.bias"], state["conv1.weight"]
    torch.save(state, own / VIDEO.file)
    with pytest.raises(OviError, match=r"Wan2.2_VAE.pth: conv1.weight missing and 1 more; see `ovi weights verify`"):
        import_weights(own, "720x720_5s", tmp_path / "model")


def test_a_tokenizer_of_another_model_is_refused(own, tmp_path):
    (own / layout.TOKENIZER).write_text("{}")
    with pytest.raises(OviError, match="no tokenizer can be read"):
        import_weights(own, "720x720_5s", tmp_path / "model")


RELEASED = [
    (layout.fusion("", {}), "table_ovi_11b_state_dict_shapes"),
    (layout.backbone("", {}), "table_wan22_ti2v_5b_state_dict_shapes"),
    (VIDEO, "table_wan22_vae_state_dict_shapes"),
    (TEXT, "table_umt5_xxl_encoder_state_dict_shapes"),
    (AUDIO, "table_mmaudio_vae_16k_state_dict_shapes"),
    (VOICE, "table_bigvgan_16k_state_dict_shapes"),
    (OLDER_VOICE, "table_bigvgan_16k_state_dict_shapes"),
]


@pytest.mark.parametrize(("network", "table"), RELEASED, ids=[table[6:-18] for _, table in RELEASED])
def test_the_released_tensors_are_recognised_and_all_expected(network, table):
    """From nothing but the released names and shapes: sizes, a network, and the same names and shapes again."""
    about = golden.table(table)
    shapes = about["tensors_legacy_names" if network is OLDER_VOICE else "tensors"]
    shapes = {name: tuple(shape) for name, shape in shapes.items()}
    with torch.device("meta"):
        built = network.build(**network.sizes(shapes))
    assert {name: tuple(x.shape) for name, x in network.released(built.state_dict()).items()} == shapes
    assert sum(math.prod(shape) for shape in shapes.values()) == about.get(
        "total", about.get("counts", {}).get("total")
    )
    assert network.ours(shapes).keys() <= built.state_dict().keys()


def test_the_sizes_read_from_shapes_are_the_profile_s(source):
    """So that what training keeps for the settings of ovi-11b and what is imported are one configuration."""
    settings = load("params.yaml", "ovi-11b")
    config = codecs.model_config(settings)
    read = {}
    for network, table in RELEASED[:6]:
        shapes = {name: tuple(shape) for name, shape in golden.table(table)["tensors"].items()}
        read[network.file] = network.sizes(shapes)
    video, audio = codecs.tower_configs(settings)
    assert (
        layout.fusion("", {}).sizes(
            {name: tuple(shape) for name, shape in golden.table(RELEASED[0][1])["tensors"].items()}
        )["video"]
        == video
    )
    assert {**read[VIDEO.file], "kind": "wan22", "patch": [16, 16]} == config["video_codec"]
    assert {**read[TEXT.file], "kind": "umt5", "max_tokens": 512} == config["text_encoder"]
    voice = read[VOICE.file]["channels"]
    assert {**read[AUDIO.file], "kind": "mmaudio", "vocoder_channels": voice} == config["audio_codec"]
    assert audio.rope_scale == pytest.approx(layout.AUDIO_ROPE_SCALE, rel=1e-5)
    assert config.keys() == {*codecs.COMPONENTS, "tokenizer", "version", "clip", "picture", "audio_latents"}


def test_parameters_of_the_whole_and_of_what_fusion_trains():
    with torch.device("meta"):
        sizes = {name: x.numel() for name, x in released_model().named_parameters()}
    trained = re.compile(r".*\.blocks\.\d+\.(self_attn|cross_attn)\..*")
    assert sum(sizes.values()) == 11_660_753_108
    assert sum(size for name, size in sizes.items() if trained.fullmatch(name)) == 5_665_443_840


def released_model():
    return codecs.build("transformer", codecs.model_config(load("params.yaml", "ovi-11b"))["transformer"])

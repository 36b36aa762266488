"""The twin backbone against golden vectors, and the properties training and sampling rely on."""

import math

import pytest
import torch

from ovi.models.attention import attend
from ovi.models.block import Stream, fuse
from ovi.models.fusion import FusionModel, init
from ovi.models.rope import audio_table, rotate, video_table
from ovi.models.tower import TowerConfig, key_bias, sinusoid
from tests import golden
from tests.models.common import golden_model, texts, tower_config

CPU = torch.device("cpu")


def run(case, *, clean=False, skip_layer=-1):
    """The golden case through the model, with the tokens after every block."""
    model, x = golden_model(), golden.tensors(case)
    text, lens = texts(x["in/vid_context"])
    audio_text, audio_lens = texts(x["in/audio_context"])
    video, audio = model(
        x["in/vid"][None],
        x["in/audio"][None],
        x["in/t"],
        text,
        lens,
        audio_text=audio_text,
        audio_text_lens=audio_lens,
        first_frame_clean=clean,
        skip_layer=skip_layer,
    )
    return video[0], audio[0]


def test_sinusoid():
    case = golden.tensors("time_sinusoid_256")
    golden.check("time_sinusoid_256", sinusoid(case["in/t"], 256), case["out/emb"])


@pytest.mark.parametrize(
    ("case", "options"),
    [("fusion_t2v", {}), ("fusion_i2v", {"clean": True}), ("fusion_slg", {"skip_layer": 1})],
)
@torch.no_grad()
def test_forward(case, options):
    want = golden.tensors(case)
    video, audio = run(case, **options)
    golden.check(case, video, want["out/vid"])
    golden.check(case, audio, want["out/audio"])


@pytest.mark.parametrize(("case", "clean"), [("fusion_t2v", None), ("fusion_i2v", torch.tensor([True]))])
@torch.no_grad()
def test_tokens_after_every_block(case, clean):
    model, x = golden_model(), golden.tensors(case)
    v = model.video_model.open(x["in/vid"][None], x["in/t"], x["in/vid_context"][None], clean=clean)
    a = model.audio_model.open(x["in/audio"][None], x["in/t"], x["in/audio_context"][None])
    for i, blocks in enumerate(zip(model.video_model.blocks, model.audio_model.blocks, strict=True)):
        v.x, a.x = fuse(*blocks, v, a)
        golden.check(case, v.x, x[f"out/vid_after_block{i}"])
        golden.check(case, a.x, x[f"out/audio_after_block{i}"])


@pytest.mark.parametrize("suffix", ["", "_i2v"])
@torch.no_grad()
def test_samples_of_different_sizes_one_by_one(suffix):
    """The release pads a batch of different sizes; each sample alone must give the same."""
    model, x = golden_model(), golden.tensors("fusion_batch2_padded")
    for i in (0, 1):
        text, lens = texts(x[f"in/vid_context{i}"])
        audio_text, _ = texts(x[f"in/audio_context{i}"])
        video, audio = model(
            x[f"in/vid{i}"][None],
            x[f"in/audio{i}"][None],
            x["in/t"][i : i + 1],
            text,
            lens,
            audio_text=audio_text,
            first_frame_clean=bool(suffix),
        )
        golden.check("fusion_batch2_padded", video[0], x[f"out/vid{i}{suffix}"])
        golden.check("fusion_batch2_padded", audio[0], x[f"out/audio{i}{suffix}"])


@torch.no_grad()
def test_audio_tower_alone():
    model, x = golden_model(), golden.tensors("tower_audio_only")
    text, lens = texts(x["in/audio_context"])
    video, audio = model(None, x["in/audio"][None], x["in/t"], text, lens)
    assert video is None
    golden.check("tower_audio_only", audio[0], x["out/audio"])


@torch.no_grad()
def test_audio_of_different_lengths_in_one_batch():
    model, x = golden_model(), golden.tensors("tower_audio_only")
    latents, audio_lens = texts(x["in/b2_audio0"], x["in/b2_audio1"])
    latents[0, audio_lens[0] :] = 7.0  # whatever lies past the end must not matter
    text, lens = texts(x["in/b2_context0"], x["in/b2_context1"])
    _, audio = model(None, latents, x["in/b2_t"], text, lens, audio_lens=audio_lens)
    for i in (0, 1):
        golden.check("tower_audio_only", audio[i, : audio_lens[i]], x[f"out/b2_audio{i}"])
        assert not audio[i, audio_lens[i] :].any()


@torch.no_grad()
def test_video_tower_alone():
    model, x = golden_model(), golden.tensors("tower_video_only_i2v")
    text, lens = texts(x["in/vid_context"])
    video, audio = model(x["in/vid"][None], None, x["in/t"], text, lens, first_frame_clean=True)
    assert audio is None
    golden.check("tower_video_only_i2v", video[0], x["out/vid"])


def stream(x, e, context, rope, bias=None):
    return Stream(x, e, e, context, None, rope, bias, ())


@torch.no_grad()
def test_video_block():
    """Modulation may have any number of rows that divides the tokens: here one a token."""
    config, x = golden.config("block_video_only"), golden.tensors("block_video_only")
    block = golden_model().video_model.blocks[config["block_index"]]
    for i, (grid, length) in enumerate(zip(config["grid_sizes"], config["seq_lens"], strict=True)):
        rows = (slice(i, i + 1), slice(0, length))
        s = stream(x["in/x"][rows], x["in/e"][rows], x["in/context"][i : i + 1], video_table(*grid, 24, CPU))
        golden.check("block_video_only", block(s.x, s), x["out/x"][rows])


@torch.no_grad()
def test_audio_block():
    config, x = golden.config("block_audio_only"), golden.tensors("block_audio_only")
    lens, length = torch.tensor(config["seq_lens"]), x["in/x"].shape[1]
    table = audio_table(length, 24, config["audio"]["temporal_rope_scaling_factor"], CPU)
    s = stream(x["in/x"], x["in/e"], x["in/context"], table, key_bias(lens, length))
    got = golden_model().audio_model.blocks[config["block_index"]](s.x, s)
    for i, n in enumerate(config["seq_lens"]):
        golden.check("block_audio_only", got[i, :n], x["out/x"][i, :n])


@torch.no_grad()
def test_fused_block():
    config, x = golden.config("block_fusion"), golden.tensors("block_fusion")
    model, scale = golden_model(), config["audio"]["temporal_rope_scaling_factor"]
    for i in (0, 1):
        grid, (n,) = config["vid_grid"][i], config["audio_grid"][i]
        rows, audio_rows = (slice(i, i + 1), slice(0, math.prod(grid))), (slice(i, i + 1), slice(0, n))
        one = slice(i, i + 1)
        v = stream(x["in/vid"][rows], x["in/vid_e"][rows], x["in/vid_context"][one], video_table(*grid, 24, CPU))
        table = audio_table(n, 24, scale, CPU)
        a = stream(x["in/audio"][audio_rows], x["in/audio_e"][audio_rows], x["in/audio_context"][one], table)
        video, audio = fuse(model.video_model.blocks[0], model.audio_model.blocks[0], v, a)
        golden.check("block_fusion", video, x["out/vid"][rows])
        golden.check("block_fusion", audio, x["out/audio"][audio_rows])


def test_gradients():
    model, x, config = golden_model(), golden.tensors("fusion_grads"), golden.config("fusion_grads")
    model.zero_grad()
    video, audio = run("fusion_grads")
    loss = 0.85 * (video - x["in/target_vid"]).square().mean() + 0.15 * (audio - x["in/target_audio"]).square().mean()
    loss.backward()
    parameters = dict(model.named_parameters())
    golden.check("fusion_grads", loss[None], x["out/loss"])
    norms = config["grad_norms"]
    assert set(norms) == set(parameters)
    got = torch.tensor([parameters[name].grad.norm() for name in norms])
    golden.check("fusion_grads", got, torch.tensor(list(norms.values())))
    full = [name for name in x if name.startswith("out/grad/")]
    assert len(full) == 6
    for name in full:
        golden.check("fusion_grads", parameters[name.removeprefix("out/grad/")].grad, x[name])
    model.zero_grad()


@torch.no_grad()
def test_bf16_stays_near_the_released_precision():
    want = golden.tensors("fusion_bf16")
    for case, clean in (("fusion_t2v", False), ("fusion_i2v", True)):
        golden_model().to(torch.bfloat16)
        try:
            video, audio = run(case, clean=clean)
        finally:
            golden_model().float().load_state_dict(golden.tensors("fusion_weights"))
        for got, name in ((video, "vid"), (audio, "audio")):
            expected = want[f"out/autocast_emulated/{case}/{name}"]
            assert got.dtype == torch.float32
            assert (got - expected).norm() / expected.norm() < golden.CASES["fusion_bf16"]["tolerance"]["max"]


@torch.no_grad()
def test_one_folded_key_stands_for_all_padded_text():
    model, x = golden_model(), golden.tensors("fusion_t2v")
    folded, lens = texts(x["in/vid_context"])
    padded = torch.nn.functional.pad(folded, (0, 0, 0, 20 - folded.shape[1]))
    inputs = (x["in/vid"][None], x["in/audio"][None], x["in/t"])
    for got, want in zip(model(*inputs, folded, lens), model(*inputs, padded, lens), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-6)


def test_the_fold_is_exact_attention():
    """Softmax over n equal keys is softmax over one of them with log(n) added to its score."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 4, 24, generator=draw) for n in (7, 9, 9))
    many = [torch.cat((t, t[:, -1:].expand(-1, 30, -1, -1)), dim=1) for t in (k, v)]
    bias = torch.zeros(1, 9)
    bias[0, -1] = math.log(31)
    torch.testing.assert_close(attend(q, k, v, bias), attend(q, *many, None))


@torch.no_grad()
def test_samples_of_a_batch_do_not_meet():
    """Different texts, lengths, timesteps and first frames in one batch give what each gives alone."""
    model, draw = golden_model(), torch.Generator().manual_seed(1)
    video, audio = torch.randn(3, 6, 3, 4, 6, generator=draw), torch.randn(3, 16, 5, generator=draw)
    audio_lens, t = torch.tensor([16, 9, 12]), torch.tensor([900.0, 33.3, 410.0])
    captions = [torch.randn(n, 24, generator=draw) for n in (4, 17, 1)]
    clean = torch.tensor([True, False, True])
    together = model(video, audio, t, *texts(*captions), audio_lens=audio_lens, first_frame_clean=clean)
    for i, n in enumerate(audio_lens):
        one = slice(i, i + 1)
        alone = model(video[one], audio[one, :n], t[one], *texts(captions[i]), first_frame_clean=bool(clean[i]))
        torch.testing.assert_close(together[0][one], alone[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together[1][one, :n], alone[1], rtol=1e-4, atol=1e-5)


def test_the_released_11b_model_has_these_keys_and_shapes():
    want = golden.table("table_ovi_11b_state_dict_shapes")["tensors"]
    with torch.device("meta"):
        model = FusionModel(
            TowerConfig("video", (1, 2, 2), in_dim=48, out_dim=48),
            TowerConfig("audio", (1,), in_dim=20, out_dim=20, rope_scale=0.19676),
        )
    got = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(got) == 2073
    assert got == {name: list(shape) for name, shape in want.items()}
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_660_753_108


def test_init_is_seeded_and_follows_the_release():
    sizes = [tower_config(golden.config("fusion_weights")[tower]) for tower in ("video", "audio")]
    one, same, other = (init(FusionModel(*sizes), seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["video_model.blocks.0.ffn.0.weight"], other["video_model.blocks.0.ffn.0.weight"])
    assert not torch.equal(one["video_model.blocks.0.ffn.0.weight"], one["audio_model.blocks.0.ffn.0.weight"])
    assert not one["video_model.head.head.weight"].any()
    k = "model.blocks.1.cross_attn.k_fusion.weight"
    bound = math.sqrt(6 / 96)
    assert one["audio_" + k].abs().max() == pytest.approx(bound, rel=0.01)
    assert one["video_" + k].abs().max() == pytest.approx(bound / 10, rel=0.01)
    assert one["audio_model.blocks.0.norm3.weight"].eq(1).all()
    assert one["audio_model.blocks.0.modulation.modulation"].std() == pytest.approx(48**-0.5, rel=0.2)
    assert one["audio_model.patch_embedding.2.w1.weight"].abs().max() == pytest.approx(1 / math.sqrt(7 * 48), rel=0.01)


def near(q, k, q_times, k_times, within):
    """How much of the attention of q [1, L, heads, d] on k [1, M, heads, d] falls on keys within so many frames."""
    score = torch.einsum("blhd,bmhd->bhlm", q, k) / q.shape[-1] ** 0.5
    close = (q_times[:, None] - k_times).abs() <= within
    return (score.softmax(-1) * close).sum(-1).mean().item()


def test_a_local_start_looks_at_its_own_moment():
    """Self-attention and the attention to the other tower, of tokens that say nothing yet."""
    sizes = [
        TowerConfig(modality, patch, 4, 4, dim=96, ffn_dim=64, heads=2, layers=1, text_dim=8, rope_theta=100.0)
        for modality, patch in (("video", (1, 2, 2)), ("audio", (1,)))
    ]
    table, sound = video_table(31, 1, 1, 48, CPU, 100.0), audio_table(157, 48, 31 / 157, CPU, 100.0)
    frames, moments = torch.arange(31.0), torch.arange(157) * 31 / 157
    x = torch.nn.functional.layer_norm(torch.randn(1, 157, 96, generator=torch.Generator().manual_seed(0)), (96,))
    shares = {}
    for local in (False, True):
        model = init(FusionModel(*sizes), 0, local)
        own, other = model.video_model.blocks[0].self_attn, model.audio_model.blocks[0].cross_attn
        seen = x[:, :31]
        q, k = (rotate(own.split(norm(part(seen))), table) for norm, part in ((own.norm_q, own.q), (own.norm_k, own.k)))
        asked = rotate(other.split(other.norm_q(other.q(x))), sound)
        answers = rotate(other.split(other.norm_k_fusion(other.k_fusion(seen))), table)
        shares[local] = near(q, k, frames, frames, 3), near(asked, answers, moments, frames, 3)
    for spread, local in zip(shares[False], shares[True], strict=True):
        assert spread < 0.3  # 7 frames of 31 are 0.23
        assert local > 0.6


def test_text_that_is_too_long_is_refused():
    model, x = golden_model(), golden.tensors("fusion_t2v")
    with pytest.raises(ValueError, match="21 tokens, this tower takes 20"):
        model(x["in/vid"][None], None, x["in/t"], torch.zeros(1, 21, 24), torch.tensor([21]))

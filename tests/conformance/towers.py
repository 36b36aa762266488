"""Cases of the twin backbone: whole forwards, towers alone, single blocks, gradients, half precision, their weights.

The release pads a batch of clips of different sizes. Here a batch has one picture size, so such clips go one by one;
sounds of different lengths go together.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ovi.models import released_layout
from ovi.models.block import Block, Stream, fuse
from ovi.models.fusion import FusionModel
from ovi.models.rope import audio_table, video_table
from ovi.models.tower import Tower, key_bias
from tests.conformance.case import Case
from tests.conformance.kind import Kind

SIDES = {"vid": "video", "audio": "audio"}  # the release's word -> ours
LOSS = {"vid": 0.85, "audio": 0.15}  # paper 4.2.2
CPU = torch.device("cpu")


def fusion_model(case: Case) -> FusionModel:
    """The model that a case is about, of its own tensors or of the file that its config names."""
    source = case.source(r"video_model\..+")
    network = released_layout.fusion(source.file, {**source.config, **case.config})
    model = network.build(**network.sizes({name: tuple(x.shape) for name, x in source.arrays.items()}))
    model.load_state_dict(source.arrays)
    return model


def weights(case: Case) -> None:
    state = fusion_model(case).state_dict()
    shapes = ({name: list(x.shape) for name, x in tensors.items()} for tensors in (state, case.arrays))
    case.compare("shapes", *shapes)
    for name in case.arrays:
        case.check(name, state[name])


def forward(case: Case) -> None:
    model = fusion_model(case)
    clean = _clean(case)
    options = {"skip_layer": case.config.get("slg_layer", -1)}
    batches: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for found in case.matches(r"in/(\w*?)(vid|audio)(\d*)"):
        batches[found[1]][found[3]].add(found[2])
    for prefix, samples in batches.items():
        if all(sides == {"audio"} for sides in samples.values()):
            _sounds(case, model, prefix, sorted(samples, key=_number), options)
            continue
        for i, (sample, sides) in enumerate(sorted(samples.items(), key=lambda item: _number(item[0]))):
            for ending, shown in (("", clean), ("_i2v", True)):
                names = {side: f"out/{prefix}{side}{sample}{ending}" for side in sides}
                if names[min(sides)] in case.arrays:
                    named = {"first_frame_clean": shown, **options}
                    for side, got in _sample(case, model, prefix, sample, i, sides, named).items():
                        case.check(names[side], got[0])
    if next(case.matches(r"out/(vid|audio)_after_block\d+"), None):
        _after_blocks(case, model, clean, options["skip_layer"])


def _clean(case: Case) -> bool:
    return case.config.get("first_frame_is_clean", "i2v" in case.id.split("_"))


def _number(sample: str) -> int:
    return int(sample or 0)


def _sample(
    case: Case, model: FusionModel, prefix: str, sample: str, i: int, sides: set[str], options: dict[str, Any]
) -> dict[str, Tensor]:
    """One clip alone: velocities [1, ...] by the release's word for the modality."""
    latents = [case.take(f"in/{prefix}{side}{sample}")[None] if side in sides else None for side in SIDES]
    texts = [_text(case, prefix, side, sample)[None] for side in SIDES if side in sides]
    lens = [torch.tensor([text.shape[1]]) for text in texts]
    if len(texts) == 2:
        options = {**options, "audio_text": texts[1], "audio_text_lens": lens[1]}
    answers = model(*latents, case.take(f"in/{prefix}t")[i : i + 1], texts[0], lens[0], **options)
    return {side: answer for side, answer in zip(SIDES, answers, strict=True) if answer is not None}


def _sounds(case: Case, model: FusionModel, prefix: str, samples: list[str], options: dict[str, Any]) -> None:
    """Sounds of any lengths in one batch."""
    sounds = [case.take(f"in/{prefix}audio{sample}") for sample in samples]
    texts = [_text(case, prefix, "audio", sample) for sample in samples]
    lens, text_lens = (torch.tensor([len(row) for row in rows]) for rows in (sounds, texts))
    batch, rows = pad_sequence(sounds, batch_first=True), pad_sequence(texts, batch_first=True)
    if len(sounds) > 1:
        options = {**options, "audio_lens": lens}
    _, got = model(None, batch, case.take(f"in/{prefix}t"), rows, text_lens, **options)
    for i, sample in enumerate(samples):
        case.check(f"out/{prefix}audio{sample}", got[i, : lens[i]])


def _text(case: Case, prefix: str, side: str, sample: str) -> Tensor:
    name = f"in/{prefix}{side}_context{sample}"
    return case.take(name if name in case.arrays else f"in/{prefix}context{sample}")


def _after_blocks(case: Case, model: FusionModel, clean: bool, skip_layer: int) -> None:
    t = case.take("in/t")
    shown = torch.ones_like(t, dtype=torch.bool) if clean else None
    v = model.video_model.open(case.take("in/vid")[None], t, case.take("in/vid_context")[None], clean=shown)
    a = model.audio_model.open(case.take("in/audio")[None], t, case.take("in/audio_context")[None])
    for i, blocks in enumerate(zip(model.video_model.blocks, model.audio_model.blocks, strict=True)):
        if i != skip_layer or i == 0:
            v.x, a.x = fuse(*blocks, v, a)
        for side, stream in (("vid", v), ("audio", a)):
            if f"out/{side}_after_block{i}" in case.arrays:
                case.check(f"out/{side}_after_block{i}", stream.x)


def block(case: Case) -> None:
    """One block of one tower; rows past a sample's length mean nothing."""
    tower: Tower = getattr(fusion_model(case), case.config["tower"])
    layer = tower.blocks[case.config["block_index"]]
    x, e, context = (case.take(f"in/{name}") for name in ("x", "e", "context"))
    for i, (grid, n) in enumerate(zip(case.config["grid_sizes"], case.config["seq_lens"], strict=True)):
        rows = (slice(i, i + 1), slice(0, n))
        alone = _stream(tower, x[rows], e[rows], context[i : i + 1], grid)
        case.check("out/x", layer(alone.x, alone), rows)
    if tower.config.modality == "audio":
        lens, length = torch.tensor(case.config["seq_lens"]), x.shape[1]
        together = dataclasses.replace(_stream(tower, x, e, context, [length]), bias=key_bias(lens, length))
        got = layer(x, together)
        for i, n in enumerate(case.config["seq_lens"]):
            case.check("out/x", got[i, :n], (i, slice(0, n)))


def fused_block(case: Case) -> None:
    model, index = fusion_model(case), case.config["block_index"]
    towers = {"vid": model.video_model, "audio": model.audio_model}
    blocks: list[Block] = [tower.blocks[index] for tower in towers.values()]
    grids = {side: case.config[f"{side}_grid"] for side in towers}
    for i in range(len(grids["vid"])):
        one = slice(i, i + 1)
        rows = {side: (one, slice(0, math.prod(grids[side][i]))) for side in towers}
        streams = [
            _stream(
                tower, case.take(f"in/{side}")[rows[side]], case.take(f"in/{side}_e")[rows[side]],
                case.take(f"in/{side}_context")[one], grids[side][i],
            )
            for side, tower in towers.items()
        ]  # fmt: skip
        for side, got in zip(towers, fuse(*blocks, *streams), strict=True):
            case.check(f"out/{side}", got, rows[side])


def _stream(tower: Tower, x: Tensor, e: Tensor, context: Tensor, grid: list[int]) -> Stream:
    """Tokens [B, L, D] of one grid with a row of modulation for each of them."""
    config, width = tower.config, tower.config.dim // tower.config.heads
    if config.modality == "video":
        table = video_table(grid[0], grid[1], grid[2], width, CPU, config.rope_theta)
    else:
        table = audio_table(grid[0], width, config.rope_scale, CPU, config.rope_theta)
    return Stream(x, e, e, context, None, table, None, tuple(grid))


def gradients(case: Case) -> None:
    model = fusion_model(case)
    with torch.enable_grad():
        answers = _sample(case, model, "", "", 0, set(SIDES), {})
        parts = {side: (got[0] - case.take(f"in/target_{side}")).square().mean() for side, got in answers.items()}
        loss = sum(LOSS[side] * part for side, part in parts.items())
        loss.backward()
    case.check("out/loss", loss.reshape(1))
    case.compare("config.loss", loss, case.config["loss"])
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    norms = case.config["grad_norms"]
    case.compare("named gradients", sorted(grads), sorted(norms))
    case.compare("config.grad_norms", [float(grads[name].norm()) for name in norms], list(norms.values()))
    for found in case.matches(r"out/grad/(.+)"):
        case.check(found[0], grads[found[1]])


def half_precision(case: Case) -> None:
    """The inputs of other cases through the model in bf16; outputs are called out/<variant>/<case>/<modality>."""
    model = fusion_model(case).to(torch.bfloat16)
    others = {other.id: other for other in case.folder.cases}
    for found in case.matches(r"out/([^/]+)/([^/]+)/(vid|audio)"):
        other = others[found[2]]
        got = _sample(other, model, "", "", 0, set(SIDES), {"first_frame_clean": _clean(other)})
        case.check(found[0], got[found[3]][0])


KINDS = (
    Kind("fusion_weights", (r"video_model\.blocks\.0\..+", r"audio_model\.blocks\.0\..+"), weights),
    Kind("fusion", (r"in/(vid|audio)\d*", r"in/t", r"out/(vid|audio)\d*"), forward),
    Kind("tower", (r"in/(vid|audio)\d*", r"in/t", r"out/(vid|audio)\d*"), forward),
    Kind("block", (r"in/x", r"in/e", r"in/context", r"out/x"), block),
    Kind("block_fusion", (r"in/vid_e", r"in/audio_e", r"out/vid", r"out/audio"), fused_block),
    Kind("fusion_grads", (r"in/target_vid", r"in/target_audio", r"in/t", r"out/loss", r"out/grad/.+"), gradients),
    Kind("fusion_bf16", (r"out/[^/]+/[^/]+/vid", r"out/[^/]+/[^/]+/audio"), half_precision),
)

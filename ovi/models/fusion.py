"""The twin backbone: a video tower and an audio tower that hear each other in every block (paper 4.1).

One call gives the velocities of both modalities for a batch of one picture size; audio lengths may differ. Either
modality may be None, then the other tower runs alone. It knows nothing of noise levels, solvers or losses.
Try it: `pytest tests/models/test_fusion.py`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ovi.models import rope
from ovi.models.block import fuse, recomputed
from ovi.models.rows import Rows
from ovi.models.tower import Tower, TowerConfig, valid

LOCAL_GAIN, LOCAL_BIAS = 0.3, 1.5
TIMED = tuple(  # the projections whose results RoPE turns
    f"{layer}.{kind}"
    for layer in ("self_attn.q", "self_attn.k", "cross_attn.q", "cross_attn.k_fusion")
    for kind in ("weight", "bias")
)


class FusionModel(nn.Module):
    """Two towers of equal width and depth. Parameters are uninitialised until `init` or a state dict fills them."""

    recompute = 0  # first blocks that a backward pass computes again instead of keeping what they need

    def __init__(self, video: TowerConfig, audio: TowerConfig) -> None:
        super().__init__()
        if (video.dim, video.heads, video.layers) != (audio.dim, audio.heads, audio.layers):
            raise ValueError("the towers of a fusion model have one width, one number of heads and one depth")
        self.video_model = Tower(video)
        self.audio_model = Tower(audio)

    def forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        t: Tensor,
        text: Tensor,
        text_lens: Tensor,
        *,
        audio_text: Tensor | None = None,
        audio_text_lens: Tensor | None = None,
        audio_t: Tensor | None = None,
        audio_lens: Tensor | None = None,
        audio_rows: Rows | None = None,
        first_frame_clean: bool | Tensor = False,
        skip_layer: int = -1,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Velocities (noise - data) of both modalities, float32, in the layouts of the latents.

        video [B, C, F, H, W], audio [B, L, C], t [B] in 0..1000; text [B, N, T] of which text_lens [B] rows are real;
        audio_text and audio_t where the audio tower gets another text or timestep. audio_lens [B] only where lengths
        differ: rows past them come back as zeros. audio_rows, for the audio tower alone: the B sounds are laid one
        after another, audio [1, L, C] and text [1, N, T], which text_lens do not describe then. first_frame_clean,
        for all or [B]: the video's first latent frame is data, not noise. skip_layer > 0 leaves that block out of both.
        """
        if video is None and audio is None:
            raise ValueError("neither video nor audio latents given")
        if audio_rows is not None:
            return None, self.audio_model(audio, t, text, rows=audio_rows, skip_layer=skip_layer)
        text = text * valid(text_lens, text.shape[1]).unsqueeze(-1)
        if audio_text is None:
            audio_text = text
        elif audio_text_lens is not None:
            audio_text = audio_text * valid(audio_text_lens, audio_text.shape[1]).unsqueeze(-1)
        audio_t = t if audio_t is None else audio_t
        clean = first_frame_clean if isinstance(first_frame_clean, Tensor) else None
        if first_frame_clean is True:
            clean = torch.ones_like(t, dtype=torch.bool)
        if audio is None:
            return self.video_model(video, t, text, clean=clean, skip_layer=skip_layer), None
        if video is None:
            heard = self.audio_model(audio, audio_t, audio_text, audio_lens, skip_layer=skip_layer)
            return None, _cut(heard, audio_lens)
        v = self.video_model.open(video, t, text, clean=clean)
        a = self.audio_model.open(audio, audio_t, audio_text, audio_lens)
        for i, (video_block, audio_block) in enumerate(
            zip(self.video_model.blocks, self.audio_model.blocks, strict=True)
        ):
            if i != skip_layer or i == 0:
                work = recomputed(fuse, i < self.recompute)
                v.x, a.x = work(video_block, audio_block, replace(v), replace(a))
        return self.video_model.close(v), _cut(self.audio_model.close(a), audio_lens)


def _cut(audio: Tensor, lens: Tensor | None) -> Tensor:
    return audio if lens is None else audio * valid(lens, audio.shape[1]).unsqueeze(-1)


@torch.no_grad()
def init(model: FusionModel, seed: int, local_start: bool = False) -> FusionModel:
    """Fill every parameter as before the first training step; a seed and a name always give the same values.

    Linear weights are Xavier-uniform and biases zero; the text and time embeddings are normal with 0.02; the audio
    convolutions keep their uniform +-1/sqrt(fan in); modulations are normal with 1/sqrt(dim); the head is zero.
    As in the release, the keys and values of the other tower start ten times smaller in the video tower only, so
    that a pretrained video tower is not disturbed at first.

    local_start lets attention begin among tokens of one moment instead of everywhere: queries and keys start mostly
    alike, in the pairs of channels that turn with time, so that RoPE alone makes them differ. A small model finds that
    out by itself only after thousands of steps; until then no tower can tell when the other one does something.
    """
    for name, parameter in model.named_parameters():
        key = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
        draw = torch.Generator(parameter.device).manual_seed(int.from_bytes(key, "little") >> 1)
        _fill(name, parameter, draw)
        if name.startswith("video_model.") and name.endswith(("k_fusion.weight", "v_fusion.weight")):
            parameter.div_(10)
        if local_start and name.endswith(TIMED):
            _align(name, parameter, model.video_model.config)
    return model


def _align(name: str, parameter: Tensor, config: TowerConfig) -> None:
    """The projection of queries or keys: content turned down, and the same start in each head's temporal pairs."""
    if name.endswith("weight"):
        parameter.mul_(LOCAL_GAIN)
        return
    head = torch.zeros(config.dim // config.heads)
    head[0 : rope.widths(len(head))[0] : 2] = LOCAL_BIAS
    parameter.copy_(head.repeat(config.heads))


def _fill(name: str, parameter: Tensor, draw: torch.Generator) -> None:
    if "modulation" in name:
        parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=draw)
    elif name.startswith("audio_model.patch_embedding"):
        fan_in = parameter[0].numel() if parameter.ndim > 1 else None
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        parameter.uniform_(-bound, bound, generator=draw)
    elif "norm" in name and name.endswith("weight"):
        parameter.fill_(1)
    elif parameter.ndim == 1 or ".head." in name:
        parameter.zero_()
    elif any(f"{kind}_embedding" in name for kind in ("text", "sound", "time")):
        parameter.normal_(0, 0.02, generator=draw)
    else:
        nn.init.xavier_uniform_(parameter.flatten(1), generator=draw)

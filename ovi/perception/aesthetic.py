"""How pleasing pictures look, about 1 to 10: the improved aesthetic predictor on CLIP ViT-L/14.

Pictures are reduced exactly as CLIP's authors do it, with Pillow's bicubic filter. All else happens at 224 x 224, where
hardly a trace of compression is left to be seen. It knows pictures only; how the scores of a clip's pictures are put
together is the caller's business.
Try it: `pytest tests/perception/test_aesthetic.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ovi.errors import OviError, one_line
from ovi.perception import weights

METHOD = "clip-vit-l14-sac-logos-ava1-linear"
SIDE = 224
EMBEDDING = 768
MEAN = (0.48145466, 0.4578275, 0.40821073)
SPREAD = (0.26862954, 0.26130258, 0.27577711)
BATCH = 16


class Head(nn.Module):
    """Embeddings [B, 768] of any length -> scores [B]. Five layers with nothing between them, named as released."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(EMBEDDING, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        length = embeddings.norm(dim=-1, keepdim=True)
        return self.layers(embeddings / torch.where(length == 0, 1, length))[..., 0]


class Aesthetic(nn.Module):
    """CLIP's picture tower and the head."""

    def __init__(self, clip: nn.Module, head: Head) -> None:
        super().__init__()
        self.clip, self.head = clip, head

    def forward(self, pixels: Tensor) -> Tensor:
        """Prepared pictures [B, 3, 224, 224] -> scores [B]."""
        return self.head(self.clip(pixel_values=pixels).image_embeds)


def load(clip: str | Path, head: str | Path, device: str | torch.device = "cpu") -> Aesthetic:
    """CLIP ViT-L/14 from a folder as transformers writes it, the head from sac+logos+ava1-l14-linearMSE.pth.

    Nothing is downloaded. Raises OviError for a folder or a file that is missing or holds another network.
    """
    tower = _tower(Path(clip))
    scorer = weights.fill(Head(), weights.read(head), head, device)
    return Aesthetic(tower.to(device).eval().requires_grad_(False), scorer)


def scores(network: Aesthetic, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Scores float32 [B] of B pictures uint8 RGB [H, W, 3], of any sizes."""
    return look(network, frames)[0]


@torch.no_grad()
def look(network: Aesthetic, frames: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(scores [B], CLIP's points [B, 768]) of B pictures uint8 RGB [H, W, 3], of any sizes."""
    device = next(network.parameters()).device
    parts = (torch.stack([prepare(frame) for frame in frames[at : at + BATCH]]) for at in range(0, len(frames), BATCH))
    points = [network.clip(pixel_values=part.to(device)).image_embeds for part in parts]
    if not points:
        return np.zeros(0, np.float32), np.zeros((0, EMBEDDING), np.float32)
    found = torch.cat(points)
    return network.head(found).cpu().numpy(), found.cpu().numpy()


def prepare(rgb: NDArray[np.uint8]) -> Tensor:
    """uint8 [H, W, 3] -> float32 [3, 224, 224]: the shorter side to 224, the middle of the longer one, CLIP's range."""
    height, width = rgb.shape[:2]
    short = min(height, width)
    height, width = int(SIDE * height / short), int(SIDE * width / short)
    small = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))
    top, left = round((height - SIDE) / 2), round((width - SIDE) / 2)
    square = torch.from_numpy(small[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1) / np.float32(255))
    return (square - torch.tensor(MEAN)[:, None, None]) / torch.tensor(SPREAD)[:, None, None]


def _tower(folder: Path) -> Any:
    from transformers import CLIPVisionModelWithProjection, logging  # takes seconds to import

    logging.set_verbosity_error()  # it would list the text tower's tensors, which are not wanted
    logging.disable_progress_bar()
    if not (folder / "config.json").is_file():
        raise OviError(f"{folder}: not a folder of CLIP (no config.json); give one as transformers writes it")
    try:
        tower, found = CLIPVisionModelWithProjection.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:  # whatever a foreign or damaged folder makes of transformers
        raise OviError(f"{folder}: CLIP cannot be loaded ({one_line(error)})") from None
    absent = sorted(found["missing_keys"])
    if absent:
        raise OviError(f"{folder}: not the weights of CLIP: {len(absent)} missing (first {absent[0]})")
    side, values = tower.config.image_size, tower.config.projection_dim
    if (side, values) != (SIDE, EMBEDDING):
        raise OviError(f"{folder}: CLIP of {side} pixels and {values} values; the head wants {SIDE} and {EMBEDDING}")
    return tower

"""Figure 2: how alike the rotary positions of sound and picture are, with and without the scaling of sound (paper 4.1).

affinity[i, j] is the mean over the temporal frequencies of cos(angle of sound latent i - angle of latent frame j): what
attention sees of time alone. Its ridge, the best frame for each sound latent, must run along the diagonal.
Try it: `ovi evaluate --figures`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ovi.models import rope

Array = NDArray[np.float64]


def matrix(latents: int, frames: int, head_dim: int, scale: float, theta: float = rope.THETA) -> Array:
    """[latents, frames] of the model's own tables; `scale` is frames / latents in the paper, 1 without scaling."""
    pairs = rope.widths(head_dim)[0] // 2  # those that turn with time
    device = torch.device("cpu")
    heard = rope.audio_table(latents, head_dim, scale, device, theta)[:, :pairs].double()
    seen = rope.video_table(frames, 1, 1, head_dim, device, theta)[:, :pairs].double()
    return (torch.einsum("ipc,jpc->ij", heard, seen) / pairs).numpy()


def ridge(affinity: Array) -> NDArray[np.int64]:
    """The frame that each sound latent is most alike: [latents]."""
    return affinity.argmax(axis=1)


def ridge_correlation(affinity: Array) -> float:
    """Of the ridge with the diagonal: 1 where sound and picture share a clock, about 0 where they do not."""
    found = ridge(affinity)
    return float(np.corrcoef(found, np.arange(len(found)))[0, 1]) if np.ptp(found) else 0.0

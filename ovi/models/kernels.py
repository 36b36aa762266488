"""Which attention kernel is fastest on this device for tokens of a clip, found by timing each once.

Short sequences take whatever torch prefers; only a clip's own tokens are worth a choice. On a CPU there is none.
Try it: `python benchmarks/denoise.py` names the kernel it ran with.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v [B, heads, L, d] -> [B, heads, L, d]

WORTH_IT = 1 << 24  # scores a head; below that every kernel is done before it is started
TRIALS = 3

_CHOSEN: list[str] = []
log = logging.getLogger(__name__)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, kernel: str = "torch") -> Tensor:
    """Softmax attention: q [B, heads, L, d], k and v [B, heads, M, d] -> [B, L, heads*d]. A bias takes no choice."""
    if bias is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)
    return KERNELS[kernel](q, k, v).transpose(1, 2).flatten(2)


def choose(device: torch.device, dtype: torch.dtype, heads: int, width: int, tokens: int) -> str:
    """The name of the fastest kernel that this device and these sizes allow."""
    if device.type != "cuda" or tokens**2 < WORTH_IT:
        return "torch"
    return _choose(str(device), dtype, heads, width, tokens)


def in_use() -> str:
    """The kernel chosen last; "torch" where there was nothing to choose."""
    return _CHOSEN[-1] if _CHOSEN else "torch"


@lru_cache(maxsize=8)
def _choose(device: str, dtype: torch.dtype, heads: int, width: int, tokens: int) -> str:
    x = torch.randn(1, heads, tokens, width, device=device, dtype=dtype)
    seconds = {name: _time(kernel, x) for name, kernel in KERNELS.items()}
    possible = {name: value for name, value in seconds.items() if value is not None}
    best = min(possible, key=lambda name: possible[name])
    _CHOSEN.append(best)
    log.info("attention: %s (%s)", best, ", ".join(f"{name} {s * 1e3:.2f} ms" for name, s in possible.items()))
    return best


def _time(kernel: Kernel, x: Tensor) -> float | None:
    """Seconds of one call, the first left out; None where the kernel does not run here."""
    try:
        kernel(x, x, x)
        torch.cuda.synchronize(x.device)
        began = time.perf_counter()
        for _ in range(TRIALS):
            kernel(x, x, x)
        torch.cuda.synchronize(x.device)
        return (time.perf_counter() - began) / TRIALS
    except (RuntimeError, ImportError):
        return None


def _of_torch(backend: SDPBackend) -> Kernel:
    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return kernel


def _flash_3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention 3, where its package is installed; it wants [B, L, heads, d]."""
    call = importlib.import_module("flash_attn_interface").flash_attn_func
    answer = call(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return (answer[0] if isinstance(answer, tuple) else answer).transpose(1, 2)


KERNELS: dict[str, Kernel] = {
    "torch": F.scaled_dot_product_attention,
    "cudnn": _of_torch(SDPBackend.CUDNN_ATTENTION),
    "flash": _of_torch(SDPBackend.FLASH_ATTENTION),
    "flash-3": _flash_3,
}

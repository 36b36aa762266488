"""Where a model's components work: on which device, in which precision, and whether they stay there.

On a GPU the denoiser is the fast path in bf16, elsewhere the reference as stored, unless the settings say otherwise.
A component that does not stay keeps its weights in the host's memory and lends the device a copy while it works.
It knows nothing of requests or steps.
Try it: `pytest tests/diffusion/test_machine.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, TypeVar, cast

import psutil
import torch
from torch import Tensor, nn

from ovi.config import Runtime
from ovi.diffusion import memory
from ovi.diffusion.denoiser import Denoiser, Fast, Reference, Split
from ovi.models.codecs import AudioCodec, TextEncoder, VideoCodec
from ovi.models.fast import FastFusion
from ovi.models.folder import OviModel

Part = TypeVar("Part")


class Machine:
    """One model's components, each handed out ready to work by a context manager.

    `second` is a device for the negative pass; with it the fast path is used. `mode` is one of memory.MODES.
    """

    def __init__(
        self,
        model: OviModel,
        runtime: Runtime,
        mode: str = "resident",
        device: torch.device | str | None = None,
        second: torch.device | str | None = None,
    ) -> None:
        self.model, self.runtime, self.mode = model, runtime, mode
        self.device = torch.device(device) if device is not None else default_device()
        self.second = None if second is None else torch.device(second)
        on_gpu = self.device.type == "cuda"
        self.fast = runtime.path == "fast" or (runtime.path == "auto" and on_gpu) or second is not None
        self.dtype = precision(runtime, self.device)
        self._denoiser_out, self._is_out = ExitStack(), False  # lent until the text encoder needs the room
        if on_gpu:
            _for_gpu(cast(nn.Module, model.video_codec), self.dtype)

    @property
    def network(self) -> nn.Module:
        """The transformer in the form that is asked."""
        return self._denoiser[0]

    @property
    def path(self) -> str:
        """How the transformer is asked: reference, fast, or fast on two devices."""
        return self._denoiser[1].name

    @contextmanager
    def text_encoder(self) -> Iterator[TextEncoder]:
        self._denoiser_out.close()  # where it stays, there is nothing to close
        with self._lent(self.model.text_encoder, stays=self.mode == "resident") as encoder:
            yield encoder

    @contextmanager
    def video_codec(self) -> Iterator[VideoCodec]:
        with self._lent(self.model.video_codec, stays=self.mode != "offload") as codec:
            yield codec

    @contextmanager
    def audio_codec(self) -> Iterator[AudioCodec]:
        with self._lent(self.model.audio_codec, stays=self.mode != "offload") as codec:
            yield codec

    @contextmanager
    def denoiser(self) -> Iterator[Denoiser]:
        networks, denoiser = self._denoiser
        if self.mode != "resident" and not self._is_out:
            self._denoiser_out.enter_context(_borrowed(networks, self.device))
            self._is_out = True
            self._denoiser_out.callback(setattr, self, "_is_out", False)
        yield denoiser
        if self.mode == "offload":
            self._denoiser_out.close()

    @cached_property
    def _denoiser(self) -> tuple[nn.Module, Denoiser]:
        """The network that is lent and its face; made at first use, when the device has room for it."""
        home = self.device if self.mode == "resident" else torch.device("cpu")
        if not self.fast:
            network = self.model.fusion.to(home, self.dtype)
            return network, Reference(network)
        compile = self.runtime.compile and self.device.type == "cuda"
        how = (self.dtype, self.runtime.weights, compile)
        first = FastFusion(self.model.fusion, home, *how)
        if self.second is None:
            return first, Fast(first)
        return first, Split(first, FastFusion(self.model.fusion, self.second, *how))

    @contextmanager
    def _lent(self, part: Part, stays: bool) -> Iterator[Part]:
        module = cast(nn.Module, part)
        if stays:
            module.to(self.device)
            yield part
            return
        with _borrowed(module, self.device):
            yield part


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision(runtime: Runtime, device: torch.device) -> torch.dtype | None:
    """Of weights and activations in the transformer; None: as stored."""
    if runtime.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else None
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[runtime.precision]


def fitting_mode(
    config: dict[str, Any], weights: Mapping[str, int], runtime: Runtime, device: torch.device | None = None
) -> str:
    """The memory mode for a model of this config.json and these bytes of weights by component.

    Raises OviError with one line that says what would fit, where nothing does.
    """
    device = device or default_device()
    width = 2 if precision(runtime, device) == torch.bfloat16 else 4
    needed = memory.need(config, weights, runtime, width)
    if device.type == "cuda":
        free, where = torch.cuda.mem_get_info(device)[0], torch.cuda.get_device_name(device)
        return memory.choose(needed, runtime, free, where)
    # One memory for all: moving parts about saves nothing.
    return memory.choose(needed, runtime, psutil.virtual_memory().available, "this machine", memory.MODES[:1])


@contextmanager
def _borrowed(module: nn.Module, device: torch.device) -> Iterator[None]:
    """The module with copies of its weights on a device, for a while; those at home stay, so nothing is copied back."""
    tables: list[dict[str, Any]] = [table for part in module.modules() for table in (part._parameters, part._buffers)]
    homes = [dict(table) for table in tables]
    copies: dict[int, Tensor] = {}  # one of each, also where two modules share it
    for table in tables:
        for name, tensor in table.items():
            if tensor is not None:
                if id(tensor) not in copies:
                    copies[id(tensor)] = _copied(tensor, device)
                table[name] = copies[id(tensor)]
    try:
        yield
    finally:
        for table, home in zip(tables, homes, strict=True):
            table.update(home)
        copies.clear()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    copy = tensor.detach().to(device)
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy


def _for_gpu(codec: nn.Module, dtype: torch.dtype | None) -> None:
    """Convolutions of a GPU want half precision and channels next to each other."""
    for parameter in codec.parameters():
        parameter.data = parameter.data.to(dtype)
        if parameter.ndim == 5:
            parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)

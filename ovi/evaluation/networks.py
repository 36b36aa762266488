"""The networks that metrics ask: opened from the user's files, filled by a formula, or not there for a reason.

A network is opened when the first metric asks for it, once. It does not know what metrics make of them.
Try it: `ovi evaluate --set evaluation.weights.panns=Cnn14_16k_mAP=0.438.pth`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovi import storage
from ovi.config import Evaluation
from ovi.diffusion.machine import default_device
from ovi.evaluation import formula
from ovi.evaluation.results import NOT_APPLICABLE
from ovi.perception import aesthetic, asr, clap, panns, raft, syncnet, vggish

FORMULA = "filled by a formula"
NOT_COMPARABLE = "not comparable: its network is filled by a formula, not trained"


@dataclass(frozen=True)
class Opened:
    """A network, and the sha256 of what it was read from (FORMULA where that is no file)."""

    network: Any
    weights: str


class Networks:
    """Those of `evaluation.weights`, or all by formula with `evaluation.formula_networks`."""

    def __init__(self, chosen: Evaluation) -> None:
        self.by_formula = chosen.formula_networks
        self._files = chosen.weights.model_dump()
        self._opened: dict[str, Opened] = {}

    def why_not(self, name: str) -> str | None:
        """The reason why there is no network of this name in `evaluation.weights`; None where there is one."""
        if self.by_formula or self._files[name] is not None:
            return None
        return f"{NOT_APPLICABLE}no network is configured (evaluation.weights.{name})"

    @property
    def need_reference(self) -> bool:
        """Whether a network is there that compares clips with real ones."""
        return any(self.why_not(name) is None for name in ("panns", "vggish"))

    def get(self, name: str) -> Opened:
        """The network. Raises OviError when its file is missing, damaged or another network's."""
        if name not in self._opened:
            self._opened[name] = self._made(name) if self.by_formula else self._read(name, Path(self._files[name]))
        return self._opened[name]

    def _made(self, name: str) -> Opened:
        makers: dict[str, Callable[[], Any]] = {
            "panns": lambda: formula.filled(panns.Cnn14()),
            "vggish": lambda: formula.filled(vggish.VGGish()),
            "syncnet": lambda: formula.filled(syncnet.SyncNet()),
            "raft": lambda: formula.filled(raft.Raft(raft.SMALL)),
            "aesthetic": formula.aesthetic,
            "clap": formula.clap,
            "whisper": formula.recogniser,
        }
        return Opened(makers[name](), FORMULA)

    def _read(self, name: str, path: Path) -> Opened:
        device: torch.device = default_device()
        readers: dict[str, Callable[[], Any]] = {
            "panns": lambda: panns.load(path, device),
            "vggish": lambda: vggish.load(path, device),
            "syncnet": lambda: syncnet.load(path, device),
            "raft": lambda: raft.load(path, device),
            "aesthetic": lambda: aesthetic.load(self._files["clip"], path, device),
            "clap": lambda: clap.load(path, self._files["clap_tokenizer"], device),
            "whisper": lambda: asr.load(path, device),
        }
        network = readers[name]()
        own = storage.sha256_folder(path) if path.is_dir() else storage.sha256(path)
        return Opened(network, f"{storage.sha256_folder(self._files['clip'])}+{own}" if name == "aesthetic" else own)

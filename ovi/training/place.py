"""Where a process stands among the ranks, and where they meet. Light: no torch.

Try it: `RANK=1 WORLD_SIZE=2 python -c "import os; from ovi.training.place import Place; print(Place.of(os.environ))"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ovi.errors import ConfigError


@dataclass(frozen=True)
class Place:
    rank: int = 0
    ranks: int = 1
    meeting: Path | None = None  # a file that does not exist yet; None: at MASTER_ADDR and MASTER_PORT
    local: int = 0  # number of its GPU

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place | None:
        """What `ovi launch` or torchrun made of this process; None for one that was started by hand."""
        if "RANK" not in environment or "WORLD_SIZE" not in environment:
            return None
        try:
            rank, ranks, local = (int(environment.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        except ValueError:
            raise ConfigError("RANK, WORLD_SIZE, LOCAL_RANK: no numbers; unset them to start ranks from here") from None
        return cls(rank, ranks, local=local)

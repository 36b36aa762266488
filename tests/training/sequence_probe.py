"""One DeepSpeed rank of two that share every sample's tokens: `python -m tests.training.sequence_probe RANK FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ovi.progress import Silent
from ovi.training import loop
from ovi.training.job import Job
from ovi.training.place import Place
from ovi.training.rank import Mute
from tests.training import made


def trained(folder: Path, out: Path, rank: int, ranks: int) -> dict[str, Any]:
    """The metrics of two steps of fusion on folder/latents, some first frames given, from folder/models."""
    engine = "deepspeed" if ranks > 1 else "torch"
    settings = made.settings(
        f"training.engine={engine}", f"training.ranks={ranks}", f"training.sequence={ranks}",
        "training.fusion.first_frame_share=0.5", steps=2, batch=3,
    )  # fmt: skip
    job = Job.make("fusion", settings, folder / "latents", folder / "models", out)
    return loop.train(job, Place(rank, ranks, out / "meeting"), Silent(), Mute(), lambda: False)["metrics"]


if __name__ == "__main__":
    here, number = Path(sys.argv[2]), int(sys.argv[1])
    found = trained(here, here / "shared", number, 2)
    if number == 0:
        (here / "metrics.json").write_text(json.dumps(found))

"""A stage in a process of its own, to be stopped and killed: `python -m tests.training.run_stage STAGE FOLDER SET...`.

Ends as the `ovi` command does: one line on stderr and the error's exit code. MLflow is imported before the ranks
start, so that their words are passed on at once: whoever reads them can act while the ranks still work.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow.store.db.utils  # noqa: F401 - the slow part of MLflow's tracking

from ovi.errors import OviError, one_line
from ovi.progress import JsonLines
from ovi.training.launch import train
from tests.training import made


def main(stage: str, folder: Path, *sets: str) -> int:
    try:
        settings = made.settings(*sets, folder=folder)
        train(stage, settings, folder / "latents", folder / "models", folder / "checkpoints", JsonLines(every_s=0))
    except OviError as error:
        print(one_line(error), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))

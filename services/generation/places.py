"""Where one server keeps what it needs, beside its bundle: state folder, database, results, keys.

They come from the environment, which the workers inherit: addresses with passwords in them are on no command line.
Try it: `OVI_SERVICE_STATE=/tmp/state python -c "from services.generation.places import Places; print(Places.read())"`.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from ovi.errors import OviError
from services.generation.jobs import sqlite

STATE, DATABASE, RESULTS = "OVI_SERVICE_STATE", "OVI_SERVICE_DATABASE", "OVI_SERVICE_RESULTS"
KEYS, BUNDLE = "OVI_SERVICE_KEYS", "OVI_SERVICE_BUNDLE"


@dataclass(frozen=True)
class Places:
    state: Path
    database: str  # an SQLAlchemy address
    results: Path  # servers that share a database share this folder, too
    keys: Path | None  # file of API keys; None: only callers on this machine are served
    bundle: Path | None = None  # the model to serve instead of the Bento's own; a link that may change

    @classmethod
    def read(cls, state: Path | None = None) -> Places:
        """From the environment; a state folder given here comes first."""
        folder = (state or Path(os.environ.get(STATE) or "ovi-service")).absolute()
        keys = os.environ.get(KEYS)
        try:
            database = os.environ.get(DATABASE) or sqlite(folder)
        except OSError as error:
            raise OviError(f"{folder}: the service cannot write there ({error.strerror}); name another") from None
        results = Path(os.environ.get(RESULTS) or folder / "results").absolute()
        bundle = os.environ.get(BUNDLE)
        return cls(folder, database, results, Path(keys) if keys else None, Path(bundle) if bundle else None)

    @property
    def shared(self) -> bool:
        """Whether other servers may work on the same jobs."""
        return not self.database.startswith("sqlite")

    def replica(self) -> str:
        """The name of the server that has this state folder, the same after each restart."""
        path = self.state / "replica"
        if not path.exists():
            path.write_text(secrets.token_hex(8))
        return path.read_text().strip()

"""Where one server keeps what it needs, beside its bundle: state folder, database, results, keys.

They come from the environment, which the workers inherit: addresses with passwords in them are on no command line.
Try it: `OVI_SERVICE_STATE=/tmp/state python -c "from services.generation.places import Places; print(Places.read())"`.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from ovi import storage
from ovi.errors import OviError
from services.generation.jobs import sqlite

STATE, DATABASE, RESULTS = "OVI_SERVICE_STATE", "OVI_SERVICE_DATABASE", "OVI_SERVICE_RESULTS"
KEYS, BUNDLE, POLICY = "OVI_SERVICE_KEYS", "OVI_SERVICE_BUNDLE", "OVI_SERVICE_POLICY"
MODEL, TRACKING = "OVI_SERVICE_MODEL", "MLFLOW_TRACKING_URI"
CERTIFICATE, CERTIFICATE_KEY = "OVI_SERVICE_CERTIFICATE", "OVI_SERVICE_CERTIFICATE_KEY"


@dataclass(frozen=True)
class Places:
    state: Path
    database: str  # an SQLAlchemy address
    results: str  # folder or s3://bucket/prefix; servers that share a database share it, too
    keys: Path | None  # file of API keys; None: only callers on this machine are served
    bundle: Path | None = None  # the model to serve instead of the Bento's own; a link that may change
    policy: str | None = None  # rules over prompts and clips, module:name
    certificate: Path | None = None  # clips are signed with it (C2PA): a PEM chain
    certificate_key: Path | None = None
    model: str | None = None  # what to serve, by its name in the registry at `tracking`: models:/NAME@ALIAS
    tracking: str | None = None

    @classmethod
    def read(cls, state: Path | None = None) -> Places:
        """From the environment; a state folder given here comes first."""
        folder = (state or Path(os.environ.get(STATE) or "ovi-service")).absolute()
        try:
            database = os.environ.get(DATABASE) or sqlite(folder)
        except OSError as error:
            raise OviError(f"{folder}: the service cannot write there ({error.strerror}); name another") from None
        results = os.environ.get(RESULTS) or str(folder / "results")
        results = results if storage.is_remote(results) else str(Path(results).absolute())
        return cls(
            folder, database, results, _path(KEYS), _path(BUNDLE), os.environ.get(POLICY) or None,
            _path(CERTIFICATE), _path(CERTIFICATE_KEY), os.environ.get(MODEL) or None, os.environ.get(TRACKING) or None,
        )  # fmt: skip

    @property
    def models(self) -> Path:
        """Bundles of models that were fetched."""
        return self.state / "models"

    @property
    def workshop(self) -> Path:
        """Where workers make what is published elsewhere."""
        return self.state / "making"

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


def _path(variable: str) -> Path | None:
    named = os.environ.get(variable)
    return Path(named) if named else None

"""A clone as a place of work: where the pipeline keeps its own files under out/, and who is working there now.

One set of settings is fixed for all stages in out/settings.yaml; the user's own files are listed in out/source.json, so
that DVC sees one come or go; what a stage cost and produced is kept in out/runs/<stage>.json. Knows no stage by name.
Try it: `python -c "from flows.workspace import Workspace; print(Workspace('.').records())"`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from ovi import config, storage
from ovi.config import Settings
from ovi.errors import ConfigError, OviError

SETTINGS = "out/settings.yaml"
SOURCE = "out/source.json"
STOPPING_S = 90.0  # how long a killed run's last stage may take to stop


class Workspace:
    def __init__(self, root: str | Path = ".") -> None:
        """Raises OviError outside a clone of the repository."""
        self.root = Path(root).absolute()
        self.out = self.root / "out"
        self.prefect = self.out / "prefect"
        if not (self.root / "dvc.yaml").is_file():
            raise OviError(f"{self.root}: no dvc.yaml here; run from the top of the repository")

    def prepare(self, settings: Settings) -> None:
        """Write out/settings.yaml and out/source.json, each only if it changes. ConfigError for a bad corpus.source."""
        changed = self.source_changed(settings)
        path, text = self.root / SETTINGS, config.dump(settings).encode()
        if not path.exists() or path.read_bytes() != text:
            storage.write_bytes(path, text)
        if changed:
            storage.write_json(self.root / SOURCE, source_files(settings.corpus.source))

    def source_changed(self, settings: Settings) -> bool:
        """Whether the user's files differ from those out/source.json lists. ConfigError when there are none."""
        path = self.root / SOURCE
        found = source_files(settings.corpus.source)
        return not path.exists() or storage.read_json(path) != found

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """The descriptor of this clone's lock, held until the block and every process given the descriptor end.

        Raises OviError naming the run that holds it.
        """
        self.out.mkdir(exist_ok=True)
        with open(self.out / ".lock", "a+") as file:
            _take(file, self.root)
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield file.fileno()

    def record(self, stage: str, **values: Any) -> None:
        storage.write_json(self.out / "runs" / f"{stage}.json", values)

    def records(self) -> dict[str, dict[str, Any]]:
        """What is known of each stage that ever ran here; a damaged record counts as none."""
        found = {}
        for path in sorted((self.out / "runs").glob("*.json")):
            with contextlib.suppress(OviError):
                found[path.stem] = storage.read_json(path)
        return found


def source_files(folder: str | None) -> dict[str, Any]:
    """{"folder", "files": [[name, bytes, version]]} of the user's, none of which is read. ConfigError without any."""
    if folder is None:
        return {"folder": None, "files": []}
    root = folder if storage.is_remote(folder) else str(Path(folder).expanduser())
    if not storage.is_remote(root) and not Path(root).is_dir():
        raise ConfigError(f"corpus.source: {folder}: no such folder; give the folder of your video and sound files")
    files = storage.listing(root)
    if not files:
        raise ConfigError(
            f"corpus.source: {folder}: holds no files; put video or sound files there or name another folder"
        )
    return {"folder": folder, "files": [[os.path.relpath(name, root), size, stamp] for name, size, stamp in files]}


def _take(file: Any, root: Path) -> None:
    told = False
    until = time.monotonic() + STOPPING_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
        if holder.isdigit() and psutil.pid_exists(int(holder)):
            raise OviError(f"{root}: another run is working here (pid {holder}); wait for it, or stop it with Ctrl-C")
        if time.monotonic() > until:
            raise OviError(
                f"{root}: a stage of a killed run (pid {holder}) still holds out/.lock; end it and try again"
            )
        if not told:
            print("waiting for the last stage of a run that was killed to stop", file=sys.stderr, flush=True)
            told = True
        time.sleep(0.2)

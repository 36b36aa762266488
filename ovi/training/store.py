"""The checkpoints of one stage, whole or not there: `<stage>/step-000100/` and, where asked for, copies in S3.

A checkpoint is written under a hidden name, synced, described, and only then renamed. What is read back is the newest
that verifies and was written with the same key (settings, data, parents), here or among the copies. The last ones and
the best one are kept.
Try it: `ovi train fusion`, stop it with Ctrl-C, and run it again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ovi import storage
from ovi.training import checkpoint as files
from ovi.training.checkpoint import Checkpoint
from ovi.training.mirror import Mirror, worth_keeping


class Checkpoints:
    """`key` names what they depend on, as {"settings": digest, "data": digest, ...}; one process at a time writes."""

    def __init__(
        self, folder: Path, key: dict[str, str], keep: int, note: Callable[[str], None], mirror: str | None = None
    ) -> None:
        self._folder, self._key, self._keep, self._note = folder, key, keep, note
        self._mirror = Mirror(mirror, key, keep, note) if mirror else None

    def save(self, checkpoint: Checkpoint) -> Path:
        """Commit a checkpoint, then drop those no longer needed. Raises OviError when the disk is full."""
        path = self._folder / f"step-{checkpoint.step:06d}"
        with storage.atomic_folder(path) as temporary:
            files.write(temporary, checkpoint, self._key)
            _sync(temporary)
        _sync(self._folder)
        if self._mirror:
            self._mirror.add(path)
        self._prune(path)
        return path

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole and fits; says why others were passed over.

        Raises OviError when the copies cannot be asked for: going on from an older one could be a loss.
        """
        for leftover in self._folder.glob(".*"):  # of a process that was killed while writing or removing
            shutil.rmtree(leftover, ignore_errors=True)
        copies = self._mirror.names() if self._mirror else set()
        foreign = None
        for name in sorted(copies | {path.name for path in self._all()}, reverse=True):
            path = self._folder / name
            about = self._sound(path, name in copies)
            if about is None:
                continue
            if about["key"] != self._key:
                foreign = foreign or (path, about["key"])
                continue
            if self._mirror and name not in copies:
                self._mirror.add(path)
            return files.read(path)
        if foreign:
            path, theirs = foreign
            changed = " and ".join(part for part in sorted(self._key) if self._key[part] != theirs.get(part))
            self._note(f"{path} was written with other {changed}: starting anew; the first new checkpoint replaces it")
        return None

    def close(self) -> None:
        """Wait for the last copy."""
        if self._mirror:
            self._mirror.close()

    def _sound(self, path: Path, copied: bool) -> dict[str, Any] | None:
        """The description of a checkpoint that is whole; one that is not, is fetched where there is a copy."""
        fault = files.fault(path) if path.is_dir() else None
        if fault:
            self._note(f"{path} is damaged ({fault}) and not used")
        elif path.is_dir():
            return storage.read_json(path / files.DESCRIPTION)
        return self._mirror.fetch(path) if self._mirror and copied else None

    def _prune(self, last: Path) -> None:
        about = {path: files.describe(path) for path in self._all()}
        spared = worth_keeping(about, storage.read_json(last / files.DESCRIPTION), self._keep)
        if self._mirror:
            spared |= self._mirror.unfinished()
        for path in about.keys() - spared:
            doomed = path.with_name(f".{path.name}.old")
            path.rename(doomed)  # first out of sight, so that a kill leaves no half of a checkpoint
            shutil.rmtree(doomed, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"))


def _sync(folder: Path) -> None:
    """Push a folder and the files right in it to the disk."""
    for path in [*(path for path in folder.iterdir() if path.is_file()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""Copies of a stage's committed checkpoints at another address, s3:// or a folder, made while training goes on.

checkpoint.json comes last and goes first, so that a copy is whole or not seen; what is fetched is verified file by
file. A copy that fails is one line, and training goes on: the checkpoint itself is safe, and the next one is tried.
It does not know what a checkpoint holds.
Try it: `ovi train fusion --set training.mirror=s3://bucket/checkpoints`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ovi import storage
from ovi.errors import OviError, one_line
from ovi.training import checkpoint as files
from ovi.training.checkpoint import DESCRIPTION

ATTEMPTS = 2  # at fetching a file whose bytes are not what they were
Name = TypeVar("Name", bound=Hashable)


def worth_keeping(about: Mapping[Name, dict[str, Any] | str], last: dict[str, Any], keep: int) -> set[Name]:
    """Of described checkpoints the newest `keep` up to the one just written, and the one with the least score.

    What is newer than that one was passed over as damaged, or is from before the training went back; what has another
    key belongs to a training that is over; what has no sound description is none.
    """
    ours = {name: x for name, x in about.items() if isinstance(x, dict)}
    ours = {name: x for name, x in ours.items() if x["key"] == last["key"] and x["step"] <= last["step"]}
    newest = sorted(ours, key=lambda name: ours[name]["step"])[-keep:]
    scored = sorted((x["score"], x["step"], name) for name, x in ours.items() if x.get("score") is not None)
    return {*newest, *(name for _, _, name in scored[:1])}


class Mirror:
    """One thread copies the newest checkpoint there is; one that is overtaken before its turn is left out.

    What it has to say is said by the thread that calls `add` or `close`.
    """

    def __init__(self, address: str, key: dict[str, str], keep: int, note: Callable[[str], None]) -> None:
        self._address, self._key, self._keep, self._note = address.rstrip("/"), key, keep, note
        self._changed = threading.Condition()
        self._waiting: Path | None = None
        self._copying: Path | None = None
        self._said: list[str] = []
        self._defect: Exception | None = None
        self._thread: threading.Thread | None = None

    def add(self, path: Path) -> None:
        """Copy a committed checkpoint, soon."""
        self._speak()
        with self._changed:
            self._waiting = path
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def unfinished(self) -> set[Path]:
        """Checkpoints that must not go yet."""
        with self._changed:
            return {path for path in (self._waiting, self._copying) if path}

    def close(self) -> None:
        """Wait until the newest checkpoint is copied, or cannot be."""
        with self._changed:
            self._changed.wait_for(lambda: self._defect or (not self._waiting and not self._copying))
        self._speak()

    def names(self) -> set[str]:
        """Of all whole copies. Raises OviError when the store does not answer."""
        return {name for name, found in self._found().items() if DESCRIPTION in found}

    def fetch(self, path: Path) -> dict[str, Any] | None:
        """Bring a copy to `path` and return its description; None, and a line, when the copy is damaged.

        One of another key is only described: nobody continues it.
        """
        copy = f"{self._address}/{path.name}"
        about = files.describe(copy)
        if isinstance(about, dict) and about["key"] == self._key:
            try:
                with storage.atomic_folder(path) as temporary:
                    for name in sorted(about["files"]):
                        _fetched(copy, temporary, about, name)
                    storage.write_json(temporary / DESCRIPTION, about)
            except _DamagedError as error:
                about = str(error)
        if isinstance(about, dict):
            return about
        self._note(f"{copy} is damaged ({about}) and not used")
        return None

    def _work(self) -> None:
        while self._defect is None:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
                self._copying, self._waiting = self._waiting, None
                path = self._copying
            assert path is not None
            try:
                self._prune(self._copy(path))
            except (OviError, OSError) as error:
                self._said.append(f"{path}: not copied ({one_line(error)}); training goes on, the next one is tried")
            except Exception as error:  # raised where the training goes on
                self._defect = error
            finally:
                with self._changed:
                    self._copying = None
                    self._changed.notify_all()

    def _copy(self, path: Path) -> dict[str, Any]:
        """Its description."""
        copy, about = f"{self._address}/{path.name}", storage.read_json(path / DESCRIPTION)
        storage.delete(f"{copy}/{DESCRIPTION}")  # of an older attempt, whose files are replaced now
        for name, facts in sorted(about["files"].items()):
            storage.upload(path / name, f"{copy}/{name}")
            if storage.size(f"{copy}/{name}") != facts["bytes"]:
                raise OviError(f"{copy}/{name}: arrived with another size")
        storage.upload(path / DESCRIPTION, f"{copy}/{DESCRIPTION}")
        return about

    def _prune(self, last: dict[str, Any]) -> None:
        """Also what a killed copy left: one process at a time writes here."""
        found = self._found()
        about = {name: files.describe(f"{self._address}/{name}") for name in found if DESCRIPTION in found[name]}
        spared = worth_keeping(about, last, self._keep)
        for name in sorted(found.keys() - spared):
            for file in sorted(found[name], key=lambda file: file != DESCRIPTION):
                storage.delete(f"{self._address}/{name}/{file}")

    def _found(self) -> dict[str, list[str]]:
        """Names of files by name of checkpoint."""
        found: dict[str, list[str]] = {}
        for address in storage.list_files(self._address):
            name, _, file = address.removeprefix(f"{self._address}/").partition("/")
            if name.startswith("step-"):
                found.setdefault(name, []).append(file)
        return found

    def _speak(self) -> None:
        if self._defect:
            raise self._defect
        while self._said:
            self._note(self._said.pop(0))


class _DamagedError(Exception):
    """A copy is not what its description says."""


def _fetched(copy: str, folder: Path, about: dict[str, Any], name: str) -> None:
    if "/" in name or name.startswith("."):
        raise _DamagedError(f"{name!r} is no name of a file")
    if not storage.exists(f"{copy}/{name}"):
        raise _DamagedError(f"{name} is missing")
    for _ in range(ATTEMPTS):
        storage.download(f"{copy}/{name}", folder / name)
        what = files.wrong(folder, about, name)
        if what is None:
            return
    raise _DamagedError(f"{name} {what}")

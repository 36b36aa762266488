"""dvc.yaml as the pipeline sees it: the order of stages, which are stale and why, and dvc.lock.

The only module that imports dvc. A stage is stale by content: its command, the hashes of what it reads (data and code),
its parameters, its outputs. DVC hashes and caches; running is somebody else's work (`dvc repro` would run the same
commands). Reading takes no lock and writes nothing. What a stage reads is hashed before it starts, so that an edit made
while it runs makes it stale again; dvc.lock is replaced as a whole, after the stage succeeded. Knows no stage by name.
Try it: `ovi plan`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
from dvc.dependency import ParamsDependency
from dvc.dvcfile import load_file
from dvc.exceptions import DownloadError, DvcException
from dvc.lock import LockError
from dvc.output import Output, OutputDoesNotExistError
from dvc.repo import Repo
from dvc.repo.graph import build_graph
from dvc.stage import PipelineStage
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml, loads_yaml

from flows.record import Inputs, Record, is_code
from flows.workspace import SETTINGS
from ovi import storage
from ovi.errors import OviError, one_line

LOCK = "dvc.lock"
REMOTE = "shared"  # what DVC calls the one that settings name


@dataclass(frozen=True)
class Running:
    """A stage between `begin` and `commit`."""

    stage: PipelineStage
    inputs: Inputs


class Graph:
    """One reading of dvc.yaml, dvc.lock and the files they name; `refresh` after anything changed."""

    def __init__(
        self,
        root: str | Path,
        settings: dict[str, Any] | None = None,
        changed: frozenset[str] = frozenset(),
        hashes: Path | None = None,
        remote: str | None = None,
    ) -> None:
        """For looking ahead: `settings` stand for what out/settings.yaml holds, files in `changed` count as changed.

        `hashes`: folder where DVC remembers what it has hashed; with an empty one every file is read again.
        `remote`: folder or s3://bucket/prefix that `push` and `pull` exchange outputs with (AWS_* variables).
        Raises OviError for a bad dvc.yaml.
        """
        self.root = Path(root).absolute()
        self._config: dict[str, Any] = {
            # no_scm: nothing here needs git, and a clone without its history works the same
            "core": {"no_scm": True, "site_cache_dir": str(hashes or self.root / ".dvc" / "tmp" / "site")}
        }
        if remote:
            self._config["core"]["remote"] = REMOTE
            self._config["remote"] = {REMOTE: _remote(remote)}
        self._settings, self._changed = settings, changed
        self._repo: Repo | None = None
        logging.getLogger("dvc").setLevel(logging.ERROR)  # also switches its progress bars off
        logging.getLogger("dvc_data").setLevel(logging.CRITICAL)  # what fails it says itself, with a traceback a file
        self.refresh()

    def refresh(self) -> None:
        """Read everything again. DVC remembers what it has hashed by size and time, so this costs little."""
        self.close()
        try:
            self._repo = Repo(str(self.root), config=self._config)
            self._file = load_file(self._repo, str(self.root / "dvc.yaml"))
            self._stages: dict[str, PipelineStage] = {name: self._file.stages[name] for name in self._file.stages}
            self._recorded = set(self._file.lockfile_contents.get("stages", {}))
            edges = build_graph(list(self._stages.values()))
        except DvcException as error:
            raise OviError(f"{self.root}: the stages cannot be read: {one_line(error)}") from None
        self._hashes: dict[str, str | None] = {}
        self.after = {name: {other.name for other in edges.successors(stage)} for name, stage in self._stages.items()}
        self.order: list[str] = []  # as in dvc.yaml, but never before what a stage reads
        while len(self.order) < len(self._stages):
            ready = (name for name in self._stages if name not in self.order and self.after[name] <= set(self.order))
            self.order.append(next(ready))

    def close(self) -> None:
        if self._repo is not None:
            self._repo.close()

    def command(self, name: str) -> tuple[str, ...]:
        """The stage's command as words; never a shell line."""
        return tuple(shlex.split(str(self._stages[name].cmd)))

    def outputs(self, name: str) -> list[str]:
        return [str(out.def_path) for out in self._stages[name].outs]

    def uncached(self, name: str) -> list[str]:
        """Outputs that are no content of a remote: they travel with git."""
        return [str(out.def_path) for out in self._stages[name].outs if not out.use_cache]

    def reads(self, name: str) -> tuple[list[str], list[str]]:
        """What a stage reads: paths that a remote has by their content, and the others: code, settings."""
        kept = [Path(out.fs_path) for stage in self._stages.values() for out in stage.outs if out.use_cache]
        found: tuple[list[str], list[str]] = ([], [])
        for dep in self._stages[name].deps:
            path = Path(dep.fs_path)
            found[not any(path.is_relative_to(out) for out in kept)].append(str(dep.def_path))
        return found

    def reasons(self, name: str) -> list[str]:
        """Why the stage has to run, in words; empty when everything it reads and wrote is as recorded."""
        stage = self._stages[name]
        if name not in self._recorded:
            return ["never run"]
        command = ["its command changed"] if stage.cmd_changed else []
        return [*command, *self._changed_params(stage), *self._changed_deps(stage), *self._changed_outs(stage)]

    def record(self, name: str) -> Record | None:
        """What dvc.lock says of a stage, None when it never ran."""
        entry = self.entry(name)
        return None if entry is None else Record.of(entry, self.root)

    def entry(self, name: str) -> dict[str, Any] | None:
        """The stage's entry in dvc.lock as it stands there."""
        found: dict[str, Any] | None = self._file.lockfile_contents.get("stages", {}).get(name)
        return found

    def hash(self, path: str) -> str | None:
        """Content hash now of something a stage reads or writes; None when there is none."""
        for stage in self._stages.values():
            for entry in (*stage.outs, *stage.deps):
                if not isinstance(entry, ParamsDependency) and str(entry.def_path) == path:
                    return self._hash(entry)
        return None

    def parameter(self, name: str, dotted: str) -> Any:
        """The value now of a parameter that a stage depends on."""
        for dep in self._stages[name].params:
            values = dep.read_params()
            if dotted in values:
                return values[dotted]
        return None

    def begin(self, name: str) -> Running:
        """Hash what the stage reads, then remove its outputs. Raises OviError when something it reads is missing."""
        stage = self._stages[name]
        try:
            stage.save_deps()
        except DvcException as error:
            raise OviError(f"stage {name}: {one_line(error)}; run `ovi demo`, which makes what is missing") from None
        for out in stage.outs:
            if not out.persist:
                _remove(Path(out.fs_path))
        params: dict[str, Any] = {}
        for dep in stage.params:
            params.update(dep.hash_info.value)
        return Running(stage, Inputs(self.command(name), _hashes(stage, code=False), _hashes(stage, code=True), params))

    def commit(self, running: Running) -> dict[str, str]:
        """Put the stage's outputs into the cache and its entry into dvc.lock. Returns their hashes by path.

        Raises OviError when an output is missing, or another DVC process is at work.
        """
        stage = running.stage
        with self._exclusive():
            try:
                stage.save_outs()
                stage.commit()
            except LockError:
                raise
            except OutputDoesNotExistError as error:
                raise OviError(f"stage {stage.name}: ended well without an output: {one_line(error)}") from None
            except (DvcException, OSError) as error:  # a full disk, most often
                raise OviError(f"stage {stage.name}: its outputs cannot be kept: {one_line(error)}") from error
            self._write(to_lockfile(stage))
        hashes = {str(out.def_path): str(out.hash_info.value) for out in stage.outs}
        self.refresh()
        return hashes

    def adopt(self, running: Running, entry: dict[str, Any]) -> dict[str, str]:
        """Take the entry that another machine's `commit` made of the same work, and its outputs from the remote.

        Returns their hashes by path. Raises OviError when the entry is of other work, or the remote lacks an output.
        """
        name = running.stage.name
        try:
            record = Record.of(entry, self.root)
        except (KeyError, TypeError, ValueError, AttributeError):
            record = None
        if record is None or record.inputs.key != running.inputs.key or set(record.outputs) != set(self.outputs(name)):
            raise OviError(f"stage {name}: what came back is of other inputs than were sent; run it again")
        with self._exclusive():
            self._write({name: entry})
        self.refresh()
        plain = self.uncached(name)
        self.pull(*(path for path in record.outputs if path not in plain))
        self.check(record.outputs)
        return record.outputs

    def check(self, wanted: dict[str, str]) -> None:
        """Raises OviError for a path that has not the hash given once it was pulled."""
        for path, value in wanted.items():
            if self.hash(path) != value:
                raise OviError(
                    f"data.remote: {self._url}: {path} (md5 {value}) is missing or damaged there; remove the object "
                    "that is not what its name says, and `ovi push` from a clone that has it"
                )

    def push(self, *stages: str) -> int:
        """Send what stages wrote (all by default) to the remote, as far as it is not there; files sent.

        Raises OviError when the remote cannot be reached or written.
        """
        return self._exchange("push", stages)

    def pull(self, *paths: str) -> int:
        """Fetch what dvc.lock names from the remote (all, or those paths) and put it in its place; files fetched.

        What is damaged there is not taken. Raises as `push`.
        """
        targets = [str(self.root / path) for path in paths]
        self._verify(True)
        try:
            found = self._exchange("fetch", (), targets)
            self._exchange("checkout", (), targets)
        finally:
            self._verify(False)
        return found

    def _verify(self, value: bool) -> None:
        """Whether DVC reads again what it has moved: well for a pull, but a push would fetch all back."""
        if "remote" in self._config:
            self._config["remote"][REMOTE]["verify"] = value
        self.refresh()

    def _exchange(self, verb: str, stages: tuple[str, ...], targets: list[str] | None = None) -> int:
        assert self._repo is not None
        recorded = [f"{self.root / 'dvc.yaml'}:{name}" for name in stages or self.order if name in self._recorded]
        names = targets or recorded
        options: dict[str, Any] = {"force": True, "allow_missing": True} if verb == "checkout" else {}
        try:
            done = getattr(self._repo, verb)(targets=names, **options) if names else 0
            return done if isinstance(done, int) else 0
        except LockError as error:
            raise OviError(
                f"{self.root}: another DVC command is at work here; let it end ({one_line(error)})"
            ) from None
        except Exception as error:  # DVC's own, botocore's and aiohttp's: all the same to whoever set the remote
            cause, more = one_line(error.__cause__ or error), ""
            if verb == "fetch" and isinstance(error, DownloadError | FileNotFoundError):  # names DVC's copy, or none
                cause, more = "what dvc.lock names is not all there", ", or `ovi push` from a clone that has it"
            where = f"data.remote: {self._url}"
            raise OviError(f"{where}: {cause}; check the address and the AWS_* variables{more}") from None

    @property
    def _url(self) -> str:
        return str(self._config.get("remote", {}).get(REMOTE, {}).get("url", "none is set"))

    def _write(self, entry: Any) -> None:
        """Replace a stage's entry in dvc.lock. DVC truncates before it writes: a kill loses all."""
        path = self.root / LOCK
        lock: Any = loads_yaml(path.read_text(), typ="rt") if path.exists() else {"schema": "2.0"}
        lock.setdefault("stages", {}).update(entry)
        storage.write_bytes(path, dumps_yaml(lock).encode())

    def _changed_params(self, stage: PipelineStage) -> Iterator[str]:
        for dep in stage.params:
            recorded = dep.hash_info.value or {}
            if self._settings is not None and dep.def_path == SETTINGS:
                now = {name: _at(self._settings, name) for name in dep.params}
            else:
                now = dep.read_params()
            for name in dep.params:
                yield from _differences(name, recorded.get(name), now.get(name))

    def _changed_deps(self, stage: PipelineStage) -> Iterator[str]:
        for dep in stage.deps:
            if isinstance(dep, ParamsDependency):
                continue
            what = "code" if is_code(Path(dep.fs_path)) else "input"
            found = self._hash(dep)
            if found is None:
                yield f"{what} {dep.def_path} is missing"
            elif found != dep.hash_info.value or dep.def_path in self._changed:
                yield f"{what} {dep.def_path} changed"

    def _changed_outs(self, stage: PipelineStage) -> Iterator[str]:
        for out in stage.outs:
            found = self._hash(out)
            if found is None:
                yield f"output {out.def_path} is missing"
            elif found != out.hash_info.value:
                yield f"output {out.def_path} is not what the stage wrote"

    def _hash(self, entry: Output) -> str | None:
        """Content hash of a file or folder now, None when there is none; each path once a reading."""
        if entry.fs_path not in self._hashes:
            self._hashes[entry.fs_path] = entry.get_hash().value if entry.exists else None
        return self._hashes[entry.fs_path]

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        assert self._repo is not None
        try:
            with self._repo.lock:
                _drop_dead_locks(Path(self._repo.tmp_dir) / "rwlock")
                yield
        except LockError as error:
            raise OviError(
                f"{self.root}: another DVC command is at work here; let it end ({one_line(error)})"
            ) from None


def _remote(address: str) -> dict[str, Any]:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    named = {"endpointurl": endpoint} if endpoint and storage.is_remote(address) else {}
    return {"url": address if storage.is_remote(address) else str(Path(address).expanduser().absolute()), **named}


def _drop_dead_locks(path: Path) -> None:
    """DVC's list of who reads and writes what survives its owners: forget it when it is cut short or all are gone.

    A process that started after the list was written only wears an old owner's number.
    """
    if not path.exists():
        return
    written = path.stat().st_mtime
    try:
        lists = json.loads(path.read_text())
        owners = [*lists.get("write", {}).values(), *chain.from_iterable(lists.get("read", {}).values())]
        alive = any(_started_before(int(owner["pid"]), written) for owner in owners)
    except (ValueError, KeyError, TypeError, AttributeError):
        alive = False
    if not alive:
        path.unlink(missing_ok=True)


def _started_before(pid: int, moment: float) -> bool:
    try:
        return psutil.Process(pid).create_time() <= moment
    except psutil.NoSuchProcess:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _hashes(stage: PipelineStage, code: bool) -> dict[str, str]:
    deps = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
    return {str(dep.def_path): str(dep.hash_info.value) for dep in deps if is_code(Path(dep.fs_path)) is code}


def _at(values: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def _differences(name: str, before: Any, now: Any) -> Iterator[str]:
    """One sentence for each leaf that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(f"{name}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield f"parameter {name} changed ({_short(before)} -> {_short(now)})"


def _short(value: Any) -> str:
    text = "not set" if value is None else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."

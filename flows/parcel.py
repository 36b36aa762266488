"""A stage's way to a machine that shares no folder with the flow, and back. Only `data.remote` is between the two.

    <data.remote>/files/...                  outputs of stages, by their content: pulled and pushed as ever
    <data.remote>/parcels/<name>/stage.tar   the rest of what the stage reads: settings, code, dvc.yaml, dvc.lock
                                made.tar     outputs that are not cached, such as metrics
                                made.json    the stage's entry for dvc.lock, written last
The other machine does what a flow does, in an empty folder: pull, check, run, commit, push. Its entry is taken only if
it is of the same work, and its outputs only if they are what it says. A parcel is removed when its stage has ended.
Try it: `pytest tests/flows/test_parcel.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from flows.graph import LOCK, Graph, Running
from flows.signals import one_line_stop
from flows.workspace import SETTINGS
from ovi import config, storage
from ovi.errors import ConfigError, OviError
from ovi.progress import Progress
from ovi.training.stopping import Stopping

SENT, MADE, ENTRY = "stage.tar", "made.tar", "made.json"
TOLD = "parcel.json"  # in the tar: which stage, and what it must find
ALWAYS = ("dvc.yaml", LOCK, ".dvcignore", SETTINGS)
DVC = """\
[core]
    analytics = false
    autostage = false
    check_update = false
[cache]
    type = reflink,hardlink,copy
"""


class Parcel:
    """`with Parcel(...) as parcel:` the stage's inputs are at `parcel.address`, until the block ends."""

    def __init__(self, graph: Graph, running: Running, remote: str) -> None:
        self._graph, self._running = graph, running
        self._stage = str(running.stage.name)
        self.address = f"{remote.rstrip('/')}/parcels/{self._stage}-{os.urandom(4).hex()}"

    def __enter__(self) -> Self:
        """Raises OviError when the remote cannot be used."""
        graph, inputs = self._graph, self._running.inputs
        if before := graph.after[self._stage]:
            graph.push(*sorted(before))  # a stage that ran before there was a remote
        pulled, carried = graph.reads(self._stage)
        hashes = inputs.data | inputs.code
        told = {"stage": self._stage, "key": inputs.key, "pulled": {path: hashes[path] for path in pulled}}
        packed = _pack(graph.root, sorted({*ALWAYS, *carried}), {TOLD: json.dumps(told).encode()})
        storage.write_bytes(f"{self.address}/{SENT}", packed)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OviError):  # what matters is done, and a parcel is small
            for name in (SENT, MADE, ENTRY):
                storage.delete(f"{self.address}/{name}")

    def receive(self) -> dict[str, str]:
        """Take over what the stage made; hashes of its outputs by path. Raises OviError when that is not whole."""
        entry = storage.read_json(f"{self.address}/{ENTRY}")
        _unpack(storage.read_bytes(f"{self.address}/{MADE}"), self._graph.root, self._graph.uncached(self._stage))
        return self._graph.adopt(self._running, entry)


def work(address: str, command: Sequence[str], share: bool, root: Path, progress: Progress) -> int:
    """The other end: in an empty folder, fetch the parcel's stage, run it and send what it made; its exit code.

    Of a gang only the first pod sends; of shares none does, because what they make is no output yet. Raises OviError
    when something it reads is missing or damaged in the remote.
    """
    with one_line_stop("nothing of the stage is lost"):
        graph, running = _arrive(address, root, progress)
        code = _run(command, root)
        first = int(os.environ.get("PET_NODE_RANK") or 0) == 0
        if code == 0 and first and not share:
            _send(graph, running, address)
        graph.close()
    return code


def _arrive(address: str, root: Path, progress: Progress) -> tuple[Graph, Running]:
    _unpack(storage.read_bytes(f"{address}/{SENT}"), root)
    storage.write_bytes(root / ".dvc" / "config", DVC.encode())
    told: dict[str, Any] = storage.read_json(root / TOLD)
    graph = Graph(root, remote=config.load(root / SETTINGS).data.remote)
    count = graph.pull(*told["pulled"]) if told["pulled"] else 0
    graph.check(told["pulled"])
    running = graph.begin(told["stage"])
    if running.inputs.key != told["key"]:
        raise OviError(f"{address}: not what the flow hashed; were files edited meanwhile? run the same command again")
    progress.note(f"{count} files fetched from data.remote")
    return graph, running


def _run(command: Sequence[str], root: Path) -> int:
    """The exit code, 128 + n for signal n. A wish to stop is the command's to hear."""
    with Stopping() as stopping:
        try:
            process = subprocess.Popen(command, cwd=root)
        except OSError as error:
            raise ConfigError(f"{command[0]}: cannot be run: {error.strerror}") from None
        stopping.pass_on_to([process.pid])
        code = process.wait()
    return code if code >= 0 else 128 - code


def _send(graph: Graph, running: Running, address: str) -> None:
    stage = str(running.stage.name)
    graph.commit(running)
    graph.push(stage)
    storage.write_bytes(f"{address}/{MADE}", _pack(graph.root, graph.uncached(stage)))
    storage.write_bytes(f"{address}/{ENTRY}", json.dumps(graph.entry(stage)).encode())


def _pack(root: Path, paths: Sequence[str], more: dict[str, bytes] | None = None) -> bytes:
    """A tar of those that are there, the same bytes for the same content."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", dereference=True) as tar:
        for path in paths:
            if (root / path).exists():
                tar.add(root / path, path, filter=_plain)
        for name, data in (more or {}).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    return None if Path(member.name).name == "__pycache__" else member


def _unpack(data: bytes, root: Path, allowed: Sequence[str] | None = None) -> None:
    """Raises OviError for a tar that is damaged or holds other paths than `allowed` and what is below them."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar.getmembers():
                name = Path(member.name)
                if allowed is not None and not any(name.is_relative_to(path) for path in allowed):
                    raise OviError(f"{name}: came back in a parcel, but is no output of the stage")
                if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                    raise OviError(f"{name}: no parcel holds such; run the same command again")
                member.mode &= 0o755
                tar.extract(member, root)  # Python before 3.11.4 has no filter for the rest
    except tarfile.TarError as error:
        raise OviError(f"a parcel is damaged ({error}); run the same command again") from None

"""An S3 server that checks signatures and keeps its data on disk: OpenStack Swift, as processes of our own on loopback.

One copy of everything, no replication. In the development extra on Linux; else `pip install swift`.
"""

from __future__ import annotations

import array
import contextlib
import getpass
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.services.postgres import free_port

KEY, SECRET = "ovi:writer", "a-secret-of-about-forty-characters/+more"
START_S = 60.0
KINDS = ("account", "container", "object")

STORAGE = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
workers = 0
disable_fallocate = true
fallocate_reserve = 0

[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
"""

PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {folder}
workers = 0

[pipeline:main]
pipeline = catch_errors healthcheck s3api tempauth bulk slo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_ovi_writer = {secret} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
"""


def missing() -> str | None:
    """Why there can be none here."""
    if importlib.util.find_spec("swift") is None:
        return "no Swift here: pip install swift (Linux)"
    with tempfile.NamedTemporaryFile() as probe:
        try:
            os.setxattr(probe.name, "user.ovi", b"1")
        except OSError:
            return f"Swift needs extended attributes, which {tempfile.gettempdir()} has not: set TMPDIR"
    return None


class Swift:
    """Its configuration and data live in `folder`: stopped and started again, it has what it had."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._running = folder, dict[str, subprocess.Popen[bytes]]()
        self._ports = {kind: free_port() for kind in (*KINDS, "proxy")}
        self.url = f"http://127.0.0.1:{self._ports['proxy']}"
        (folder / "devices" / "disk").mkdir(parents=True)
        (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = ovi\n")
        for kind, port in self._ports.items():
            words = {"kind": kind, "port": port, "folder": folder, "user": getpass.getuser(), "secret": SECRET}
            (folder / f"{kind}.conf").write_text((PROXY if kind == "proxy" else STORAGE).format(**words))
        for kind in KINDS:
            _write_ring(folder / f"{kind}.ring.gz", self._ports[kind])

    def start(self) -> None:
        for kind in self._ports:
            program = Path(sys.executable).with_name(f"swift-{kind}-server")
            with (self._folder / f"{kind}.log").open("ab") as log:
                words = [program, self._folder / f"{kind}.conf", "--verbose"]
                self._running[kind] = subprocess.Popen(words, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        for kind, port in self._ports.items():
            while not _listens(port):
                said = (self._folder / f"{kind}.log").read_text(errors="replace")
                assert self._running[kind].poll() is None, f"Swift's {kind} server ended: {said[-2000:]}"
                assert time.monotonic() < deadline, f"Swift's {kind} server does not answer: {said[-2000:]}"
                time.sleep(0.02)

    def kill(self) -> None:
        """At once, as a machine that loses its power."""
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait(timeout=START_S)
        self._running.clear()


@contextlib.contextmanager
def swift(folder: Path) -> Iterator[Swift]:
    store = Swift(folder)
    try:
        store.start()
        yield store
    finally:
        store.kill()


def _write_ring(path: Path, port: int) -> None:
    """One partition, one copy, on the one device."""
    from swift.common.ring import RingData

    device = {
        "id": 0, "region": 1, "zone": 1, "weight": 1.0, "meta": "", "device": "disk",
        "ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port,
    }  # fmt: skip
    RingData([array.array("H", [0])], [device], part_shift=32).save(str(path))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

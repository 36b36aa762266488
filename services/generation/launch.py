"""Starting a packaged Bento: which command, which environment, which port, and how long until it is ready.

Shared by `ovi serve` (takes its place) and `ovi clip` (holds it on a leash). It knows nothing of jobs or clips.
Try it: `ovi serve --package out/package`.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from ovi import storage
from ovi.errors import OviError
from services.generation.keys import is_loopback
from services.generation.places import KEYS, STATE
from services.generation.processes import die_with_parent, stop_tree

READY_S = 300.0  # from start to a warm model, on a machine that has other things to do
STOP_S = 60.0  # a running job may finish first


@dataclass(frozen=True)
class Launch:
    """How to run one packaged Bento."""

    command: list[str]
    environment: dict[str, str]
    url: str


def launch(package: Path, state: Path, host: str, port: int, places: Mapping[str, str | None] | None = None) -> Launch:
    """The command for the Bento in `package`, with its state in `state`; port 0 takes a free one.

    `places` are variables of `places`, where they are set. Raises OviError when the package is missing or damaged, the
    port is taken, or others than this machine could call without a key.
    """
    bento = bento_folder(package)
    given = {name: value for name, value in (places or {}).items() if value is not None}
    if not is_loopback(host) and not (given | os.environ).get(KEYS):
        words = "others could call the service without a key; make one with `ovi key NAME` and set service.keys"
        raise OviError(f"service.host: {host}: {words}")
    port = _free(host, port)
    command = [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", host, "--port", str(port)]
    # BentoML writes into its home and Python beside its sources: neither belongs into the package.
    environment = (
        os.environ
        | {
            "BENTOML_HOME": str(state.absolute() / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            STATE: str(state.absolute()),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        | given
    )
    (state / "bentoml").mkdir(parents=True, exist_ok=True)
    return Launch(command, environment, f"http://{_reach(host)}:{port}")


def bento_folder(package: Path) -> Path:
    """The Bento that `ovi package` built into `package`."""
    record = package / "package.json"
    if not record.exists():
        raise OviError(f"{package}: not a package; make one with `ovi package`")
    bento = package.absolute() / str(storage.read_json(record).get("bento"))
    if not (bento / "bento.yaml").is_file():
        raise OviError(f"{package}: its Bento is missing; make it again with `ovi package`")
    return bento


class Server:
    """A Bento server that lives inside a `with` block and leaves nothing behind, however the block ends."""

    def __init__(self, how: Launch, log: Path) -> None:
        self.url, self._how, self._log = how.url, how, log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        with open(self._log, "ab") as log:
            self._process = _spawn(self._how, log)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        stop_tree(self._process, STOP_S)

    def wait_ready(self, patience_s: float = READY_S) -> float:
        """Seconds until /readyz answered 200. OviError with the server's last words when it ends or takes too long."""
        assert self._process is not None
        began, asked = time.monotonic(), 0
        with httpx.Client(base_url=self.url, timeout=5.0, trust_env=False) as client:
            while True:
                waited = time.monotonic() - began
                if self._process.poll() is not None:
                    raise OviError(f"the service ended with code {self._process.returncode}; {self.last_words()}")
                if waited > patience_s:
                    raise OviError(f"the service was not ready within {patience_s:.0f} s; {self.last_words()}")
                try:
                    if client.get("/readyz").status_code == 200:
                        return waited
                    asked += 1
                    if asked % 10 == 0 and _hopeless(client):
                        raise OviError(f"the service's workers end as soon as they start; {self.last_words()}")
                except httpx.TransportError:
                    pass  # not listening yet
                time.sleep(0.2)

    def last_words(self) -> str:
        """The last lines of the server's log, on one line."""
        with open(self._log, encoding="utf-8", errors="replace") as log:
            lines = deque((line.strip() for line in log if line.strip()), maxlen=3)
        return "its last words: " + (" | ".join(lines) or "none")


def _hopeless(client: httpx.Client) -> bool:
    """No worker got ready and each was started again more than once."""
    workers = client.get("/v1/capacity").json()["workers"]
    return all(worker["state"] != "ready" and worker["restarts"] > 1 for worker in workers)


def _spawn(how: Launch, log: BinaryIO) -> subprocess.Popen[bytes]:
    """In a session of its own, so that Ctrl-C reaches us first; killed by the kernel should we be."""
    return subprocess.Popen(
        how.command, env=how.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        start_new_session=True, preexec_fn=die_with_parent,
    )  # fmt: skip


def _free(host: str, port: int) -> int:
    """The port itself if nothing listens there, a free one for 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                words = f"{host}:{port}: cannot listen there ({error.strerror}); see service.host and service.port"
                raise OviError(words) from None
            words = f"port {port} on {host} is in use; stop what listens there or choose another with"
            raise OviError(f"{words} --set service.port=N (0 takes a free one)") from None
        return int(probe.getsockname()[1])


def _reach(host: str) -> str:
    """How a client on this machine writes the address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host

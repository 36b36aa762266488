"""One server process on a port, without BentoML: `python -m tests.services.serve BUNDLE STATE PORT`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import uvicorn

from services.generation.places import Places
from services.generation.server import Server


def main(bundle: str, state: str, port: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn ends in order, then raises the signal once more
    server = Server(Places.read(Path(state)), Path(bundle))
    uvicorn.run(server.guarded(server.api), host="127.0.0.1", port=int(port), log_level="warning")
    server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

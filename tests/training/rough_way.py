"""A way to an S3 store with potholes: an HTTP proxy on loopback that does to each request what it is told to.

`mood(method, path)` answers "well", a status such as "503", "slow", "cut" (the answer, or the connection, breaks off in
the middle) or "flip" (a bit of the answer's body is another one).
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Mood = Callable[[str, str], str]
SLOW_S = 0.02  # before and within an answer


def well(_method: str, _path: str) -> str:
    return "well"


class RoughWay:
    """`url` is what AWS_ENDPOINT_URL has to be; `asked` holds (method, path) of every request in order."""

    def __init__(self, store: str) -> None:
        self.mood = well
        self.asked: list[tuple[str, str]] = []
        self.store = urlsplit(store)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"way": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    way: RoughWay
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.way.asked.append((self.command, self.path))
        mood = self.way.mood(self.command, self.path)
        if mood.isdigit():
            self._answer(int(mood), {}, b"")
            return
        if mood == "slow":
            _pause()
        asked = http.client.HTTPConnection(self.way.store.hostname or "", self.way.store.port)
        try:
            asked.request(self.command, self.path, body, dict(self.headers))
            answer = asked.getresponse()
            data = answer.read()
        finally:
            asked.close()
        if mood == "flip" and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        headers = {name: value for name, value in answer.getheaders() if name.lower() != "transfer-encoding"}
        if self.command != "HEAD":
            headers = {name: x for name, x in headers.items() if name.lower() != "content-length"}
        self._answer(answer.status, headers, data, mood)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

    def _answer(self, status: int, headers: dict[str, str], data: bytes, mood: str = "well") -> None:
        if mood == "cut" and not data:
            self.close_connection = True
            return
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(data[: len(data) // 2])
            if mood == "slow":
                self.wfile.flush()
                _pause()
            if mood != "cut":
                self.wfile.write(data[len(data) // 2 :])
        self.close_connection = self.close_connection or mood == "cut"

    def log_message(self, *_: object) -> None:
        pass


def _pause() -> None:
    threading.Event().wait(SLOW_S)  # a real wait: tests take time.sleep away from the client


@contextlib.contextmanager
def rough_way(store: str) -> Iterator[RoughWay]:
    way = RoughWay(store)
    try:
        yield way
    finally:
        way.close()

"""A stand-in for vLLM or SGLang on loopback: real HTTP, answers by a function, and a diary of what was asked when."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SPOKEN = "A man says <S>hello there<E> and waves. <AUDCAP>A young man's bright, quick voice.<ENDAUDCAP>"
UNSPOKEN = "A lamp blinks in the dark. <AUDCAP>Short high beeps.<ENDAUDCAP>"
SPOKEN_SOUND = "<S>hello there<E> <AUDCAP>A young man's bright, quick voice.<ENDAUDCAP>"
UNSPOKEN_SOUND = "<AUDCAP>Short high beeps.<ENDAUDCAP>"
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Asked:
    """One request."""

    at: float  # s, monotonic
    headers: dict[str, str]
    body: dict[str, Any]

    def parts(self, kind: str) -> list[Any]:
        """The parts of a kind of the first message: text, image_url, input_audio."""
        return [part[kind] for part in self.body["messages"][0]["content"] if part["type"] == kind]

    @property
    def listening(self) -> bool:
        """Whether this is the question about words."""
        return self.body["max_tokens"] < 100

    @property
    def sound(self) -> bytes:
        """The WAV file; it tells clips apart."""
        (part,) = self.parts("input_audio")
        assert part["format"] == "wav"
        return base64.b64decode(part["data"], validate=True)

    @property
    def complaint(self) -> str | None:
        """Why an earlier answer was refused, when this asks again."""
        messages = self.body["messages"]
        return messages[2]["content"][0]["text"] if len(messages) == 3 else None


@dataclass(frozen=True)
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    drop: bool = False  # close the connection instead


def said(text: str | None, finish: str = "stop", usage: tuple[int, int] | None = (1000, 50)) -> Reply:
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    body: dict[str, Any] = {"id": "1", "object": "chat.completion", "model": "omni", "choices": [choice]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return Reply(json.dumps(body).encode())


def failing(status: int, message: str = "sorry", **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message, "type": "x", "code": status}}).encode()
    return Reply(body, status, {**JSON, **{name.replace("_", "-"): value for name, value in headers.items()}})


def good(asked: Asked) -> Reply:
    """What a model that does its work answers: no words are heard in anything."""
    if asked.listening:
        return said("NO SPEECH", usage=(150, 3))
    return said(UNSPOKEN if asked.parts("image_url") else UNSPOKEN_SOUND)


class LlmServer:
    """`reply` may be exchanged at any time; it runs in the requests' threads. start and stop as often as you like."""

    def __init__(self, reply: Callable[[Asked], Reply] = good) -> None:
        self.reply, self.asked = reply, list[Asked]()
        self.at_once = self.most_at_once = 0  # requests under way
        self._lock, self._port = threading.Lock(), 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), _handler(self))
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """A request is being answered."""
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            yield
        finally:
            with self._lock:
                self.at_once -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None: ...  # a client that went away


def _handler(server: LlmServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            assert self.path == "/v1/chat/completions"
            asked = Asked(time.monotonic(), {name.lower(): value for name, value in self.headers.items()}, body)
            with server.one():
                server.asked.append(asked)
                reply = server.reply(asked)
            if reply.drop:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: Any) -> None: ...

    return Handler

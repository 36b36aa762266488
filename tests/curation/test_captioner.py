"""The HTTP captioner against a real server on loopback: what it sends, and what it does when the server is not well."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import logging
import random
import threading
import time
import wave
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import cv2
import numpy as np
import pytest

from ovi.config import Captions
from ovi.curation import captioner
from ovi.curation.caption_dialogue import Answer, CaptionFailed
from ovi.curation.caption_prompts import Material, Picture, Track, describe, listen
from ovi.curation.captioner import HttpCaptioner, Waits, retry_after
from ovi.errors import ConfigError, OviError
from ovi.progress import Silent
from tests.curation.llm_server import JSON, UNSPOKEN, Asked, LlmServer, Reply, failing, good, said

PCM = (np.arange(80640) % 251).astype("<i2").tobytes()
MATERIAL = Material(
    tuple(Picture(np.full((16, 24, 3), (200, 20 * n, 10), np.uint8)) for n in range(7)),
    tuple(20 * n / 24 for n in range(7)),
    Track(PCM, 16000),
)
GOOD = Answer(UNSPOKEN, True, 1000, 50)


class Notes(Silent):
    """Keeps what is noted, and acts on it."""

    def __init__(self, then: Callable[[str], None] = lambda _: None) -> None:
        self.notes: list[str] = []
        self._then = then

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._then(text)


@pytest.fixture
def server() -> Iterator[LlmServer]:
    running = LlmServer()
    yield running
    running.stop()


def ask(server: LlmServer, times: int = 1, notes: Notes | None = None, **settings: Any) -> list[Answer]:
    """The answers to so many equal questions at once."""
    values = {"source": "http", "url": server.url, "model": "omni", "timeout_s": 20.0, **settings}

    async def run() -> list[Answer]:
        model = HttpCaptioner(Captions(**values), notes or Notes(), seed=1, first_wait_s=0.005)
        try:
            turns = describe(MATERIAL, spoken=False)
            return await asyncio.gather(*(model.ask(turns, 1024) for _ in range(times)))
        finally:
            await model.close()

    return asyncio.run(run())


def in_turn(*replies: Reply) -> Callable[[Asked], Reply]:
    """These replies one after the other, then good ones."""
    left = iter(replies)
    return lambda asked: next(left, None) or good(asked)


def test_what_is_sent(server: LlmServer) -> None:
    assert ask(server) == [GOOD]
    (asked,) = server.asked
    assert asked.headers["content-type"] == "application/json"
    assert "authorization" not in asked.headers
    assert {key: asked.body[key] for key in ("model", "max_tokens", "temperature", "seed", "modalities")} == {
        "model": "omni", "max_tokens": 1024, "temperature": 0, "seed": 1, "modalities": ["text"],
    }  # fmt: skip
    pictures = [part["url"] for part in asked.parts("image_url")]
    assert len(pictures) == 7
    for n, url in enumerate(pictures):
        kind, _, data = url.partition(",")
        assert kind == "data:image/jpeg;base64"
        shown = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(shown[..., ::-1].astype(int) - (200, 20 * n, 10)).max() <= 4
    with wave.open(io.BytesIO(asked.sound)) as wav:
        assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (1, 2, 16000)
        assert wav.readframes(wav.getnframes()) == PCM
    text = " ".join(asked.parts("text"))
    assert all(f"At {seconds:.2f} s:" in text for seconds in MATERIAL.seconds)


def test_the_first_question_has_the_sound_alone(server: LlmServer) -> None:
    async def run() -> Answer:
        model = HttpCaptioner(Captions(source="http", url=server.url, model="omni"), Notes())
        try:
            return await model.ask(listen(MATERIAL), 16)
        finally:
            await model.close()

    assert asyncio.run(run()).text == "NO SPEECH"
    assert server.asked[0].parts("image_url") == []
    assert len(server.asked[0].sound) == 44 + len(PCM)


RUBBISH = {
    "no JSON": Reply(b"hello"),
    "nothing": Reply(b""),
    "truncated JSON": Reply(said(UNSPOKEN).body[:-20]),
    "another type": Reply(said(UNSPOKEN).body, headers={"content-type": "text/html; charset=utf-8"}),
    "no type": Reply(said(UNSPOKEN).body, headers={}),
    "oversized": Reply(b" " * (captioner.MAX_REPLY + 1)),
    "no choices": Reply(b'{"choices": []}'),
    "a list": Reply(b"[1]"),
    "deep": Reply(b"[" * 100_000),
    "not UTF-8": Reply(b'{"choices": [{"message": {"content": "\xff"}}]}'),
    "half a pair": Reply(b'{"choices": [{"message": {"content": "\\ud800"}}]}'),
    "number as text": Reply(b'{"choices": [{"message": {"content": 7}}]}'),
    "tokens below zero": said(UNSPOKEN, usage=(-1, 5)),
    "tokens beyond counting": said(UNSPOKEN, usage=(10**30, 5)),
    "compressed badly": Reply(b"hello", headers={**JSON, "content-encoding": "gzip"}),
    "status 500": failing(500),
    "status 507": failing(507),
    "status 204": Reply(status=204),
    "closed connection": Reply(drop=True),
}


@pytest.mark.parametrize("reply", RUBBISH.values(), ids=RUBBISH.keys())
def test_rubbish_is_asked_again_and_then_given_up(server: LlmServer, reply: Reply) -> None:
    server.reply = in_turn(reply, reply)
    assert ask(server, retries=2) == [GOOD]
    assert len(server.asked) == 3
    server.reply = lambda _: reply
    with pytest.raises(CaptionFailed, match="given up after 3 failures") as failed:
        ask(server, retries=2)
    assert len(server.asked) == 6
    assert "\n" not in str(failed.value)


def test_an_answer_that_never_ends_is_too_long(server: LlmServer) -> None:
    release = threading.Event()

    def slow(_: Asked) -> Reply:
        release.wait(20)
        return said(UNSPOKEN)

    server.reply = slow
    try:
        with pytest.raises(CaptionFailed, match=r"no answer within 0\.05 s; given up after 2 failures"):
            ask(server, retries=1, timeout_s=0.05)
    finally:
        release.set()


def test_a_slow_answer_is_waited_for(server: LlmServer) -> None:
    server.reply = lambda asked: time.sleep(0.3) or good(asked)  # type: ignore[func-returns-value]
    assert ask(server) == [GOOD]
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured_by_all(server: LlmServer, status: int) -> None:
    together, order = threading.Barrier(8, timeout=20), itertools.count()

    def limited(asked: Asked) -> Reply:
        nth = next(order)
        if nth >= 8:
            return good(asked)
        together.wait()
        if nth % 2:
            time.sleep(0.1)  # the good answers come last: those requests were sent before, and open nothing
            return good(asked)
        return failing(status, retry_after="0.4")

    server.reply = limited
    assert ask(server, times=8, retries=0, concurrency=8) == [GOOD] * 8  # being busy uses up no retries
    assert len(server.asked) == 12
    assert server.asked[8].at - server.asked[7].at >= 0.4


def test_a_server_that_is_down_is_waited_for(server: LlmServer) -> None:
    server.stop()

    def up(text: str) -> None:
        if "waiting for it" in text:
            server.start()

    notes = Notes(up)
    assert ask(server, times=8, notes=notes, retries=0, concurrency=8) == [GOOD] * 8
    assert len(server.asked) == 8
    assert [note.partition(": ")[2].partition(":")[0] for note in notes.notes] == [
        "cannot be reached", "answers again"
    ]  # fmt: skip


def test_while_it_is_down_one_request_at_a_time_tries(server: LlmServer) -> None:
    together, order, alone = threading.Barrier(8, timeout=20), itertools.count(), []

    def ill(asked: Asked) -> Reply:
        nth = next(order)
        if nth < 8:
            together.wait()
        elif nth < 13:
            alone.append(server.at_once == 1)
        return failing(503) if nth < 12 else good(asked)

    server.reply = ill
    assert ask(server, times=8, concurrency=8, retries=0) == [GOOD] * 8
    assert len(server.asked) == 20
    assert alone == [True] * 5
    waits = [after.at - before.at for before, after in itertools.pairwise(server.asked[7:13])]
    assert all(wait >= 0.0025 * 2**n for n, wait in enumerate(waits))  # doubling, and at least half of each


def test_patience_ends(server: LlmServer) -> None:
    server.stop()
    with pytest.raises(OviError, match="the answers so far are kept: mend the server and run the same") as stopped:
        ask(server, patience_s=0.2, retries=0)
    assert not isinstance(stopped.value, CaptionFailed)
    server.start()
    server.reply = lambda _: failing(429, retry_after="86400")
    with pytest.raises(OviError, match="answers 429"):
        ask(server, patience_s=0.2)


def test_a_request_that_is_refused_is_not_made_again(server: LlmServer) -> None:
    server.reply = lambda _: failing(400, "This model's maximum context length\nis 10 tokens")
    with pytest.raises(CaptionFailed, match=r"answers 400 \(This model's maximum context length is 10 tokens\)"):
        ask(server)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_what_can_never_work_ends_the_stage(server: LlmServer, status: int) -> None:
    server.reply = lambda _: failing(status, "The model `omni` does not exist.")
    with pytest.raises(ConfigError, match=rf"curation\.captions: .*answers {status} \(The model"):
        ask(server)
    assert len(server.asked) == 1


def test_the_key_is_sent_and_never_shown(
    server: LlmServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OMNI_KEY", "sk-very-secret\n")
    caplog.set_level(logging.DEBUG)
    notes = Notes()
    server.reply = in_turn(*[failing(503, "busy, sk-very-secret")] * 4, failing(401, "Wrong key: sk-very-secret"))
    with pytest.raises(ConfigError, match=r"Wrong key: \*\*\*") as refused:
        ask(server, key_env="OMNI_KEY", notes=notes)
    assert server.asked[0].headers["authorization"] == "Bearer sk-very-secret"
    assert len(notes.notes) == 1
    for text in (str(refused.value), caplog.text, *notes.notes):
        assert "secret" not in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "localhost:8000"}, "url: must be like"),
        ({"url": "ftp://host/v1"}, "url: must be like"),
        ({"url": "http://host:99999/v1"}, "url: must be like"),
        ({"url": "http://[::1/v1"}, "url: must be like"),
        ({"url": "http://me:secret@host/v1"}, "url: has credentials"),
        ({"key_env": "NO_SUCH_KEY"}, "key_env: the environment has no NO_SUCH_KEY"),
        ({"key_env": "ODD_KEY"}, "key_env: what ODD_KEY holds cannot be a key"),
    ],
)
def test_settings_that_cannot_work(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], words: str) -> None:
    monkeypatch.setenv("ODD_KEY", "sk\x01secret")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match=words) as refused:
        HttpCaptioner(Captions(source="http", model="omni", **settings), Notes())
    assert "secret" not in str(refused.value)


def test_answers_without_text_or_counts(server: LlmServer) -> None:
    server.reply = in_turn(said(None, usage=None), said("A lamp", finish="length"))
    assert ask(server) == [Answer("", True, 0, 0)]
    assert ask(server) == [Answer("A lamp", False, 1000, 50)]


def test_waits_double_up_to_a_limit_and_are_seeded() -> None:
    waits, same, other = (Waits(1.0, random.Random(seed)) for seed in (3, 3, 4))
    drawn = [waits.of(n) for n in range(1, 12)]
    assert drawn == [same.of(n) for n in range(1, 12)]
    assert drawn != [other.of(n) for n in range(1, 12)]
    for n, wait in enumerate(drawn):
        assert min(60, 2**n) / 2 <= wait <= min(60, 2**n)
    assert waits.of(10_000) <= 60


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("nan", None), ("inf", None), ("soon", None), ("", None)],
)
def test_retry_after_in_seconds(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}) == seconds


def test_retry_after_as_a_date() -> None:
    later = retry_after({"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert later is not None
    assert 90 < later <= 100
    assert retry_after({"retry-after": formatdate(time.time() - 100, usegmt=True)}) == 0.0
    assert retry_after({}) is None

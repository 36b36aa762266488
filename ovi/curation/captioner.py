"""A captioning model behind an OpenAI-compatible HTTP API: chat completions, as vLLM and SGLang serve Qwen-Omni.

Pictures go as JPEG data URIs in `image_url`, the sound as a base64 WAV in `input_audio`. Three things can go wrong:
  the server is down, busy or slow: no request passes but one at a time, after growing waits or Retry-After, until it
    answers again; after `patience_s` without an answer the stage stops;
  an answer is none (500, broken JSON, ...): the request is made again, `retries` times at most, then the clip fails;
  the request is refused: the clip fails, or the stage if the key, the model or the address is wrong.
It does not know what the answers mean. The key comes from the environment and is cut out of everything that is read.
Try it: `vllm serve Qwen/Qwen2.5-Omni-7B --limit-mm-per-prompt '{"image": 7, "audio": 1}'`, and then
`ovi curate --set curation.captions.source=http --set curation.captions.model=Qwen/Qwen2.5-Omni-7B`.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import os
import random
import time
import wave
from collections.abc import Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

import cv2
import httpx
from pydantic import BaseModel, Field, ValidationError

from ovi.config import Captions
from ovi.curation.caption_dialogue import Answer, CaptionFailed
from ovi.curation.caption_prompts import Picture, Track, Turn
from ovi.errors import ConfigError, OviError, one_line
from ovi.progress import Progress

MAX_REPLY = 1 << 20  # bytes
LONGEST_WAIT_S = 60.0  # between tries; Retry-After may ask for more
JPEG_QUALITY = 90
BUSY, WRONG = (429, 502, 503, 504), (401, 403, 404, 405)  # statuses
DOWN = 3  # waits in a row after which it is worth a line


class HttpCaptioner:
    """A Backend. ConfigError when the settings cannot work: no address, a key that is not there."""

    def __init__(self, settings: Captions, progress: Progress, seed: int = 0, first_wait_s: float = 1.0) -> None:
        self.name, self.concurrency = settings.model, settings.concurrency
        self._settings = settings
        self._url = _address(settings.url)
        self._key = _key(settings.key_env)
        self._seed = seed
        self._waits = Waits(first_wait_s, random.Random(seed))
        self._gate = Gate(self._waits, settings.patience_s, settings.url, progress)
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(None, connect=min(10.0, settings.timeout_s)),
            limits=httpx.Limits(max_connections=settings.concurrency),
        )

    async def ask(self, turns: list[Turn], max_tokens: int) -> Answer:
        body = await asyncio.to_thread(self._body, turns, max_tokens)
        failures = 0
        while True:
            try:
                return await self._gate.passed(lambda: self._post(body))
            except Again as again:
                failures += again.counts
                if failures > self._settings.retries:
                    raise CaptionFailed(f"{again}; given up after {failures} failures") from None
                if not again.shuts:
                    await asyncio.sleep(self._waits.of(failures))

    async def close(self) -> None:
        await self._client.aclose()

    def _body(self, turns: list[Turn], max_tokens: int) -> bytes:
        request = {
            "model": self._settings.model,
            "messages": [{"role": turn.role, "content": [content(part) for part in turn.parts]} for turn in turns],
            "max_tokens": max_tokens,
            "temperature": 0,
            "seed": self._seed,
            "modalities": ["text"],  # servers that can also speak shall not
        }
        return json.dumps(request).encode()

    async def _post(self, body: bytes) -> Answer:
        headers = {"content-type": "application/json"}
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
                    data = bytearray()
                    async for block in response.aiter_bytes():
                        data += block
                        if len(data) > MAX_REPLY:
                            raise Again(f"its answer has more than {MAX_REPLY} bytes", counts=True)
        except TimeoutError:
            raise Again(f"no answer within {self._settings.timeout_s:g} s", counts=True, shuts=True) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Again(f"cannot be reached: {one_line(error)}", shuts=True) from None
        except (httpx.TransportError, httpx.DecodingError) as error:  # perhaps this very request brought it down
            raise Again(f"the connection broke: {one_line(error)}", counts=True, shuts=True) from None
        text = bytes(data).replace(self._key.encode(), b"***") if self._key else bytes(data)
        try:
            return read_reply(response.status_code, response.headers, text)
        except ConfigError as error:
            raise ConfigError(f"curation.captions: {self._settings.url}: {error}") from None


class Again(Exception):
    """No answer this time. `counts`: it may be the request's fault; `shuts`: the server is not well.

    `after_s`: how long it wants to be left alone, if it says so.
    """

    def __init__(self, why: str, *, counts: bool = False, shuts: bool = False, after_s: float | None = None) -> None:
        super().__init__(why)
        self.counts, self.shuts, self.after_s = counts, shuts, after_s


class Waits:
    """Waits in s that double from `first_s`, with jitter from a seeded generator: between half and all of each."""

    def __init__(self, first_s: float, drawn: random.Random) -> None:
        self._first_s, self._drawn = first_s, drawn

    def of(self, nth: int) -> float:
        """The nth wait in a row, from 1."""
        return min(LONGEST_WAIT_S, self._first_s * 2.0 ** min(nth - 1, 30)) * (0.5 + 0.5 * self._drawn.random())


class Gate:
    """Open while the server answers. Shut, it lets one request at a time try, each after a longer wait."""

    def __init__(self, waits: Waits, patience_s: float, url: str, progress: Progress) -> None:
        self._waits, self._patience_s, self._url, self._progress = waits, patience_s, url, progress
        self._missed = 0  # tries in a row that found the server unwell; requests of the same moment are one try
        self._next_try = 0.0
        self._well_at: float | None = None
        self._trying = asyncio.Lock()

    async def passed(self, send: Callable[[], Awaitable[Answer]]) -> Answer:
        """What `send` returns, once it may be called. Raises what it raises; OviError when patience is at its end."""
        if self._well_at is None:
            self._well_at = time.monotonic()
        while self._missed:
            async with self._trying:
                if self._missed:
                    await asyncio.sleep(self._next_try - time.monotonic())
                    return await self._tried(send)
        return await self._tried(send)

    async def _tried(self, send: Callable[[], Awaitable[Answer]]) -> Answer:
        missed = self._missed
        try:
            answer = await send()
        except Again as again:
            self._shut(missed + 1, again) if again.shuts else self._well(missed)
            raise
        except CaptionFailed:
            self._well(missed)
            raise
        self._well(missed)
        return answer

    def _shut(self, missed: int, again: Again) -> None:
        now = time.monotonic()
        assert self._well_at is not None
        left = self._well_at + self._patience_s - now
        if left < 0:
            raise OviError(
                f"{self._url}: {again}, for {now - self._well_at:.0f} s now; the answers so far are kept: "
                "mend the server and run the same command again"
            )
        wait = self._waits.of(missed) if again.after_s is None else again.after_s
        self._next_try = max(self._next_try, now + min(wait, left))
        if missed > self._missed:
            self._missed = missed
            if missed == DOWN:
                self._progress.note(f"captioner {self._url}: {again}; waiting for it")

    def _well(self, missed: int) -> None:
        """A request that was sent after `missed` tries was answered; one from before the last try opens nothing."""
        self._well_at = time.monotonic()
        if missed == self._missed:
            self._missed = 0
            if missed >= DOWN:
                self._progress.note(f"captioner {self._url}: answers again")


def content(part: str | Picture | Track) -> dict[str, Any]:
    """A part of a message as the API wants it."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Picture):
        _, jpeg = cv2.imencode(".jpg", part.pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_base64(jpeg.tobytes())}"}}
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, part.rate, 0, "NONE", ""))
        wav.writeframes(part.pcm)
    return {"type": "input_audio", "input_audio": {"data": _base64(file.getvalue()), "format": "wav"}}


def read_reply(status: int, headers: Mapping[str, str], data: bytes) -> Answer:
    """The answer in a response. Again when the next try may be better, CaptionFailed when it will not be for this
    request, ConfigError when it will not be for any."""
    if status in BUSY:
        raise Again(f"answers {status}{_said(data)}", shuts=True, after_s=retry_after(headers))
    if 300 <= status < 400 or status in WRONG:
        raise ConfigError(f"answers {status}{_said(data)}; check url, model and key_env")
    if 400 <= status < 500:
        raise CaptionFailed(f"answers {status}{_said(data)}")
    if status != 200:
        raise Again(f"answers {status}{_said(data)}", counts=True)
    kind = headers.get("content-type", "nothing").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Again(f"answers with {kind[:80]}, not with JSON", counts=True)
    try:
        reply = _Reply.model_validate_json(data)
    except ValidationError:
        raise Again("its answer is no chat completion", counts=True) from None
    choice = reply.choices[0]
    usage = reply.usage or _Usage()
    whole = choice.finish_reason != "length"
    return Answer(choice.message.content or "", whole, usage.prompt_tokens, usage.completion_tokens)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from now that a Retry-After header asks for, in either of its forms; None when it says nothing usable."""
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


_Tokens = Annotated[int, Field(ge=0, lt=1 << 40)]


class _Usage(BaseModel):
    prompt_tokens: _Tokens = 0
    completion_tokens: _Tokens = 0


class _Reply(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


def _said(data: bytes) -> str:
    """The message in an error's body, shortened to fit into a line."""
    try:
        body = json.loads(data)
        error = body.get("error", body)
        words = error if isinstance(error, str) else error["message"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return f" ({' '.join(str(words).split())[:200]})"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        named = parts.hostname and parts.port != 0  # asking for a port that is none raises
        good = named and parts.scheme in ("http", "https") and not parts.query and not parts.fragment
    except ValueError:
        good = False
    if not good:
        raise ConfigError("curation.captions.url: must be like http://host:8000/v1")
    if "@" in parts.netloc:
        raise ConfigError("curation.captions.url: has credentials in it; put a key into the variable key_env names")
    return f"{url.rstrip('/')}/chat/completions"


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"curation.captions.key_env: the environment has no {variable}; put the key there")
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"curation.captions.key_env: what {variable} holds cannot be a key")
    return key

"""The study over HTTP: one page, what it asks for, and the export.

A rater's invitation is the part of the link after #, which no browser sends by itself; the page sends it as a bearer
token. So there is no cookie, a rater sees their own sitting only, and the same link goes on with it on any device.
Every request may be repeated without effect. Only clips of the trial a rater is at can be fetched, by its tokens.
Try it: `ovi study serve --pairs DIR`.
"""

from __future__ import annotations

import hmac
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi import Path as InPath
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp

from services.generation import problems
from services.generation.problems import BodyLimit, Problem
from services.study import headphones
from services.study.store import Sitting, StudyStore, TooEarly

PAGES = {
    "": ("page.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src blob:; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin",
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """What the routes work on."""

    store: StudyStore
    clips: Path  # the folder `pairs.prepare` wrote
    secret: str | None  # opens the export; None: nothing does


class ToneAnswer(BaseModel):
    """Which of the three tones was the quietest."""

    model_config = ConfigDict(extra="forbid")
    attempt: int = Field(ge=1, le=headphones.ATTEMPTS)
    round: int = Field(ge=1, le=headphones.ROUNDS)
    answer: int = Field(ge=0, le=2)


class Heard(BaseModel):
    """With whose sound both clips were played to the end."""

    model_config = ConfigDict(extra="forbid")
    side: Literal["left", "right"]


class Vote(BaseModel):
    model_config = ConfigDict(extra="forbid")
    answer: Literal["left", "tie", "right"]


def create_app(study: Study) -> ASGIApp:
    """The app over one study."""
    app = FastAPI(title="Ovi study", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.study = study
    app.include_router(router)
    problems.install(app)
    app.add_exception_handler(TooEarly, lambda _, error: Problem(409, "too_early", str(error)).answer())

    @app.middleware("http")
    async def headers(request: Request, call_next: Any) -> Response:
        answer: Response = await call_next(request)
        answer.headers.update(HEADERS)
        return answer

    return BodyLimit(app)


def _study(request: Request) -> Study:
    found: Study = request.app.state.study
    return found


Here = Annotated[Study, Depends(_study)]
Bearer = Annotated[str, Header(max_length=256)]


def _rater(study: Here, authorization: Bearer = "") -> int:
    rater = study.store.rater(_token(authorization))
    if rater is None:
        raise Problem(401, "unknown_invitation", "this link is not an invitation; open the one you were sent, whole")
    return rater


def _token(authorization: str) -> str:
    kind, _, token = authorization.partition(" ")
    return token if kind.lower() == "bearer" else ""


router = APIRouter()
Rater = Annotated[int, Depends(_rater)]
Number = Annotated[int, InPath(ge=1, le=10_000)]


@router.get("/api/sitting")
def where(study: Here, rater: Rater) -> JSONResponse:
    """Where the rater is: at the tones, at a trial, at the end."""
    return _answer(study.store.sitting(rater))


@router.get("/api/tones")
def tones(study: Here, rater: Rater) -> Response:
    """The sound of the round the rater is at."""
    found = study.store.tones(rater)
    if found is None:
        raise Problem(404, "not_found", "there are no tones to hear now")
    return Response(headphones.wav(found), media_type="audio/wav")


@router.post("/api/tones")
def answer_tones(study: Here, rater: Rater, body: ToneAnswer) -> JSONResponse:
    return _answer(study.store.answer_tones(rater, body.attempt, body.round, body.answer))


@router.get("/api/clips/{token}")
def clip(study: Here, rater: Rater, token: str) -> Response:
    """One clip of the trial the rater is at, whole; no date, name or tag comes with it."""
    name = study.store.clip(rater, token)
    if name is None:
        raise Problem(404, "not_found", "this clip is not on your page now")
    return Response((study.clips / name).read_bytes(), media_type="video/mp4")


@router.put("/api/trials/{number}/heard")
def heard(study: Here, rater: Rater, number: Number, body: Heard) -> JSONResponse:
    return _answer(study.store.heard(rater, number, body.side))


@router.put("/api/trials/{number}/votes/{question}")
def vote(
    study: Here, rater: Rater, number: Number, question: Literal["audio", "video", "sync"], body: Vote
) -> JSONResponse:
    return _answer(study.store.vote(rater, number, question, body.answer))


@router.post("/api/trials/{number}/close")
def close(study: Here, rater: Rater, number: Number) -> JSONResponse:
    return _answer(study.store.finish(rater, number))


@router.get("/api/export")
def export(study: Here, authorization: Bearer = "") -> JSONResponse:
    """The whole study for whoever knows the secret; it names models, so never a rater."""
    if study.secret is None:
        raise Problem(403, "export_off", "the export is off: the server was started without its secret")
    if not hmac.compare_digest(_token(authorization).encode(), study.secret.encode()):
        raise Problem(401, "wrong_secret", "send the study's secret as Authorization: Bearer SECRET")
    return JSONResponse(study.store.export())


@router.get("/favicon.ico")
def favicon() -> Response:
    return Response(status_code=204)


@router.get("/")
@router.get("/page.js")
@router.get("/page.css")
def page(request: Request) -> Response:
    name, kind = PAGES[request.url.path.rpartition("/")[2]]
    return Response(Path(__file__).with_name(name).read_bytes(), media_type=kind)


def _answer(sitting: Sitting) -> JSONResponse:
    return JSONResponse(asdict(sitting))

"""The study over HTTP: what each may see, what no answer may tell, and that nothing breaks it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from services.study.app import Study, create_app
from services.study.store import StudyStore
from tests.services.study.conftest import SECRET
from tests.services.study.made import MODELS, begin, judge


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_sitting_over_http(client: TestClient, store: StudyStore) -> None:
    (key,) = store.invite(1)
    rater = store.rater(key)
    assert rater is not None
    for number in range(1, 7):
        assert client.get("/api/tones", headers=bearer(key)).headers["content-type"] == "audio/wav"
        quiet = store.tones(rater)[0]  # type: ignore[index]
        body = {"attempt": 1, "round": number, "answer": quiet}
        at = client.post("/api/tones", headers=bearer(key), json=body).json()
    while at["stage"] == "trials":
        base = f"/api/trials/{at['trial']['number']}"
        for token in at["trial"]["tokens"]:
            clip = client.get(f"/api/clips/{token}", headers=bearer(key))
            assert (clip.status_code, clip.headers["content-type"]) == (200, "video/mp4")
        assert client.put(f"{base}/votes/audio", headers=bearer(key), json={"answer": "tie"}).status_code == 409
        for side in ("left", "right"):
            client.put(f"{base}/heard", headers=bearer(key), json={"side": side})
        for question in ("audio", "video", "sync"):
            client.put(f"{base}/votes/{question}", headers=bearer(key), json={"answer": "right"})
        at = client.post(f"{base}/close", headers=bearer(key)).json()
    assert at["stage"] == "done"
    trials = client.get("/api/export", headers=bearer(SECRET)).json()["trials"]
    assert [trial["votes"] for trial in trials] == [{"audio": "right", "video": "right", "sync": "right"}] * 9


def test_no_answer_tells_a_model(client: TestClient, store: StudyStore) -> None:
    """Neither names nor the names of files, nor anything that is the same for a model from one page to the next."""
    keys = store.invite(2)
    words = [*MODELS, "good", "bad", "check", "repeat", "item", "late", "silent", "coarse"]
    tokens: list[str] = []
    for key in keys:
        rater = begin(store, key)
        for number in range(1, 10):
            answer = client.get("/api/sitting", headers=bearer(key))
            clips = [
                client.get(f"/api/clips/{token}", headers=bearer(key)) for token in answer.json()["trial"]["tokens"]
            ]
            seen = answer.text + "".join(str(clip.headers) for clip in [answer, *clips])
            assert not [word for word in words if word in seen.lower()]
            assert not {"etag", "last-modified", "content-disposition"} & set(clips[0].headers)
            assert set(answer.json()["trial"]) == {"number", "tokens", "seconds", "heard", "votes"}
            tokens += answer.json()["trial"]["tokens"]
            judge(store, rater, number)
    assert len(set(tokens)) == len(tokens) == 2 * 9 * 2
    assert all(len(token) >= 20 for token in tokens)


def test_a_rater_sees_their_own_sitting_only(client: TestClient, store: StudyStore) -> None:
    mine, other = store.invite(2)
    raters = begin(store, mine), begin(store, other)
    judge(store, raters[1], 1, "right")
    theirs = client.get("/api/sitting", headers=bearer(other)).json()["trial"]["tokens"]
    assert client.get(f"/api/clips/{theirs[0]}", headers=bearer(mine)).status_code == 404
    assert client.get("/api/sitting", headers=bearer(mine)).json()["trial"]["number"] == 1
    for headers in ({}, bearer(""), bearer("x" * 200), {"Authorization": other}, bearer(f"{other}x")):
        assert client.get(f"/api/clips/{theirs[0]}", headers=headers).status_code == 401
    past = client.get("/api/sitting", headers=bearer(mine)).json()["trial"]["tokens"]
    judge(store, raters[0], 1)
    assert client.get(f"/api/clips/{past[0]}", headers=bearer(mine)).status_code == 404
    assert client.get("/api/sitting?rater=2", headers=bearer(mine)).json()["trial"]["number"] == 2


def test_the_export_needs_its_secret(client: TestClient, store: StudyStore, tmp_path: Path) -> None:
    (key,) = store.invite(1)
    for headers in ({}, bearer(""), bearer(key), bearer(SECRET[:-1]), bearer(SECRET + "x"), bearer("é")):
        encoded = {name: value.encode() for name, value in headers.items()}
        answer = client.get("/api/export", headers=encoded)
        assert answer.status_code == 401
        assert "zebra" not in answer.text
    export = client.get("/api/export", headers=bearer(SECRET))
    assert export.status_code == 200
    assert not re.search(r"key_hash|token|[0-9a-f]{64}", export.text)
    with TestClient(create_app(Study(store, tmp_path, None))) as closed:
        for headers in ({}, bearer(""), bearer("None")):
            assert closed.get("/api/export", headers=headers).status_code == 403


def test_the_page_fetches_nothing_from_elsewhere(client: TestClient) -> None:
    for path in ("/", "/page.js", "/page.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert not re.search(r"https?://|//[a-z]|<script>|<style|style=|\son\w+=|eval\(|innerHTML", answer.text)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/api/trials/1/votes/audio", {"answer": "both"}, 422),
        ("PUT", "/api/trials/1/votes/smell", {"answer": "left"}, 422),
        ("PUT", "/api/trials/1/votes/audio", {"answer": "left", "rater": 2}, 422),
        ("PUT", "/api/trials/0/heard", {"side": "left"}, 422),
        ("PUT", "/api/trials/99999999999999999999/heard", {"side": "left"}, 422),
        ("PUT", "/api/trials/2/heard", {"side": "left"}, 409),
        ("PUT", "/api/trials/1/heard", {"side": "up"}, 422),
        ("POST", "/api/trials/1/close", None, 409),
        ("POST", "/api/tones", {"attempt": 1, "round": 1, "answer": 3}, 422),
        ("POST", "/api/tones", {"attempt": 1, "round": 1, "answer": 1}, 200),
        ("GET", "/api/tones", None, 404),
        ("GET", "/api/clips/..%2F..%2Fstudy.db", None, 404),
        ("GET", "/api/clips/00wombat.mp4", None, 404),
        ("GET", "/study.db", None, 404),
        ("GET", "/docs", None, 404),
        ("GET", "/openapi.json", None, 404),
        ("DELETE", "/api/sitting", None, 405),
    ],
)
def test_what_is_refused(client: TestClient, store: StudyStore, method: str, path: str, body: Any, status: int) -> None:
    (key,) = store.invite(1)
    begin(store, key)
    answer = client.request(method, path, headers=bearer(key), json=body)
    assert answer.status_code == status, answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["content-security-policy"]
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"

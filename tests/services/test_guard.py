"""Who gets in: with keys, without, and as somebody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from ovi.errors import OviError
from services.generation.api import create_app
from services.generation.backend import Backend
from services.generation.guard import Guard
from services.generation.keys import Keys, add
from services.generation.problems import BodyLimit
from tests.services.test_api import GOOD, finish, problem

ROUTES = [
    ("GET", "/v1/videos"), ("POST", "/v1/videos"), ("POST", "/v1/videos:validate"), ("POST", "/v1/videos/sync"),
    ("GET", "/v1/videos/JOB"), ("GET", "/v1/videos/JOB/events"), ("GET", "/v1/videos/JOB/content"),
    ("POST", "/v1/videos/JOB/cancel"), ("DELETE", "/v1/videos/JOB"), ("GET", "/v1/models"), ("GET", "/v1/capacity"),
    ("GET", "/metrics"), ("GET", "/nowhere"),
]  # fmt: skip


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "keys.json"
    made = {name: add(file, name, per_minute=5, concurrency=2) for name in ("ann", "bob")}
    assert all(key not in file.read_text() for key in made.values())
    return made


@pytest.fixture
def guarded(backend: Backend, keys: dict[str, str], tmp_path: Path) -> TestClient:
    backend.keys = Keys.read(tmp_path / "keys.json")
    backend.served = backend.served.model_copy(update={"queue": 99})
    app = Guard(BodyLimit(create_app(backend)), backend.keys)
    return TestClient(app, base_url="http://service.example", raise_server_exceptions=False)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nobody_gets_in_without_a_key(guarded: TestClient, keys: dict[str, str], method: str, path: str) -> None:
    job = guarded.post("/v1/videos", json=GOOD, headers=bearer(keys["ann"])).json()["id"]
    wrong = ["", "Bearer", "Bearer ", "Bearer wrong", f"Basic {keys['ann']}", keys["ann"], f"Bearer {keys['ann']}x"]
    wrong += [f"Bearer {keys['ann'][:-1]}", "Bearer " + "0" * 64, f"Bearer {keys['ann']} {keys['bob']}"]
    for authorization in wrong:
        answer = guarded.request(method, path.replace("JOB", job), headers={"Authorization": authorization})
        problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "JOB" in route[1]])
def test_anothers_job_is_as_if_there_were_none(
    guarded: TestClient, backend: Backend, keys: dict[str, str], method: str, path: str
) -> None:
    job = guarded.post("/v1/videos", json=GOOD, headers=bearer(keys["ann"])).json()["id"]
    finish(backend, b"clip")
    theirs = guarded.request(method, path.replace("JOB", job), headers=bearer(keys["bob"]))
    nobodys = guarded.request(method, path.replace("JOB", "video_" + "0" * 32), headers=bearer(keys["bob"]))
    assert problem(theirs, 404) == problem(nobodys, 404)
    assert guarded.get("/v1/videos", headers=bearer(keys["bob"])).json()["data"] == []
    problem(guarded.get("/v1/videos", params={"after": job}, headers=bearer(keys["bob"])), 422, "after")
    assert guarded.get(f"/v1/videos/{job}/content", headers=bearer(keys["ann"])).content == b"clip"


def test_a_key_has_a_pace_and_a_number_of_jobs(guarded: TestClient, backend: Backend, keys: dict[str, str]) -> None:
    for _ in range(2):
        assert guarded.post("/v1/videos", json=GOOD, headers=bearer(keys["ann"])).status_code == 202
    full = guarded.post("/v1/videos", json=GOOD, headers=bearer(keys["ann"]))
    assert problem(full, 429)["error"]["code"] == "too_many_jobs"
    for _ in range(2):
        guarded.post("/v1/videos", json=GOOD, headers=bearer(keys["ann"]))
    often = guarded.post("/v1/videos", json=GOOD, headers=bearer(keys["ann"]))
    assert problem(often, 429)["error"]["code"] == "rate_limited"
    assert 1 <= int(often.headers["retry-after"]) <= 60
    assert guarded.get("/v1/videos", headers=bearer(keys["ann"])).status_code == 200
    assert guarded.post("/v1/videos", json=GOOD, headers=bearer(keys["bob"])).status_code == 202
    page = guarded.get("/metrics", headers=bearer(keys["bob"])).text
    assert 'ovi_rejected_total{reason="rate_limited"} 1.0' in page
    assert 'ovi_rejected_total{reason="too_many_jobs"} 3.0' in page


def test_the_page_and_the_health_checks_need_no_key(guarded: TestClient) -> None:
    assert guarded.get("/").status_code == 200
    assert guarded.get("/livez").status_code == 200
    assert guarded.get("/openapi.json").status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:8000"])
def test_pages_of_other_origins_are_refused(client: TestClient, origin: str) -> None:
    problem(client.post("/v1/videos", json=GOOD, headers={"Origin": origin}), 403)
    assert client.post("/v1/videos", json=GOOD, headers={"Origin": "http://127.0.0.1"}).status_code == 202


@pytest.mark.parametrize("host", ["service.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]"])
def test_without_keys_only_loopback_is_served(client: TestClient, host: str) -> None:
    problem(client.get("/v1/videos", headers={"Host": host}), 403)


def test_without_keys_a_connection_from_elsewhere_is_refused(backend: Backend) -> None:
    app = Guard(BodyLimit(create_app(backend)), None)
    elsewhere = TestClient(app, base_url="http://10.0.0.1", raise_server_exceptions=False)
    problem(elsewhere.get("/v1/videos", headers={"Host": "localhost"}), 403)


def test_every_answer_has_a_request_id(client: TestClient, capfd: pytest.CaptureFixture[str]) -> None:
    assert client.get("/nowhere", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert len(client.get("/v1/videos", headers={"X-Request-ID": "a b\x7f"}).headers["x-request-id"]) == 16
    client.post("/v1/videos", json={}, headers={"X-Request-ID": "mine-2"})
    assert '"request": "mine-2", "caller": "local"' in capfd.readouterr().err


def test_a_key_file_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    add(file, "ann", 1, 1)
    with pytest.raises(OviError, match="has a key for ann already"):
        add(file, "ann", 1, 1)
    with pytest.raises(OviError, match="no keys"):
        add(file, "local", 1, 1)
    with pytest.raises(OviError, match="a name has letters"):
        add(file, "../ann", 1, 1)
    file.write_text('{"keys": [{"name": "ann", "key": "plain"}]}')
    with pytest.raises(OviError, match="not a file of API keys"):
        Keys.read(file)

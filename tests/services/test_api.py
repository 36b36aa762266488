"""The HTTP interface over a real job store: what it accepts, what it refuses and how, and that it never breaks."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from services.generation.backend import Backend

GOOD = {"prompt": "A red lamp blinks. <AUDCAP>Beeps.<ENDAUDCAP>", "seed": 7}


def problem(answer: Response, status: int, field: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "error"} <= set(body)
    assert body["status"] == status
    assert body["error"]["message"] == body["detail"]
    if field is not None:
        assert body["errors"][0]["field"] == field, body
        assert body["error"]["param"] == field
    for secret in ("Traceback", "/tmp", "site-packages", ".py"):
        assert secret not in answer.text
    return body


def finish(backend: Backend, content: bytes) -> str:
    """A completed job whose clip is `content`; the job may still be on its way."""
    deadline = time.monotonic() + 60
    while (lease := backend.jobs.claim("tester")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    Path(backend.results.address(lease.id)).write_bytes(content)
    backend.jobs.complete(lease, "ab" * 32, len(content), {"denoise": 1.5})
    return lease.id


def test_a_job_is_acknowledged_with_everything_that_will_run(client: TestClient, backend: Backend) -> None:
    answer = client.post("/v1/videos", json=GOOD | {"guidance": {"audio": 2.5}, "seconds": "5", "size": "32x32"})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/videos/{job['id']}"
    assert (job["object"], job["status"], job["progress"], job["queue_position"]) == ("video", "queued", 0, 1)
    assert (job["seed"], job["steps"], job["size"], job["seconds"]) == (7, 4, "32x32", "5")
    effective = job["effective"]
    assert effective["guidance"] == {"video": 4.0, "audio": 2.5}
    assert (effective["shift"], effective["solver"], effective["frames"]) == (3.0, "unipc", 121)
    assert client.get(answer.headers["location"]).json() == job
    assert backend.jobs.get(job["id"]).effective == effective  # type: ignore[union-attr]


def test_a_missing_seed_is_drawn_and_told(client: TestClient) -> None:
    seeds = {client.post("/v1/videos", json={"prompt": "x"}).json()["seed"] for _ in range(3)}
    assert len(seeds) == 3


BAD: list[tuple[Any, str]] = [
    ({}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": " \n\t"}, "prompt"),
    ({"prompt": "<AUDCAP>Beeps.<ENDAUDCAP> <S>Hello."}, "prompt"),
    ({"prompt": "Hello<E>"}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ["a"]}, "prompt"),
    ({"prompt": "a" * 4001}, "prompt"),
    (GOOD | {"sede": 1}, "sede"),
    (GOOD | {"output_path": "/etc/passwd"}, "output_path"),
    (GOOD | {"image": "file:///etc/passwd"}, "image"),
    (GOOD | {"seed": -1}, "seed"),
    (GOOD | {"seed": "7"}, "seed"),
    (GOOD | {"seed": 1.5}, "seed"),
    (GOOD | {"seed": True}, "seed"),
    (GOOD | {"seed": 2**63}, "seed"),
    (GOOD | {"seed": 10**400}, "seed"),
    (GOOD | {"steps": 0}, "steps"),
    (GOOD | {"steps": 201}, "steps"),
    (GOOD | {"steps": "many"}, "steps"),
    (GOOD | {"shift": 0}, "shift"),
    (GOOD | {"shift": -3.0}, "shift"),
    (GOOD | {"solver": "magic"}, "solver"),
    (GOOD | {"guidance": 4.0}, "guidance"),
    (GOOD | {"guidance": {"video": -1}}, "guidance.video"),
    (GOOD | {"guidance": {"video": 1e9}}, "guidance.video"),
    (GOOD | {"guidance": {"picture": 1}}, "guidance.picture"),
    (GOOD | {"negative_prompt": "ugly"}, "negative_prompt"),
    (GOOD | {"negative_prompt": {"audio": 1}}, "negative_prompt.audio"),
    (GOOD | {"negative_prompt": {"audio": "a" * 4001}}, "negative_prompt.audio"),
    (GOOD | {"seconds": 8}, "seconds"),
    (GOOD | {"seconds": 0}, "seconds"),
    (GOOD | {"seconds": "five"}, "seconds"),
    (GOOD | {"size": "5000x100"}, "size"),
    (GOOD | {"size": "0x0"}, "size"),
    (GOOD | {"size": "999999x2"}, "size"),
    (GOOD | {"size": "http://169.254.169.254/"}, "size"),
    (GOOD | {"stride": 0}, "stride"),
    (GOOD | {"guidance_until": 1.5}, "guidance_until"),
    (GOOD | {"priority": "now"}, "priority"),
    (GOOD | {"webhook_url": "http://10.0.0.1/"}, "webhook_url"),
    (GOOD | {"input_reference": "http://127.0.0.1/x.png"}, "input_reference"),
    (GOOD | {"size": "32"}, "size"),
    (GOOD | {"size": "../x"}, "size"),
    (GOOD | {"size": 32}, "size"),
    (GOOD | {"model": "sora-2"}, "model"),
    (GOOD | {"model": 1}, "model"),
    ([], "body"),
    ("prompt", "body"),
]


@pytest.mark.parametrize(("body", "field"), BAD, ids=[str(body)[:40] for body, _ in BAD])
def test_a_bad_field_is_named(client: TestClient, backend: Backend, body: Any, field: str) -> None:
    problem(client.post("/v1/videos", json=body), 422, field)
    assert backend.jobs.newest(9) == []


def test_every_bad_field_is_named_at_once(client: TestClient) -> None:
    body = problem(client.post("/v1/videos", json={"prompt": "", "seed": -1, "x": 1}), 422)
    assert {item["field"] for item in body["errors"]} == {"prompt", "seed", "x"}


JSON = "application/json"
BROKEN = {
    "cut": (b"{", JSON, 400),
    "empty": (b"", JSON, 400),
    "null": (b"null", JSON, 422),
    "nan": (b'{"prompt": "a", "seed": NaN}', JSON, 422),
    "infinity": (b'{"prompt": "a", "shift": Infinity}', JSON, 422),
    "surrogate": (b'{"prompt": "\\ud800"}', JSON, 400),
    "surrogate key": (b'{"prompt": "a", "\\ud800": 1}', JSON, 400),
    "not utf-8": (b'{"prompt": "\xff\xfe"}', JSON, 400),
    "deep": (b"[" * 100_000, JSON, 400),
    "text": (b'{"prompt": "a"}', "text/plain", 415),
    "form": (b'{"prompt": "a"}', "application/x-www-form-urlencoded", 415),
    "no multipart": (b"--x\r\n", "multipart/form-data; boundary=x", 422),
    "no boundary": (b"--x\r\n", "multipart/form-data", 400),
    "big": (b'{"prompt": "' + b"a" * (1 << 20) + b'"}', JSON, 413),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_body_is_refused(client: TestClient, name: str) -> None:
    raw, kind, status = BROKEN[name]
    problem(client.post("/v1/videos", content=raw, headers={"content-type": kind}), status)


def test_a_big_body_without_a_length_is_refused(client: TestClient) -> None:
    chunks = (b"a" * 65536 for _ in range(40))
    problem(client.post("/v1/videos", content=chunks, headers={"content-type": "application/json"}), 413)


@pytest.mark.parametrize("path", ["/v1/videos/video_x", "/v1/videos/video_" + "0" * 32, "/v1/videos/%2e%2e%2fjobs.db"])
def test_unknown_jobs_are_404_everywhere(client: TestClient, path: str) -> None:
    problem(client.get(path), 404)
    problem(client.get(f"{path}/content"), 404)
    problem(client.post(f"{path}/cancel"), 404)
    problem(client.delete(path), 404)


def test_unknown_routes_and_methods_are_problems_too(client: TestClient) -> None:
    problem(client.get("/v2/videos"), 404)
    assert problem(client.put("/v1/videos"), 405)["title"] == "Method Not Allowed"
    assert "POST" in client.put("/v1/videos").headers["allow"] or "GET" in client.put("/v1/videos").headers["allow"]


def test_a_full_queue_is_429_with_whole_seconds(client: TestClient) -> None:
    for _ in range(3):
        assert client.post("/v1/videos", json=GOOD).status_code == 202
    answer = client.post("/v1/videos", json=GOOD)
    assert problem(answer, 429)["error"]["code"] == "queue_full"
    assert int(answer.headers["retry-after"]) >= 1
    assert client.get("/v1/videos").status_code == 200
    assert 'ovi_rejected_total{reason="queue_full"} 1.0' in client.get("/metrics").text


def test_an_idempotency_key_is_one_job_or_a_conflict(client: TestClient, backend: Backend) -> None:
    key = {"Idempotency-Key": "order-17"}
    first = client.post("/v1/videos", json={"prompt": "x"}, headers=key)
    again = client.post("/v1/videos", json={"prompt": "x"}, headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()  # the drawn seed too
    assert len(backend.jobs.newest(9)) == 1
    problem(client.post("/v1/videos", json={"prompt": "y"}, headers=key), 409, "Idempotency-Key")
    problem(client.post("/v1/videos", json=GOOD, headers={"Idempotency-Key": "k" * 256}), 422, "Idempotency-Key")


def test_cancel_and_delete(client: TestClient, backend: Backend) -> None:
    job = client.post("/v1/videos", json=GOOD).json()["id"]
    for _ in range(2):
        assert client.post(f"/v1/videos/{job}/cancel").json()["status"] == "cancelled"
    problem(client.get(f"/v1/videos/{job}/content"), 410)
    assert client.delete(f"/v1/videos/{job}").json() == {"id": job, "object": "video.deleted", "deleted": True}
    problem(client.delete(f"/v1/videos/{job}"), 404)

    client.post("/v1/videos", json=GOOD)
    done = finish(backend, b"clip")
    problem(client.post(f"/v1/videos/{done}/cancel"), 409)
    client.delete(f"/v1/videos/{done}")
    assert not Path(backend.results.address(done)).exists()


def test_content_comes_whole_or_in_parts(client: TestClient, backend: Backend) -> None:
    job = client.post("/v1/videos", json=GOOD).json()["id"]
    problem(client.get(f"/v1/videos/{job}/content"), 409)
    assert finish(backend, bytes(range(256)) * 40) == job
    whole = client.get(f"/v1/videos/{job}/content")
    assert whole.status_code == 200
    assert whole.content == bytes(range(256)) * 40
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["etag"] == '"' + "ab" * 32 + '-video"'
    part = client.get(f"/v1/videos/{job}/content", headers={"Range": "bytes=100-199"})
    assert part.status_code == 206
    assert part.content == whole.content[100:200]
    assert part.headers["content-range"] == "bytes 100-199/10240"
    tail = client.get(f"/v1/videos/{job}/content", headers={"Range": "bytes=-5"})
    assert tail.content == whole.content[-5:]
    assert client.get(f"/v1/videos/{job}/content", headers={"Range": "bytes=99999-"}).status_code == 416
    done = client.get(f"/v1/videos/{job}").json()
    assert (done["status"], done["progress"], done["sha256"], done["bytes"]) == ("completed", 100, "ab" * 32, 10240)
    assert done["timings"] == {"denoise": 1.5}


def test_a_failed_job_says_why(client: TestClient, backend: Backend) -> None:
    job = client.post("/v1/videos", json=GOOD).json()["id"]
    lease = backend.jobs.claim("tester")
    assert lease is not None
    backend.jobs.fail(lease, "internal_error", "it broke", True)
    failed = client.get(f"/v1/videos/{job}").json()
    assert (failed["status"], failed["error"]) == (
        "failed", {"code": "internal_error", "message": "it broke", "retryable": True},
    )  # fmt: skip
    problem(client.get(f"/v1/videos/{job}/content"), 410)


def test_the_list_has_pages(client: TestClient) -> None:
    made = [client.post("/v1/videos", json=GOOD).json()["id"] for _ in range(3)]
    page = client.get("/v1/videos", params={"limit": 2}).json()
    assert [job["id"] for job in page["data"]] == made[:0:-1]
    assert page["has_more"] is True
    rest = client.get("/v1/videos", params={"limit": 2, "after": page["last_id"]}).json()
    assert [job["id"] for job in rest["data"]] == made[:1]
    assert rest["has_more"] is False
    problem(client.get("/v1/videos", params={"limit": 0}), 422, "limit")
    problem(client.get("/v1/videos", params={"limit": "x"}), 422, "limit")
    problem(client.get("/v1/videos", params={"after": "nobody"}), 422, "after")


def test_models_capacity_metrics_and_the_page(client: TestClient) -> None:
    client.post("/v1/videos", json=GOOD)
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["size"], model["seconds"], model["frames"]) == ("ovi:0123456789abcdef", "32x32", 5, 121)
    assert client.get("/v1/capacity").json() == {
        "queue": {"waiting": 1, "running": 0, "bound": 3, "by_priority": {"batch": 0, "interactive": 1}},
        "workers": [{"name": "worker-0", "state": "starting", "restarts": 0, "memory": {}}],
        "seconds_a_step": None,
        "draining": False,
    }
    metrics = client.get("/metrics").text
    assert 'ovi_queue_depth{priority="interactive"} 1.0' in metrics
    assert 'ovi_jobs{status="queued"} 1.0' in metrics
    assert "ovi_workers_up 0.0" in metrics
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "//" not in page.text.replace("<!--", "").replace("  // ", "")  # nothing from elsewhere


def test_the_schema_names_every_route(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/v1/videos", "/v1/videos:validate", "/v1/videos/sync", "/v1/videos/{video_id}",
        "/v1/videos/{video_id}/events", "/v1/videos/{video_id}/content", "/v1/videos/{video_id}/cancel",
        "/v1/models", "/v1/capacity",
    }  # fmt: skip
    assert json.dumps(schema).count("prompt") > 0


def test_our_own_defect_is_a_problem_without_a_traceback(client: TestClient, backend: Backend, tmp_path: Path) -> None:
    backend.jobs.close()
    (tmp_path / "state" / "jobs.db").write_bytes(b"not a database" * 100)
    assert problem(client.get("/v1/videos"), 500)["error"]["code"] == "internal_error"

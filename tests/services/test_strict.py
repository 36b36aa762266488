"""A service with rules, a certificate and a collector of spans: what is refused, what is signed, what is told."""

from __future__ import annotations

import datetime
import hashlib
import http.server
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ovi.config import Settings
from ovi.errors import ConfigError
from ovi.media import encode
from services.generation import policy, signing
from services.generation.places import CERTIFICATE, CERTIFICATE_KEY, POLICY
from services.generation.tracing import NOBODY, traceparent
from tests.services.models import lay_bundle
from tests.services.test_api import problem
from tests.services.test_server import WORK, Running, wait

c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed; see the serve extra")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(http.server.ThreadingHTTPServer):
    """Takes spans over OTLP as any collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Any] = []
        self.headers: dict[str, str] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for of_scope in of_resource.scope_spans:
                self.server.spans += of_scope.spans
        self.server.headers = {name.lower(): value for name, value in self.headers.items()}
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.shutdown()
    collector.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return written(tmp_path_factory.mktemp("certificate"), ec.generate_private_key(ec.SECP256R1()))


def written(folder: Path, key: Any) -> tuple[Path, Path]:
    """A chain of a root and a signer, and the signer's key, as PEM files."""
    root, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)

    def build(subject: str, public: Any, serial: int) -> x509.CertificateBuilder:
        organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests")
        names = [x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (subject, "root")]
        made = x509.CertificateBuilder(names[1], names[0], public, serial)
        made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=9))
        return made.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)

    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign")
    usage = dict.fromkeys((*unused, "encipher_only", "decipher_only"), False)
    signer = build("signer", key.public_key(), 2)
    signer = signer.add_extension(x509.BasicConstraints(False, None), True)
    signer = signer.add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=False, **usage), True)
    signer = signer.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())
    signer = signer.add_extension(issuer, False)
    above = build("root", root.public_key(), 1).add_extension(x509.BasicConstraints(True, None), True)
    above = above.add_extension(x509.KeyUsage(digital_signature=False, key_cert_sign=True, **usage), True)
    chain = [one.sign(root, hashes.SHA256()).public_bytes(Encoding.PEM) for one in (signer, above)]
    (folder / "chain.pem").write_bytes(b"".join(chain))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "chain.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, settings: Settings, model: Path, collector: Collector,
    certificate: tuple[Path, Path],
) -> Iterator[Running]:  # fmt: skip
    folder = tmp_path_factory.mktemp("strict")
    bundle = lay_bundle(folder / "bundle", model, settings)
    served = json.loads((bundle / "service.json").read_text())
    (bundle / "service.json").write_text(json.dumps(served | {"origin": {"mlflow_run": "abc123"}}))
    how = {
        POLICY: "tests.services.rules:Rules", CERTIFICATE: str(certificate[0]), CERTIFICATE_KEY: str(certificate[1]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS": "x-mlflow-experiment-id=7",
    }  # fmt: skip
    running = Running(bundle, folder / "state", **how)
    running.start()
    yield running
    running.end()


def statement(data: bytes, media_type: str) -> dict[str, Any]:
    """What a C2PA reader finds in a file. Valid: every hash and signature holds; the test's root is nobody's."""
    found = json.loads(c2pa.Reader(media_type, io.BytesIO(data)).json())
    assert found["validation_state"] == "Valid"
    assert [one["code"] for one in found["validation_status"]] == ["signingCredential.untrusted"]
    active: dict[str, Any] = found["manifests"][found["active_manifest"]]
    return active


def test_every_file_is_signed_and_says_what_made_it(server: Running) -> None:
    first, second = (server.finish(server.submit(WORK)) for _ in range(2))
    assert first["status"] == "completed", first
    assert first["ran"]["unsigned_sha256"] == second["ran"]["unsigned_sha256"]  # equal requests, equal clips
    for variant, media_type in (("video", "video/mp4"), ("audio", "audio/mp4"), ("thumbnail", "image/png")):
        data = server.client.get(f"/v1/videos/{first['id']}/content", params={"variant": variant}).content
        told = {one["label"]: one["data"] for one in statement(data, media_type)["assertions"]}
        assert told["c2pa.actions.v2"]["actions"][0]["digitalSourceType"] == signing.GENERATED
        assert told[signing.ASSERTION]["digest"] == first["ran"]["digest"]
        assert told[signing.ASSERTION]["mlflow_run"] == "abc123"
        if variant == "video":
            assert hashlib.sha256(data).hexdigest() == first["sha256"] != first["ran"]["unsigned_sha256"]
            flipped = bytearray(data)
            flipped[len(data) // 2] ^= 1
            tampered = json.loads(c2pa.Reader(media_type, io.BytesIO(flipped)).json())
            assert tampered["validation_state"] == "Invalid"
    manifest = server.client.get(f"/v1/videos/{first['id']}/content", params={"variant": "manifest"}).json()
    assert manifest["signed"] is True
    assert "sign" in first["timings"]


def test_rules_hold_before_and_after(server: Running) -> None:
    for path in ("/v1/videos", "/v1/videos:validate", "/v1/videos/sync"):
        told = problem(server.client.post(path, json=WORK | {"prompt": "forbidden"}), 422, "prompt")
        assert (told["error"]["code"], told["detail"]) == ("policy_refused", "says what may not be said")
    assert 'ovi_rejected_total{reason="policy_refused"} 3.0' in server.client.get("/metrics").text
    for prompt, code in (("withheld", "withheld"), ("broken rule", "internal_error")):
        job = server.finish(server.submit(WORK | {"prompt": prompt}))
        assert (job["status"], job["error"]["code"], job["sha256"]) == ("failed", code, None)
        for variant in ("video", "stream", "manifest"):
            problem(server.client.get(f"/v1/videos/{job['id']}/content", params={"variant": variant}), 410)
        left = [path for folder in ("results", "making") for path in (server.state / folder).iterdir()]
        assert [path for path in left if job["id"] in path.name] == []


def test_a_job_is_told_in_its_callers_trace(server: Running, collector: Collector) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    job = server.finish(server.client.post("/v1/videos", json=WORK, headers=headers).json()["id"])
    assert job["trace_id"] == TRACE

    def mine() -> list[Any]:
        return [span for span in collector.spans if span.trace_id.hex() == TRACE]

    wait(lambda: {span.name for span in mine()} >= {"video", "mux"}, "the spans are there")
    (whole,) = (span for span in mine() if span.name == "video")
    assert whole.parent_span_id.hex() == PARENT
    stages = [span for span in mine() if span is not whole]
    assert {span.name for span in stages} == {"queue", "text", "denoise", "decode", "mux", "sign"}
    assert {span.parent_span_id for span in stages} == {whole.span_id}
    for span in stages:
        took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        assert abs(took - job["timings"][span.name]) < 0.01
        assert whole.start_time_unix_nano <= span.start_time_unix_nano <= whole.end_time_unix_nano
    about = {one.key: one.value.string_value for one in whole.attributes}
    assert (about["ovi.job"], about["ovi.status"], about["ovi.mlflow_run"]) == (job["id"], "completed", "abc123")
    assert collector.headers["x-mlflow-run-id"] == "abc123"
    assert collector.headers["x-mlflow-experiment-id"] == "7"


def test_a_job_of_nobodys_trace_begins_its_own(server: Running, collector: Collector) -> None:
    job = server.finish(server.submit(WORK))

    def mine() -> list[Any]:
        return [span for span in collector.spans if span.trace_id.hex() == job["trace_id"]]

    wait(lambda: "video" in {span.name for span in mine()}, "the spans are there")
    assert [span.name for span in mine() if not span.parent_span_id] == ["video"]


@pytest.mark.parametrize("given", [None, "", "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01\n"])
def test_a_wrong_trace_becomes_a_new_one(given: str | None) -> None:
    made = traceparent(given)
    assert made != traceparent(given)
    assert made.split("-")[2] == NOBODY


@pytest.mark.parametrize("make", [lambda: rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate])
def test_other_keys_sign_too(tmp_path: Path, make: Any) -> None:
    signer = signing.load(*written(tmp_path, make()))
    assert signer is not None
    encode.write_png(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    signer.sign(tmp_path / "a.png", "image/png", {"model": "ovi:1"})
    assert statement((tmp_path / "a.png").read_bytes(), "image/png")["title"] == "a.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "chain.pem", "key.pem"]


def test_what_cannot_sign_is_one_line(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    assert signing.load(None, None) is None
    with pytest.raises(ConfigError, match="no use without the other"):
        signing.load(certificate[0], None)
    (tmp_path / "wrong.pem").write_text("-----BEGIN NOTHING-----")
    for pair in ((certificate[0], tmp_path / "wrong.pem"), (tmp_path / "wrong.pem", certificate[1])):
        with pytest.raises(ConfigError, match=r"service\.certificate: .* cannot sign") as found:
            signing.load(*pair)
        assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tests.services.nowhere:Rules", "cannot be loaded"),
        ("tests.services.rules:Nobody", "cannot be loaded"),
        ("tests.services.rules", "cannot be loaded"),
        (":Rules", "cannot be loaded"),
        ("tests.services.rules:Half", "has no method clip"),
    ],
)
def test_rules_that_are_none_are_one_line(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"service\.policy: {name}: .*{words}"):
        policy.load(name)
    assert policy.load(None) is None

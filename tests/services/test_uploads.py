"""Forms with pictures: what becomes of one, and everything that is none."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ovi.diffusion.request import read_image
from services.generation.backend import Backend
from services.generation.pictures import MAX_KEPT, MAX_PIXELS, first_frame
from services.generation.schemas import MAX_TEXT
from tests.services.test_api import GOOD, problem

Files = list[tuple[str, tuple[str, bytes, str]]]


def picture(kind: str = "PNG", size: tuple[int, int] = (48, 32), **how: object) -> bytes:
    pixels = np.linspace(0, 255, size[0] * size[1] * 3).astype(np.uint8).reshape(size[1], size[0], 3)
    kept = io.BytesIO()
    Image.fromarray(pixels).save(kept, kind, **how)
    return kept.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it has this size; its content is one black row."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(3 * width + 1))), (b"IEND", b"")]
    parts = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def post(client: TestClient, upload: bytes, name: str = "image", **fields: str):  # type: ignore[no-untyped-def]
    files: Files = [(name, ("../../etc/passwd\x00.png", upload, "image/png"))]
    return client.post("/v1/videos", data={"prompt": "A lamp."} | fields, files=files)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("name", ["image", "input_reference"])
def test_a_form_with_a_picture_is_a_job_with_a_first_frame(
    client: TestClient, backend: Backend, kind: str, name: str
) -> None:
    fields = {"seed": "7", "steps": "5", "seconds": "5", "guidance.audio": "2.5", "size": "64x16"}
    job = post(client, picture(kind), name, **fields).json()
    assert (job["effective"]["image"], job["seed"], job["steps"], job["size"]) == (True, 7, 5, "64x16")
    assert job["effective"]["guidance"] == {"video": 4.0, "audio": 2.5}
    kept = backend.jobs.attachment(job["id"], "image")
    assert kept is not None
    assert np.asarray(Image.open(io.BytesIO(kept))).shape == (32, 48, 3)


def test_a_form_without_a_picture_is_the_same_as_json(client: TestClient) -> None:
    form = client.post("/v1/videos", data={"prompt": "A lamp.", "seed": "7"}, files={}, headers=None)
    assert form.status_code == 415  # a plain form is not a multipart one
    boundary = b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nA lamp.\r\n--x--\r\n'
    answer = client.post("/v1/videos", content=boundary, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.json()["effective"]["image"] is False


def test_the_kept_picture_is_upright_small_and_bare() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    exif[0x010E] = "secret place"
    kept, shape = first_frame(picture("JPEG", (48, 32), exif=exif) + b"PK\x03\x04 and a second file behind it")
    assert shape == (48, 32)
    assert b"secret" not in kept
    assert b"second file" not in kept
    assert read_image(np.asarray(Image.open(io.BytesIO(kept)))).shape == (48, 32, 3)
    _, (height, width) = first_frame(picture("PNG", (4000, 1500)))
    assert height * width <= 1.01 * MAX_KEPT
    assert abs(width / height - 4000 / 1500) < 0.01


BAD = {
    "empty": b"",
    "text": b"file:///etc/passwd",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://169.254.169.254/"/></svg>',
    "gif": picture("GIF"),
    "bmp": picture("BMP"),
    "tiff": picture("TIFF"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run",
    "mp4": b"\x00\x00\x00\x18ftypmp42",
    "cut png": picture()[:60],
    "cut jpeg": picture("JPEG")[:200],
    "only magic": b"\x89PNG\r\n\x1a\n",
    "riff that is a wave": b"RIFF\x24\x00\x00\x00WAVEfmt ",
    "jpeg magic, png body": b"\xff\xd8\xff" + picture(),
    "bomb": png_of(60_000, 60_000),
    "flat bomb": png_of(MAX_PIXELS + 1, 1),
    "no size": png_of(0, 10),
    "text bomb": picture()[:33] + (lambda d: struct.pack(">I", len(d)) + b"zTXt" + d + bytes(4))(
        b"a\0\0" + zlib.compress(bytes(80 << 20))
    ) + picture()[33:],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused(client: TestClient, backend: Backend, name: str) -> None:
    body = problem(post(client, BAD[name]), 422, "image")
    assert body["error"]["code"] == "invalid_image"
    assert backend.jobs.newest(9) == []


def test_bad_forms_name_the_field(client: TestClient, backend: Backend) -> None:
    problem(post(client, picture(), "mask"), 422, "mask")
    problem(post(client, picture(), seed="x"), 422, "seed")
    problem(post(client, picture(), sede="1"), 422, "sede")
    problem(post(client, picture(), **{"guidance.picture": "1"}), 422, "guidance.picture")
    problem(post(client, picture(), guidance="4"), 422, "guidance")
    problem(post(client, picture(), prompt="x" * (MAX_TEXT + 1)), 422, "prompt")
    problem(post(client, picture(), image_url="http://[fe80::1]/"), 422, "image_url")
    problem(client.post("/v1/videos", data={"prompt": "x", "image": "file:///etc/passwd"}, files={"a": b""}), 422)
    twice: Files = [("image", ("a", picture(), "image/png")), ("image", ("b", picture(), "image/png"))]
    problem(client.post("/v1/videos", data={"prompt": "x"}, files=twice), 400)
    problem(client.post("/v1/videos", data={"prompt": ["x", "y"]}, files=twice[:1]), 422, "prompt")
    many = {f"field{index}": "x" for index in range(60)}
    problem(post(client, picture(), **many), 400)
    assert backend.jobs.newest(9) == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"--x",
        b"--x\r\n\r\n",
        b"--x\r\ncontent-disposition: form-data\r\n\r\nv\r\n--x--\r\n",
        b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\n\xff\xfe\r\n',
        b'--x\r\ncontent-disposition: form-data; name="\xff"\r\n\r\nv\r\n--x--\r\n',
        b'--x\r\ncontent-disposition: form-data; name="prompt"; filename="p"\r\n\r\nv\r\n--x--\r\n',
        b"--y\r\n" * 1000,
        b"\x00" * 4096,
    ],
)
def test_broken_forms_are_refused(client: TestClient, backend: Backend, raw: bytes) -> None:
    answer = client.post("/v1/videos", content=raw, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code in (400, 422)
    problem(answer, answer.status_code)
    assert backend.jobs.newest(9) == []


def test_too_much_is_413(client: TestClient) -> None:
    problem(post(client, picture() + bytes(11 << 20)), 413, "image")
    problem(post(client, bytes(13 << 20)), 413)


def test_a_key_covers_the_picture_too(client: TestClient) -> None:
    def ask(upload: bytes):  # type: ignore[no-untyped-def]
        files: Files = [("image", ("a", upload, "image/png"))]
        return client.post("/v1/videos", data=GOOD, files=files, headers={"Idempotency-Key": "k"})

    assert ask(picture()).json()["id"] == ask(picture()).json()["id"]
    problem(ask(picture(size=(16, 16))), 409)


def test_validate_tells_without_running(client: TestClient, backend: Backend) -> None:
    told = client.post("/v1/videos:validate", json=GOOD | {"size": "1280x720", "steps": 8}).json()
    assert (told["effective"]["size"], told["effective"]["steps"]) == ("48x32", 8)
    assert told["tokens"] == {"prompt": len(GOOD["prompt"]) + 1, "max": 128, "truncated": False}  # type: ignore[arg-type]
    assert told["estimate"] == {"seconds": None, "wait_s": None, "memory_bytes": 10**9}
    assert client.post("/v1/videos:validate", json={"prompt": "é" * 64}).json()["tokens"]["truncated"] is True
    problem(client.post("/v1/videos:validate", json={"prompt": ""}), 422, "prompt")
    assert backend.jobs.newest(9) == []

"""Storage: whole writes, ranged reads, one-line errors, and the same calls against a real S3 server on loopback."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from ovi import s3, storage
from ovi.errors import OviError

LARGE = hashlib.shake_256(b"large").digest(20_000_001)  # more than one part of an upload


def test_local_and_s3_answer_alike(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    for place in (str(tmp_path / "here"), bucket):
        storage.write_bytes(f"{place}/a/b.bin", b"0123456789")
        storage.write_json(f"{place}/a/c.json", {"z": 1, "a": 2})
        assert storage.read_bytes(f"{place}/a/b.bin") == b"0123456789"
        assert storage.read_bytes(f"{place}/a/b.bin", offset=3, length=4) == b"3456"
        assert storage.read_bytes(f"{place}/a/b.bin", offset=8) == b"89"
        assert storage.read_json(f"{place}/a/c.json") == {"a": 2, "z": 1}
        assert storage.sha256(f"{place}/a/b.bin") == hashlib.sha256(b"0123456789").hexdigest()
        assert storage.list_files(f"{place}/a") == [f"{place}/a/b.bin", f"{place}/a/c.json"]
        assert storage.size(f"{place}/a/b.bin") == 10
        assert storage.read_bytes(f"{place}/a/b.bin", offset=3, length=0) == b""
        storage.upload(tmp_path / "large", f"{place}/a/large")
        storage.download(f"{place}/a/large", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == LARGE
        with storage.open_read(f"{place}/a/large") as file:
            assert file.read(3) == LARGE[:3]
            assert file.seek(-5, io.SEEK_END) == len(LARGE) - 5
            assert file.read() == LARGE[-5:]
            assert file.seek(7_000_000) == 7_000_000
            assert file.read(2_000_000) == LARGE[7_000_000:9_000_000]
            assert file.read(1) == LARGE[9_000_000:9_000_001]
        storage.delete(f"{place}/a/large")
        storage.delete(f"{place}/a/large")
        assert storage.exists(f"{place}/a/b.bin")
        assert not storage.exists(f"{place}/a/none")
        for ask in (storage.read_bytes, storage.size, storage.open_read, storage.sha256):
            with pytest.raises(OviError, match="a/none: no such file"):
                ask(f"{place}/a/none")
        with pytest.raises(OviError, match="a/none: no such file"):
            storage.download(f"{place}/a/none", tmp_path / "none")
        assert not (tmp_path / "none").exists()


def test_a_presigned_link_needs_no_key(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/clip.mp4", b"0123456789")
    link = storage.presigned(f"{bucket}/clip.mp4", 60, filename="my clip.mp4", content_type="video/mp4")
    answer = httpx.get(link, headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, b"234")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''my%20clip.mp4"
    assert answer.headers["content-type"] == "video/mp4"


def test_an_object_that_changes_while_it_is_read_is_an_error(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/film", bytes(4 << 20))
    with storage.open_read(f"{bucket}/film") as file:
        file.read(10)
        storage.write_bytes(f"{bucket}/film", b"1" * (4 << 20))
        file.seek(3 << 20)
        with pytest.raises(OviError, match="changed while it was read"):
            file.read(10)


def test_a_missing_bucket_is_named(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    other = f"{bucket}-other"
    for ask in (
        lambda: storage.list_files(other),
        lambda: storage.write_bytes(f"{other}/file", b""),
        lambda: storage.upload(tmp_path / "file", f"{other}/file"),
    ):
        with pytest.raises(OviError, match="no such bucket"):
            ask()


class Moody(BaseHTTPRequestHandler):
    """A store that answers as `moods` say, one a request, and then well."""

    moods: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        mood = self.moods.pop(0) if self.moods else "well"
        if mood.isdigit():
            self.send_response(int(mood))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"0123456789"[: 4 if mood == "cut" else 10])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def moody(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("time.sleep", lambda _: None)
    s3._client.cache_clear()
    Moody.moods = []
    yield Moody.moods
    server.shutdown()
    server.server_close()
    thread.join()
    s3._client.cache_clear()


@pytest.mark.parametrize("moods", [["500", "503"], ["cut", "cut"], ["503", "cut", "500"]])
def test_what_passes_is_asked_for_again(moody: list[str], moods: list[str]) -> None:
    moody += moods
    assert storage.read_bytes("s3://clips/file") == b"0123456789"
    assert not moody


@pytest.mark.parametrize(("mood", "words"), [
    ("cut", "cannot be reached"), ("503", "the store answers 503"), ("403", "AWS_SECRET_ACCESS_KEY"),
])  # fmt: skip
def test_what_does_not_pass_is_one_line(moody: list[str], mood: str, words: str) -> None:
    moody += [mood] * 40
    with pytest.raises(OviError, match=words) as caught:
        storage.read_bytes("s3://clips/file")
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fail() -> None:
        with storage.atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_atomic_folder_replaces_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("1")
    with storage.atomic_folder(target) as temporary:
        (temporary / "new").write_text("2")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".folder.abc123").mkdir()
    (tmp_path / ".folder.abc123" / "half").write_text("1")
    with storage.atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "whole").write_text("2")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_disk_full_is_one_clear_line(tmp_path: Path) -> None:
    """A real write past a real limit: the kernel refuses it with EFBIG."""
    code = (
        "import resource, signal, sys\n"
        "from ovi import storage\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "storage.write_bytes(sys.argv[1], bytes(100_000))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "big")], capture_output=True, text=True)
    assert done.returncode != 0
    assert "no space left to write it" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_equal_folders_have_equal_digests(tmp_path: Path) -> None:
    for name in ("one", "two"):
        storage.write_bytes(tmp_path / name / "x" / "y", b"1")
        storage.write_bytes(tmp_path / name / "z", b"2")
    assert storage.sha256_folder(tmp_path / "one") == storage.sha256_folder(tmp_path / "two")
    storage.write_bytes(tmp_path / "two" / "z", b"3")
    assert storage.sha256_folder(tmp_path / "one") != storage.sha256_folder(tmp_path / "two")

"""Storage: whole writes, ranged reads, one-line errors, and the same calls against a real S3 server on loopback."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovi import storage
from ovi.errors import OviError


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "key")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    storage._s3.cache_clear()
    storage._s3().create_bucket(Bucket="clips")
    yield "s3://clips"
    server.stop()
    patch.undo()
    storage._s3.cache_clear()


def test_local_and_s3_answer_alike(tmp_path: Path, bucket: str) -> None:
    for place in (str(tmp_path), bucket):
        storage.write_bytes(f"{place}/a/b.bin", b"0123456789")
        storage.write_json(f"{place}/a/c.json", {"z": 1, "a": 2})
        assert storage.read_bytes(f"{place}/a/b.bin") == b"0123456789"
        assert storage.read_bytes(f"{place}/a/b.bin", offset=3, length=4) == b"3456"
        assert storage.read_bytes(f"{place}/a/b.bin", offset=8) == b"89"
        assert storage.read_json(f"{place}/a/c.json") == {"a": 2, "z": 1}
        assert storage.sha256(f"{place}/a/b.bin") == hashlib.sha256(b"0123456789").hexdigest()
        assert storage.list_files(f"{place}/a") == [f"{place}/a/b.bin", f"{place}/a/c.json"]
        assert storage.exists(f"{place}/a/b.bin")
        assert not storage.exists(f"{place}/a/none")
        with pytest.raises(OviError, match="none"):
            storage.read_bytes(f"{place}/a/none")


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

"""Files by address: a local path or s3://bucket/key, the same calls for both.

Writes are whole or not at all: local ones go to a temporary name, are synced and renamed; S3 puts are atomic by nature.
It does not know what the bytes mean, nor how a store is spoken to (ovi.s3).
Try it: `python -c "from ovi import storage; print(storage.sha256('README.md'))"`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ovi import s3
from ovi.errors import OviError

CHUNK = 1 << 20
Seekable = s3.Seekable  # for rooms that hold what they read of an object


def is_remote(address: str | Path) -> bool:
    return str(address).startswith("s3://")


def read_bytes(address: str | Path, offset: int = 0, length: int | None = None) -> bytes:
    """`length` bytes from `offset` (all of the rest when None). A missing object is one clear line."""
    if is_remote(address):
        return s3.get(str(address), offset, length)
    try:
        with open(address, "rb") as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)
    except FileNotFoundError:
        raise OviError(f"{address}: no such file") from None


def read_json(address: str | Path) -> Any:
    try:
        return json.loads(read_bytes(address))
    except ValueError as error:
        raise OviError(f"{address}: not valid JSON ({error}); the file is damaged, make it again") from None


def write_bytes(address: str | Path, data: bytes) -> None:
    """Write the whole of `data` or nothing."""
    if is_remote(address):
        s3.put(str(address), data)
        return
    with atomic_path(address) as temporary:
        temporary.write_bytes(data)


def write_json(address: str | Path, value: Any) -> None:
    """Stable JSON: sorted keys, two spaces, a newline at the end, so that equal values give equal bytes."""
    write_bytes(address, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path, synced and renamed to `path` when the block ends well, removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` (old content removed) when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*"):  # of a run that was killed; a folder has one writer at a time
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        if path.exists():  # moved away first: a writer that is killed here leaves no half of the old folder
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_read(address: str | Path) -> BinaryIO:
    """A seekable file to read; of an object only the bytes that are read are fetched."""
    if is_remote(address):
        return s3.open_read(str(address))
    try:
        return open(address, "rb")
    except FileNotFoundError:
        raise OviError(f"{address}: no such file") from None


def upload(path: str | Path, address: str | Path) -> None:
    """Copy a local file to an address, whole or not at all."""
    if is_remote(address):
        s3.upload(Path(path), str(address))
        return
    with open_read(path) as source, atomic_path(address) as temporary, open(temporary, "wb") as copy:
        shutil.copyfileobj(source, copy, CHUNK)


def download(address: str | Path, path: str | Path) -> None:
    """Copy the file at an address to a local path, whole or not at all."""
    if is_remote(address):
        with atomic_path(path) as temporary:
            s3.download(str(address), temporary)
        return
    upload(address, path)


def delete(address: str | Path) -> None:
    """It is no error if there is no such file."""
    if is_remote(address):
        s3.delete(str(address))
    else:
        Path(address).unlink(missing_ok=True)


def size(address: str | Path) -> int:
    """Bytes of the file."""
    if is_remote(address):
        return s3.size(str(address))
    try:
        return Path(address).stat().st_size
    except FileNotFoundError:
        raise OviError(f"{address}: no such file") from None


def exists(address: str | Path) -> bool:
    return s3.exists(str(address)) if is_remote(address) else Path(address).exists()


def presigned(address: str, seconds: int, filename: str | None = None, content_type: str | None = None) -> str:
    """A URL by which anyone may read the object at s3://... for so long."""
    return s3.presigned(address, seconds, filename, content_type)


def list_files(address: str | Path) -> list[str]:
    """Addresses of all files below a folder or prefix, sorted."""
    return [name for name, *_ in listing(address)]


def listing(address: str | Path) -> list[tuple[str, int, str]]:
    """(address, bytes, version) of all files below a folder or prefix, sorted; a file that changes gets another."""
    if is_remote(address):
        return s3.listing(str(address))
    paths = sorted((str(path), path.stat()) for path in Path(address).rglob("*") if path.is_file())
    return [(path, stat.st_size, str(stat.st_mtime_ns)) for path, stat in paths]


def sha256(address: str | Path) -> str:
    """Hex sha256 of a file's content."""
    digest = hashlib.sha256()
    with open_read(address) as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sha256_folder(path: str | Path) -> str:
    """One hex sha256 over the relative names and contents of all files below `path`, in sorted order."""
    digest = hashlib.sha256()
    for file in list_files(path):
        digest.update(f"{Path(file).relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def _explained(error: OSError, path: Path) -> OSError | OviError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OviError(f"{path}: no space left to write it; free some disk and run the same command again")
    return error

"""Where a folder of clips is: on this machine, where it is replaced whole, or in a bucket, which renames nothing.

In a bucket the manifest is what makes clips of files: of a new result it is written last, and for one that replaces
shards the old one goes first. A run that is killed in between leaves files without a manifest, which no reader takes
for clips and the same command replaces. It knows names of files, not what is in them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ovi import storage
from ovi.errors import OviError

MANIFEST, SHARDS, REFUSED = "manifest.parquet", "shards", "refused"
OURS = re.compile(
    r"(manifest\.parquet|summary\.json|report\.html|refused/\w+\.json|shards/\w+-\d{5}\.(tar|index\.json))"
)
AT_ONCE = 16  # requests to a store


def address(text: str | Path) -> str:
    """The one way to write it, without a slash at its end. OviError for one that names no bucket."""
    if not storage.is_remote(text):
        return str(Path(text))
    if not (inside := str(text).removeprefix("s3://").strip("/")):
        raise OviError(f"{text}: no bucket in it; write s3://bucket/prefix")
    return f"s3://{inside}"


def check(out: str) -> None:
    """OviError where clips would replace something else."""
    if storage.is_remote(out):
        names = [name.removeprefix(f"{out}/") for name in storage.list_files(out)]
        other = MANIFEST not in names and not all(map(OURS.fullmatch, names))
    else:
        folder = Path(out)
        other = folder.exists() and not (folder / MANIFEST).exists() and (not folder.is_dir() or any(folder.iterdir()))
    if other:
        raise OviError(f"{out}: holds something else than clips and would be replaced; choose another folder")


@contextlib.contextmanager
def written(out: str, keep: Collection[str]) -> Iterator[str]:
    """The address of a folder that is `out` when the block ends well; the manifest must be written into it last.

    keep: which of SHARDS and REFUSED it has from the present `out`.
    """
    if not storage.is_remote(out):
        with storage.atomic_folder(out) as folder:
            for name in keep:
                if (Path(out) / name).is_dir():
                    shutil.copytree(Path(out) / name, folder / name, copy_function=_link)
            yield str(folder)
        return
    if SHARDS not in keep:
        storage.delete(f"{out}/{MANIFEST}")
        remove(name for name in storage.list_files(out) if _replaced(name.removeprefix(f"{out}/"), keep))
    yield out


def here(address: str, folder: str) -> str:
    """The files at an address where they stay while `out` is written: in a bucket's case fetched into `folder`."""
    if not storage.is_remote(address):
        return address
    for name in storage.list_files(address):
        storage.download(name, f"{folder}/{name.removeprefix(f'{address}/')}")
    return folder


def remove(addresses: Iterable[str]) -> None:
    """Delete objects, several at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(storage.delete, addresses))


def _replaced(name: str, keep: Collection[str]) -> bool:
    return bool(OURS.fullmatch(name)) and name.partition("/")[0] not in keep


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)

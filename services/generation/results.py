"""Finished clips in a folder or an S3 bucket: for each job the video and what belongs to it, named by the job alone.

A file appears whole or not at all. Clips are made in a folder of the server's own and then published together; one that
is being written can be followed there. It does not know jobs, only their ids.
Try it: `pytest tests/services/test_results.py`.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from ovi import storage

VARIANTS = {
    "video": (".mp4", "video/mp4"),
    "audio": (".m4a", "audio/mp4"),
    "thumbnail": (".png", "image/png"),
    "manifest": (".json", "application/json"),
}
LIVE = ".live.mp4"
_ID = re.compile(r"video_[0-9a-f]{32}")


class ResultStore:
    """Clips at `address`, a folder or s3://bucket/prefix; `workshop` is a folder of this server and its workers."""

    def __init__(self, address: str, workshop: Path) -> None:
        self.remote = storage.is_remote(address)
        self._address, self._workshop = address.rstrip("/"), workshop
        workshop.mkdir(parents=True, exist_ok=True)
        if not self.remote:
            Path(address).mkdir(parents=True, exist_ok=True)

    def address(self, identity: str, variant: str = "video") -> str:
        """Where a published file of a job is. ValueError for anything that is not a job id."""
        return f"{self._address}/{_known(identity)}{VARIANTS[variant][0]}"

    def made(self, identity: str, attempt: int, variant: str = "video") -> Path:
        """Where a worker writes it. Each attempt has its own: one that was given up may still be at work."""
        return self._workshop / f"{_known(identity)}.{attempt}{VARIANTS[variant][0]}"

    def live(self, identity: str, attempt: int) -> Path:
        """The clip while it is written, as a fragmented MP4."""
        return self._workshop / f"{_known(identity)}.{attempt}{LIVE}"

    def publish(self, identity: str, attempt: int) -> None:
        """All that was made of a job to where everybody finds it."""
        for variant in VARIANTS:
            made, address = self.made(identity, attempt, variant), self.address(identity, variant)
            try:
                if self.remote:
                    storage.upload(made, address)
                else:
                    os.replace(made, address)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                storage.upload(made, address)  # the folder is on another disk

    def clear(self, identity: str, attempt: int) -> None:
        """What is left of making it."""
        self.live(identity, attempt).unlink(missing_ok=True)
        for variant in VARIANTS:
            self.made(identity, attempt, variant).unlink(missing_ok=True)

    def delete(self, identity: str) -> None:
        """All of a job's files, also those that a killed process was about to write."""
        for variant in VARIANTS:
            storage.delete(self.address(identity, variant))
        half = list(self._workshop.glob(f"{identity}.*"))
        if not self.remote:
            half += Path(self._address).glob(f".{identity}.*")
        for path in half:
            path.unlink(missing_ok=True)

    def sweep(self, completed: set[str]) -> int:
        """Removes what killed processes left in a folder: files whose job did not complete. Returns how many.

        Only for a folder that nobody writes to and nobody shares: call it before the first worker starts.
        """
        if self.remote:
            return 0
        kept = {Path(self.address(identity, variant)) for identity in completed for variant in VARIANTS}
        stale = [path for path in sorted(Path(self._address).iterdir()) if path.is_file() and path not in kept]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def tidy_workshop(self) -> None:
        """Before the first worker starts: what the last ones left."""
        for path in sorted(self._workshop.iterdir()):
            path.unlink(missing_ok=True)


def _known(identity: str) -> str:
    if not _ID.fullmatch(identity):
        raise ValueError(f"not a job id: {identity!r}")
    return identity

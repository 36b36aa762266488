"""Finished clips in a folder: for each job the video and what belongs to it, named by the job and by nothing else.

A file appears whole or not at all: its writer goes through a temporary name. It does not know jobs, only their ids.
Try it: `pytest tests/services/test_results.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

VARIANTS = {
    "video": (".mp4", "video/mp4"),
    "audio": (".m4a", "audio/mp4"),
    "thumbnail": (".png", "image/png"),
    "manifest": (".json", "application/json"),
}
_ID = re.compile(r"video_[0-9a-f]{32}")


class ResultStore:
    """Clips under `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, identity: str, variant: str = "video") -> Path:
        """Where a job's file is or will be. ValueError for anything that is not a job id."""
        if not _ID.fullmatch(identity):
            raise ValueError(f"not a job id: {identity!r}")
        return self._folder / f"{identity}{VARIANTS[variant][0]}"

    def delete(self, identity: str) -> None:
        for variant in VARIANTS:
            self.path(identity, variant).unlink(missing_ok=True)

    def sweep(self, completed: set[str]) -> int:
        """Removes what a killed process left: temporary files, and those whose job did not complete. Returns how many.

        Only for a folder nobody writes to: call it before the first worker starts.
        """
        kept = {self.path(identity, variant) for identity in completed for variant in VARIANTS}
        stale = [path for path in sorted(self._folder.iterdir()) if path.is_file() and path not in kept]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

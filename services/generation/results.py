"""Finished clips in a folder, one mp4 a job, named by the job and by nothing a caller wrote.

A clip appears whole or not at all: its writer goes through a temporary name. It does not know jobs, only their ids.
Try it: `pytest tests/services/test_results.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

_ID = re.compile(r"video_[0-9a-f]{32}")


class ResultStore:
    """Clips under `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, identity: str) -> Path:
        """Where the clip of a job is or will be. ValueError for anything that is not a job id."""
        if not _ID.fullmatch(identity):
            raise ValueError(f"not a job id: {identity!r}")
        return self._folder / f"{identity}.mp4"

    def delete(self, identity: str) -> None:
        self.path(identity).unlink(missing_ok=True)

    def sweep(self, completed: set[str]) -> int:
        """Removes what a killed process left: temporary files, and clips whose job did not complete. Returns how many.

        Only for a folder nobody writes to: call it before the first worker starts.
        """
        kept = {self.path(identity) for identity in completed}
        stale = [path for path in sorted(self._folder.iterdir()) if path.is_file() and path not in kept]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

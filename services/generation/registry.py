"""The model that a name in MLflow's registry stands for, as models:/ovi@champion: looked up, fetched, pointed at.

When the name moves, the link moves, and the workers change over after the job in hand; move the name back and so do
they. A registry or store that does not answer changes nothing. It knows nothing of workers.
Try it: `pytest tests/services/test_bundle.py`.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from ovi.config import Tracking
from ovi.errors import OviError, one_line
from services.generation.bundle import fetch
from services.generation.log import log
from services.generation.schemas import Served

LOOK_S = 10.0


class Registry:
    """Keeps `link` on the bundle of the model that `uri` stands for; bundles lie below `folder`."""

    def __init__(self, uri: str, tracking: Tracking, like: Served, folder: Path) -> None:
        self._uri, self._tracking, self._like, self._folder = uri, tracking, like, folder
        self.link = folder / "current"
        folder.mkdir(parents=True, exist_ok=True)

    def look(self) -> bool:
        """Whether the link is right now. What is in the way is in the log; the link then stays where it is."""
        from ovi.tracking import model_source

        try:
            source, digest = model_source(self._tracking, self._uri)
            origin = {"model_digest": digest, "registry": self._uri}
            bundle = fetch(source.removeprefix("file://"), digest, self._like, self._folder, origin)
            if self.link.resolve() != bundle.resolve():
                fresh = self.link.with_name("next")
                fresh.unlink(missing_ok=True)
                fresh.symlink_to(bundle.name)
                os.replace(fresh, self.link)
            return True
        except (OviError, OSError) as error:
            log("registry_away", model=self._uri, error=one_line(error))
            return False

    def follow(self, ended: threading.Event) -> None:
        """Looks again and again until the event is set."""
        while not ended.wait(LOOK_S):
            self.look()

"""Outputs between clones: `ovi push` and `ovi pull` exchange with `data.remote` what dvc.lock names.

A folder, a mounted volume or an S3 bucket. Files are named by their content, so nothing is sent twice and nothing that
was sent changes. dvc.lock itself travels with git; what is not cached (`cache: false`, such as metrics) does too.
Try it: `ovi push --set data.remote=/mnt/ovi`, and in another clone `ovi pull --set data.remote=/mnt/ovi`.
"""

from __future__ import annotations

from pathlib import Path

from flows import environment
from flows.graph import Graph
from flows.workspace import Workspace
from ovi.config import Settings
from ovi.errors import ConfigError


def push(root: Path, settings: Settings) -> str:
    """Words about what was sent. ConfigError without data.remote, OviError when it cannot be used."""
    graph = _open(root, settings)
    count = graph.push()
    graph.close()
    return f"{settings.data.remote}: {count} files sent"


def pull(root: Path, settings: Settings) -> str:
    """Words about what was fetched, holding the clone's lock. Raises as `push`."""
    workspace = Workspace(root)
    with workspace.lock():
        workspace.prepare(settings)
        graph = _open(root, settings)
        count = graph.pull()
        stale = [stage for stage in graph.order if graph.reasons(stage)]
        graph.close()
    rest = f"still to be run: {', '.join(stale)}" if stale else "every stage is up to date"
    return f"{settings.data.remote}: {count} files fetched; {rest}"


def _open(root: Path, settings: Settings) -> Graph:
    environment.quiet()
    if settings.data.remote is None:
        raise ConfigError("data.remote: not set; name a folder or s3://bucket/prefix")
    return Graph(root, remote=settings.data.remote)

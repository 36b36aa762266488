"""A promoted model becomes a Bento: the library, the service, the model and one description, packed offline.

The tag is the model's digest and every file is made from its inputs alone, so equal inputs give equal bytes and packing
again replaces the same Bento. It checks the promotion and the model folder, never quality.
Try it: `ovi package --promotion out/promotion.json --model models/fusion --out out/package`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from packaging.requirements import Requirement

from ovi import storage
from ovi.config import Settings
from ovi.errors import OviError
from ovi.progress import Progress
from services.generation.bundle import MODEL, NAME, describe, link
from services.generation.schemas import SERVED, Served
from services.generation.supervisor import SOURCE

if TYPE_CHECKING:
    from ovi.models.folder import ModelFolder

DISTRIBUTION = "ovi-platform"
ROOMS = ("ovi", "services")  # what the service runs; flows/ stays at home
BORN = "1980-01-01T00:00:00+00:00"  # when the Bento says it was made: no clock in what is hashed


def package(
    settings: Settings, promotion: Path, model: Path, out: Path, progress: Progress, weights: str | None = None
) -> dict[str, Any]:
    """Builds `out`: a Bento store with one Bento, and package.json {tag, bento, model_digest, version}.

    With `weights`, an address, the model goes there by its digest, and the Bento only names it.

    Raises OviError when the model was not promoted, is not the promoted one, is damaged, or the build fails.
    """
    from ovi.models.folder import ModelFolder

    verified = ModelFolder.open(model)
    decision = _decision(promotion, verified.digest)
    origin = {
        "model_digest": verified.digest, "registry_version": str(decision.get("version")), "code": _commit(),
        "mlflow_run": decision.get("run"),
    }  # fmt: skip
    served = describe(settings, verified, origin)
    label = verified.digest[:16]
    with storage.atomic_folder(out) as folder, tempfile.TemporaryDirectory(prefix="ovi-package-") as context:
        progress.note(f"building the Bento {NAME}:{label}")
        if weights is not None:
            served = served.model_copy(update={"weights": verified.put(weights, progress.note)})
        _lay_out(Path(context), served, verified)
        bento = _build(Path(context), folder / "bentoml", label)
        record = {
            "tag": f"{NAME}:{label}", "bento": bento.relative_to(folder).as_posix(), "model_digest": served.digest,
            "version": label,
        }  # fmt: skip
        storage.write_json(folder / "package.json", record)
    progress.result(package=str(out), **record)
    return record


def _decision(promotion: Path, digest: str) -> dict[str, Any]:
    """The promotion record, when it is about this very model."""
    decision = storage.read_json(promotion)
    if not decision.get("promoted"):
        raise OviError(f"{promotion}: the model was not promoted; see its reasons and run `ovi promote` again")
    if decision.get("digest") != digest:
        raise OviError(f"{promotion}: promotes a model with another digest than this folder's; run `ovi promote` again")
    return decision


def _lay_out(context: Path, served: Served, model: ModelFolder) -> None:
    """The build context: what `bentoml serve` needs beside the installed requirements, and nothing else."""
    for room in ROOMS:
        shutil.copytree(SOURCE / room, context / room, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    if served.weights is None:
        (context / MODEL).mkdir()
        for name in model.files:
            link(model.path / name, context / MODEL / name)
    storage.write_json(context / SERVED, served.model_dump(mode="json"))
    recipe = {
        "service": "services.generation.service:Generation",
        "description": f"Model {served.model}: clips of {served.whole_seconds} s with their own sound, from a prompt.",
        "labels": served.origin,
        "include": ["*"],
        "python": {"lock_packages": False, "packages": _requirements()},
    }
    (context / "bentofile.yaml").write_text(yaml.safe_dump(recipe, sort_keys=True), encoding="utf-8")


def _build(context: Path, home: Path, label: str) -> Path:
    """Runs `bentoml build`, in a process of its own because it imports the packed service; the Bento's folder."""
    home.mkdir()
    environment = os.environ | {
        "BENTOML_HOME": str(home.absolute()),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "bentoml", "build", "--version", label, "."]
    built = subprocess.run(command, cwd=context, env=environment, capture_output=True, text=True, check=False)
    bento = home / "bentos" / NAME / label
    recipe = bento / "bento.yaml"
    if built.returncode != 0 or not recipe.is_file():
        said = [line.strip() for line in (built.stdout + built.stderr).splitlines() if line.strip()]
        raise OviError(f"bentoml build failed: {said[-1] if said else built.returncode}")
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(re.sub(r"(?m)^creation_time: .*$", f"creation_time: '{BORN}'", text), encoding="utf-8")
    for empty in ("tmp", "models", "envs"):
        shutil.rmtree(home / empty, ignore_errors=True)
    return bento


def _requirements() -> list[str]:
    """What the library and the service need, each pinned to what is installed here, where it was tested."""
    try:
        wanted = [Requirement(line) for line in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:
        raise OviError(f"{DISTRIBUTION} is not installed; run `make install`") from None
    names = {item.name for item in wanted if item.marker is None or item.marker.evaluate({"extra": "serve"})}
    return [f"{name}=={version(name).partition('+')[0]}" for name in sorted(names)]


def _commit() -> str | None:
    """The commit of the code, with -dirty when it was changed since; None outside a repository."""
    command = ["git", "-C", str(SOURCE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return said.stdout.strip() or None

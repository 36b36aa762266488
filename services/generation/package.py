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
from ovi.diffusion import memory
from ovi.errors import OviError
from ovi.progress import Progress
from services.generation.schemas import SERVED, Served
from services.generation.supervisor import SOURCE

if TYPE_CHECKING:
    from ovi.models.folder import ModelFolder

NAME = "ovi"
DISTRIBUTION = "ovi-platform"
ROOMS = ("ovi", "services")  # what the service runs; flows/ stays at home
MAX_TOKENS = 512  # of a text encoder whose configuration does not say
BORN = "1980-01-01T00:00:00+00:00"  # when the Bento says it was made: no clock in what is hashed


def package(settings: Settings, promotion: Path, model: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Builds `out`: a Bento store with one Bento, and package.json {tag, bento, model_digest, version}.

    Raises OviError when the model was not promoted, is not the promoted one, is damaged, or the build fails.
    """
    from ovi.models.folder import ModelFolder

    verified = ModelFolder.open(model)
    decision = _decision(promotion, verified.digest)
    origin = {"model_digest": verified.digest, "registry_version": str(decision.get("version")), "code": _commit()}
    served = describe(settings, verified, origin)
    label = verified.digest[:16]
    with storage.atomic_folder(out) as folder, tempfile.TemporaryDirectory(prefix="ovi-package-") as context:
        progress.note(f"building the Bento {NAME}:{label}")
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


def describe(settings: Settings, model: ModelFolder, origin: dict[str, str | None] | None = None) -> Served:
    """What the service says of itself and needs to know before the model is loaded."""
    clip, picture, service = model.config["clip"], model.config["picture"], settings.service
    text, runtime = model.config["text_encoder"], settings.runtime
    weights = {name: part["bytes"] for name, part in model.components.items()}
    width = 2 if runtime.precision == "bf16" else 4
    return Served(
        model=f"{NAME}:{model.digest[:16]}", digest=model.digest, width=picture["width"], height=picture["height"],
        area=picture["area"], multiple=picture["multiple"], version=model.config["version"], frames=clip["frames"],
        fps=clip["fps"], sample_rate=clip["sample_rate"],
        max_tokens=text.get("max_tokens", MAX_TOKENS), tokenizer=model.components.get("tokenizer", {}).get("file"),
        memory=memory.need(model.config, weights, runtime, width).of("resident"),
        sampling=settings.sampling, queue=service.queue, workers=service.workers,
        retention_s=3600 * service.retention_hours, origin={key: said for key, said in (origin or {}).items() if said},
    )  # fmt: skip


def _lay_out(context: Path, served: Served, model: ModelFolder) -> None:
    """The build context: what `bentoml serve` needs beside the installed requirements, and nothing else."""
    for room in ROOMS:
        shutil.copytree(SOURCE / room, context / room, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (context / "model").mkdir()
    for name in ("model.json", "config.json", *(entry["file"] for entry in model.components.values())):
        _link(model.path / name, context / "model" / name)
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


def _link(source: Path, target: Path) -> None:
    """A second name for a weights file, which may be large; a copy where the file system cannot."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)

"""What is served: a folder with the model and one description. Laid out from a model folder wherever that is kept.

A model is taken by its digest: what is fetched is hashed before it is served, and a bundle appears whole or not at all.
It knows nothing of Bentos or of who decides which model it is. Try it: `pytest tests/services/test_bundle.py`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovi import storage
from ovi.config import Runtime, Settings
from ovi.errors import OviError
from services.generation.schemas import SERVED, Served

if TYPE_CHECKING:
    from ovi.models.folder import ModelFolder

NAME = "ovi"
MODEL = "model"  # folder in a bundle
MAX_TOKENS = 512  # of a text encoder whose configuration does not say


def describe(settings: Settings, model: ModelFolder, origin: dict[str, str | None] | None = None) -> Served:
    """What the service says of itself and needs to know before the model is loaded."""
    service = settings.service
    return Served(
        **_of_model(model, settings.runtime), sampling=settings.sampling, queue=service.queue, workers=service.workers,
        retention_s=3600 * service.retention_hours, origin={key: said for key, said in (origin or {}).items() if said},
    )  # fmt: skip


def fetch(source: str, digest: str, like: Served, folder: Path, origin: dict[str, str]) -> Path:
    """The bundle of the model at `source` (a model folder, local or in S3) below `folder`, made if it is not there.

    It is served `like` the one before. Raises OviError when it cannot be had, or is not the model of this digest.
    """
    from ovi.models.folder import ModelFolder

    bundle = folder / digest[:16]
    if (bundle / SERVED).exists():
        return bundle
    with storage.atomic_folder(bundle) as made:
        model = made / MODEL
        model.mkdir()
        _copy(source, model, ["model.json"])
        about = storage.read_json(model / "model.json")
        _copy(source, model, sorted({entry["file"] for entry in (about["config"], *about["components"].values())}))
        verified = ModelFolder.open(model)
        if verified.digest != digest:
            raise OviError(f"{source}: holds another model by now (digest {verified.digest[:16]}, not {digest[:16]})")
        served = like.model_copy(update=_of_model(verified, Runtime()) | {"origin": origin, "weights": None})
        storage.write_json(made / SERVED, served.model_dump(mode="json"))
    return bundle


def link(source: Path, target: Path) -> None:
    """A second name for a weights file, which may be large; a copy where the file system cannot."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _copy(source: str, target: Path, names: list[str]) -> None:
    for name in names:
        if Path(name).name != name:
            raise OviError(f"{source}: names a file {name!r} outside itself")
        if storage.is_remote(source):
            storage.download(f"{source}/{name}", target / name)
        elif (Path(source) / name).is_file():
            link(Path(source) / name, target / name)
        else:
            raise OviError(f"{source}: has no {name}")


def _of_model(model: ModelFolder, runtime: Runtime) -> dict[str, Any]:
    """What of the description the model alone decides."""
    from ovi.diffusion import memory

    clip, picture, text = model.config["clip"], model.config["picture"], model.config["text_encoder"]
    weights = {name: part["bytes"] for name, part in model.components.items()}
    width = 2 if runtime.precision == "bf16" else 4
    return {
        "model": f"{NAME}:{model.digest[:16]}", "digest": model.digest, "width": picture["width"],
        "height": picture["height"], "area": picture["area"], "multiple": picture["multiple"],
        "version": model.config["version"], "frames": clip["frames"], "fps": clip["fps"],
        "sample_rate": clip["sample_rate"], "max_tokens": text.get("max_tokens", MAX_TOKENS),
        "tokenizer": model.components.get("tokenizer", {}).get("file"),
        "memory": memory.need(model.config, weights, runtime, width).of("resident"),
    }  # fmt: skip

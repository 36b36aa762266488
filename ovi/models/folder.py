"""Model folders: config.json, one safetensors file a component, and model.json with their hashes and lineage.

Written whole or not at all, equal content gives equal bytes, and everything is verified when a folder is opened.
Other files (metrics.json and the like) may lie beside and are not looked at.
Try it: `python -c "from ovi.models.folder import load_model; print(load_model('models/fusion').lineage)"`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovi import storage
from ovi.config import Clip
from ovi.errors import OviError
from ovi.models.codecs import COMPONENTS, build
from ovi.models.fusion import FusionModel
from ovi.models.linear_codec import LinearAudioCodec, LinearVideoCodec
from ovi.models.text_encoder import RandomT5

FORMAT = 1


@dataclass(frozen=True)
class OviModel:
    """All that is needed to generate: the components on one device, ready for inference."""

    config: dict[str, Any]
    fusion: FusionModel
    video_codec: LinearVideoCodec
    audio_codec: LinearAudioCodec
    text_encoder: RandomT5
    lineage: dict[str, Any]

    @property
    def clip(self) -> Clip:
        return Clip(**self.config["clip"])

    @property
    def picture(self) -> tuple[int, int]:
        """(height, width) of generated pictures."""
        return self.config["picture"]["height"], self.config["picture"]["width"]

    @property
    def device(self) -> torch.device:
        return next(self.fusion.parameters()).device


@dataclass(frozen=True)
class ModelFolder:
    """A verified model folder."""

    path: Path
    config: dict[str, Any]
    components: dict[str, dict[str, Any]]  # name -> kind, file, sha256, bytes
    lineage: dict[str, Any]
    digest: str  # over the components' and the configuration's hashes

    @classmethod
    def open(cls, path: str | Path) -> ModelFolder:
        """Read model.json and verify every file it names. Each way to be damaged is one OviError."""
        path = Path(path)
        if not (path / "model.json").is_file():
            raise OviError(f"{path}: not a model folder (no model.json); run the stage that makes it, or `dvc pull`")
        about = storage.read_json(path / "model.json")
        try:
            if about["format"] != FORMAT:
                raise OviError(f"{path}: model.json has format {about['format']!r}, this version reads {FORMAT}")
            for entry in (about["config"], *about["components"].values()):
                _verify(path / entry["file"], entry)
            config = storage.read_json(path / about["config"]["file"])
            return cls(path, config, about["components"], about["lineage"], _digest(about))
        except (KeyError, TypeError, AttributeError) as error:
            raise OviError(f"{path}/model.json: not as this project writes it ({error!r}); make it again") from None

    def tensors(self, name: str, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """The named component's tensors."""
        if name not in self.components:
            raise OviError(f"{self.path}: has no {name}; it has {', '.join(sorted(self.components)) or 'nothing'}")
        file = self.path / self.components[name]["file"]
        try:
            return load_file(file, device=str(device))
        except SafetensorError as error:
            raise OviError(f"{file}: not a safetensors file ({error}); make the folder again") from None

    def load(self, name: str, device: str | torch.device = "cpu") -> nn.Module:
        """The named component, built as config.json says and filled, in evaluation mode."""
        state = self.tensors(name, device)
        if name != "transformer":
            module = build(name, self.config[name])
            _check_keys(self.path / self.components[name]["file"], state, module)
            module.load_state_dict(state, strict=False)
            return module.to(device).eval()
        with torch.device("meta"):  # 11 billion parameters are not drawn only to be overwritten
            module = build(name, self.config[name])
        _check_keys(self.path / self.components[name]["file"], state, module)
        module.load_state_dict(state, assign=True)
        return module.eval()


def load_model(path: str | Path, device: str | torch.device = "cpu") -> OviModel:
    """The whole model of a folder that has all four components."""
    folder = ModelFolder.open(path)
    fusion, video_codec, audio_codec, text_encoder = (folder.load(name, device) for name in COMPONENTS)
    return OviModel(
        folder.config,
        cast(FusionModel, fusion),
        cast(LinearVideoCodec, video_codec),
        cast(LinearAudioCodec, audio_codec),
        cast(RandomT5, text_encoder),
        folder.lineage,
    )


def save_folder(
    path: str | Path,
    config: dict[str, Any],
    components: Mapping[str, Mapping[str, Tensor]],
    lineage: dict[str, Any],
    base: str | Path | None = None,
) -> None:
    """Write a model folder in one step: `components` are state dicts by component name.

    Components that only the folder `base` has are linked from it (copied where links are impossible), so that the
    stages of one pipeline share one file of each frozen network. `config` is `codecs.model_config(settings)`.
    """
    shared = ModelFolder.open(base) if base is not None else None
    with storage.atomic_folder(path) as folder:
        entries: dict[str, dict[str, Any]] = {}
        for name, state in sorted(components.items()):
            file = folder / f"{name}.safetensors"
            save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, file)
            file.chmod(0o644)
            entries[name] = {"kind": config[name]["kind"], **_describe(file)}
        for name, entry in sorted(shared.components.items() if shared else ()):
            if name not in entries and shared:
                if shared.config[name] != config[name]:
                    raise OviError(f"{shared.path}: its {name} was made with other settings; make it again first")
                _link(shared.path / entry["file"], folder / entry["file"])
                entries[name] = entry
        storage.write_json(folder / "config.json", config)
        about = {
            "format": FORMAT,
            "config": _describe(folder / "config.json"),
            "components": entries,
            "lineage": lineage,
        }
        storage.write_json(folder / "model.json", about)


def digest(path: str | Path) -> str:
    """One sha256 over the hashes of a verified folder's components and configuration; lineage does not count."""
    return ModelFolder.open(path).digest


def _digest(about: dict[str, Any]) -> str:
    hashes = {name: entry["sha256"] for name, entry in about["components"].items()}
    hashes["config"] = about["config"]["sha256"]
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _describe(file: Path) -> dict[str, Any]:
    return {"file": file.name, "sha256": storage.sha256(file), "bytes": file.stat().st_size}


def _verify(file: Path, entry: dict[str, Any]) -> None:
    if not file.is_file():
        raise OviError(f"{file}: missing, but model.json names it; make the folder again, or `dvc pull`")
    if file.stat().st_size != entry["bytes"]:
        raise OviError(f"{file}: {file.stat().st_size} bytes, model.json says {entry['bytes']}; the file is damaged")
    if storage.sha256(file) != entry["sha256"]:
        raise OviError(f"{file}: its sha256 is not the one in model.json; the file is damaged or was replaced")


def _check_keys(file: Path, state: dict[str, Tensor], module: nn.Module) -> None:
    wanted = module.state_dict()
    for word, names in (("lacks", wanted.keys() - state.keys()), ("has unexpected", state.keys() - wanted.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise OviError(f"{file}: {word} {min(names)}{more}; it does not fit the folder's config.json")
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            sizes = f"{list(tensor.shape)}, config.json asks for {list(wanted[name].shape)}"
            raise OviError(f"{file}: {name} is {sizes}")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)

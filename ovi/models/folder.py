"""Model folders: config.json, one file a component, and model.json with their hashes and lineage.

Networks are safetensors files; the tokenizer of a text encoder is a component too. Written whole or not at all, equal
content gives equal bytes, and everything is verified whenever a folder is opened: while a model is loaded, beside it.
Other files (metrics.json and the like) may lie beside and are not looked at.
Try it: `python -c "from ovi.models.folder import load_model; print(load_model('models/fusion').lineage)"`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ovi import storage
from ovi.config import Clip
from ovi.errors import OviError
from ovi.models.codecs import COMPONENTS, AudioCodec, TextEncoder, VideoCodec, build
from ovi.models.fusion import FusionModel

FORMAT = 2
TOKENIZER = "tokenizer"  # the component beside a text encoder whose tokens are not bytes
CAST = ("transformer", "text_encoder")  # components that compute in the dtype asked for
LARGE = 1 << 30  # files of so many bytes are hashed once, and again only when they were touched
READERS = 4  # files hashed at once


@dataclass(frozen=True)
class OviModel:
    """All that is needed to generate: the components on one device, ready for inference."""

    config: dict[str, Any]
    fusion: FusionModel
    video_codec: VideoCodec
    audio_codec: AudioCodec
    text_encoder: TextEncoder
    lineage: dict[str, Any]

    @property
    def clip(self) -> Clip:
        return Clip(**self.config["clip"])

    @property
    def picture(self) -> tuple[int, int]:
        """(height, width) of generated pictures where no other size is asked for."""
        return self.config["picture"]["height"], self.config["picture"]["width"]

    @property
    def device(self) -> torch.device:
        return next(self.fusion.parameters()).device


@dataclass(frozen=True)
class ModelFolder:
    """A model folder; `open` gives a verified one."""

    path: Path
    config: dict[str, Any]
    components: dict[str, dict[str, Any]]  # name -> kind, file, sha256, bytes
    lineage: dict[str, Any]
    digest: str  # over the components' and the configuration's hashes

    @classmethod
    def open(cls, path: str | Path) -> ModelFolder:
        """Read model.json and verify every file it names. Each way to be damaged is one OviError."""
        folder = cls.read(path)
        with folder.verified():
            return folder

    @classmethod
    def read(cls, path: str | Path) -> ModelFolder:
        """As `open`, but of the components' files only the sizes are verified yet."""
        path = Path(path)
        if not (path / "model.json").is_file():
            raise OviError(f"{path}: not a model folder (no model.json); run the stage that makes it, or `dvc pull`")
        about = storage.read_json(path / "model.json")
        try:
            if about["format"] != FORMAT:
                raise OviError(f"{path}: model.json has format {about['format']!r}, this version reads {FORMAT}")
            for entry in (about["config"], *about["components"].values()):
                _verify_size(path, entry)
            _verify_content(path, about["config"])
            config = storage.read_json(path / about["config"]["file"])
            return cls(path, config, about["components"], about["lineage"], _digest(about))
        except (KeyError, TypeError, AttributeError) as error:
            raise OviError(f"{path}/model.json: not as this project writes it ({error!r}); make it again") from None

    @contextlib.contextmanager
    def verified(self) -> Iterator[None]:
        """Run the block while threads hash the components' files.

        OviError at the end of the block, or in place of what failed in it, when a file is damaged.
        """
        with ThreadPoolExecutor(READERS) as threads:
            checks = [threads.submit(_verify_content, self.path, entry) for entry in self.components.values()]
            try:
                yield
            finally:
                for check in checks:
                    check.result()

    def file(self, name: str) -> Path:
        """The named component's file."""
        if name not in self.components:
            raise OviError(f"{self.path}: has no {name}; it has {', '.join(sorted(self.components)) or 'nothing'}")
        return self.path / self.components[name]["file"]

    @property
    def files(self) -> list[str]:
        """Names of all its files; the one that names the others is the last."""
        return ["config.json", *sorted({entry["file"] for entry in self.components.values()}), "model.json"]

    def put(self, prefix: str, note: Callable[[str], None]) -> str:
        """Copy it below `prefix`, a folder or s3://..., by its digest; its address there. What is there stays."""
        address = f"{prefix.rstrip('/')}/{self.digest[:16]}"
        for name in self.files:
            if not storage.exists(f"{address}/{name}"):
                note(f"putting {name} to {address}")
                storage.upload(self.path / name, f"{address}/{name}")
        return address

    def tensors(self, name: str, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """The named component's tensors. On the CPU they are mapped from the file, and read when they are used."""
        with _opened(self.file(name), device) as tensors:
            return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118 - no mapping

    def load(self, name: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> nn.Module:
        """The named component, built as config.json says and filled, in evaluation mode.

        Tensors go to the device one by one and are used as they are, or cast to dtype, so that memory holds one copy.
        Raises OviError where they do not fit config.json, or are not finite.
        """
        file = self.file(name)
        with torch.device("meta"):  # weights are not drawn only to be overwritten
            module = build(name, self.config[name])
        with _opened(file, device) as tensors:
            shapes = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118 - no mapping
            _check_keys(file, shapes, module)
            state, sums = {}, {}
            for key in shapes:
                tensor = tensors.get_tensor(key)
                if tensor.is_floating_point():
                    sums[key] = tensor.sum().float()
                    tensor = tensor.to(dtype or tensor.dtype)
                state[key] = tensor
        _check_finite(file, state, sums)
        module.load_state_dict(state, assign=True)
        if TOKENIZER in self.config and name == "text_encoder":
            cast(Any, module).read_tokenizer(self.file(TOKENIZER))
        return module.eval()


def load_model(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> OviModel:
    """The whole model of a folder that has all four networks, verified while it is loaded.

    dtype is that of the transformer and the text encoder (None: as stored); the codecs stay as they are stored.
    """
    folder = ModelFolder.read(path)
    with folder.verified():
        parts: dict[str, Any] = {
            name: folder.load(name, device, dtype if name in CAST else None) for name in COMPONENTS
        }
    return OviModel(folder.config, parts.pop("transformer"), **parts, lineage=folder.lineage)


def save_folder(
    path: str | Path,
    config: dict[str, Any],
    components: Mapping[str, Mapping[str, Tensor] | Path],
    lineage: dict[str, Any],
    base: str | Path | None = None,
    done: Callable[[Path], object] | None = None,
) -> None:
    """Write a model folder in one step: `components` are state dicts by component name, or files that are ready.

    Ready files, and those of components that only the folder `base` has, are linked (copied where links are
    impossible), so that the stages of one pipeline share one file of each frozen network. `config` is
    `codecs.model_config(settings)`. `done` is called with every file that is written and hashed.
    """
    shared = ModelFolder.open(base) if base is not None else None
    with storage.atomic_folder(path) as folder:
        entries: dict[str, dict[str, Any]] = {}
        for name, content in sorted(components.items()):
            file = _put(folder, name, content)
            entries[name] = {"kind": config[name]["kind"], **_describe(file)}
            if done:
                done(file)
        for name, entry in sorted(shared.components.items() if shared else ()):
            if name not in entries and shared:
                if shared.config[name] != config.get(name):
                    raise OviError(f"{shared.path}: its {name} was made with other settings; make it again first")
                link(shared.path / entry["file"], folder / entry["file"])
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


def link(source: Path, target: Path) -> None:
    """A second name for a file, which may be large; a copy where the file system cannot."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _put(folder: Path, name: str, content: Mapping[str, Tensor] | Path) -> Path:
    if isinstance(content, Path):
        file = folder / f"{name}{content.suffix}"
        link(content, file)
        return file
    file = folder / f"{name}.safetensors"
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}, file)
    file.chmod(0o644)
    return file


def _digest(about: dict[str, Any]) -> str:
    hashes = {name: entry["sha256"] for name, entry in about["components"].items()}
    hashes["config"] = about["config"]["sha256"]
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _describe(file: Path) -> dict[str, Any]:
    return {"file": file.name, "sha256": storage.sha256(file), "bytes": file.stat().st_size}


def _verify_size(path: Path, entry: dict[str, Any]) -> None:
    file = path / entry["file"]
    if file.parent != path:
        raise OviError(f"{path}/model.json: names {entry['file']}, which is not in the folder; make it again")
    if not file.is_file():
        raise OviError(f"{file}: missing, but model.json names it; make the folder again, or `dvc pull`")
    if file.stat().st_size != entry["bytes"]:
        raise OviError(f"{file}: {file.stat().st_size} bytes, model.json says {entry['bytes']}; the file is damaged")


def _verify_content(path: Path, entry: dict[str, Any]) -> None:
    file = path / entry["file"]
    seen = _seen(file, entry["sha256"])
    if seen.exists():
        return
    if storage.sha256(file) != entry["sha256"]:
        raise OviError(f"{file}: its sha256 is not the one in model.json; the file is damaged or was replaced")
    if entry["bytes"] >= LARGE:
        with contextlib.suppress(OSError):  # then it is hashed again next time
            seen.parent.mkdir(parents=True, exist_ok=True)
            seen.touch()


def _seen(file: Path, sha256: str) -> Path:
    """The marker that this very file, unchanged by its inode's times, was found to have this hash before."""
    about = file.resolve().stat()
    key = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns, sha256)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ovi" / "verified" / hashlib.sha256(repr(key).encode()).hexdigest()


@contextlib.contextmanager
def _opened(file: Path, device: str | torch.device) -> Iterator[Any]:
    """The safetensors file, its tensors to come on the device."""
    try:
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            yield tensors
    except SafetensorError as error:
        raise OviError(f"{file}: not a safetensors file ({error}); make the folder again") from None


def _check_keys(file: Path, shapes: Mapping[str, list[int]], module: nn.Module) -> None:
    wanted = module.state_dict()
    for word, names in (("lacks", wanted.keys() - shapes.keys()), ("has unexpected", shapes.keys() - wanted.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise OviError(f"{file}: {word} {min(names)}{more}; it does not fit the folder's config.json")
    for name, shape in shapes.items():
        if shape != list(wanted[name].shape):
            raise OviError(f"{file}: {name} is {shape}, config.json asks for {list(wanted[name].shape)}")


def _check_finite(file: Path, state: dict[str, Tensor], sums: dict[str, Tensor]) -> None:
    """NaN and infinity show in a tensor's sum, which is fast and leaves nothing behind; one wait for all of a GPU's.

    A sum may also overflow, so that tensors of such sums are looked at.
    """
    good = torch.stack(list(sums.values())).isfinite().tolist()
    suspects = [name for name, finite in zip(sums, good, strict=True) if not finite]
    broken = [name for name in suspects if not state[name].isfinite().all()]
    if broken:
        more = f" and in {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise OviError(f"{file}: NaN or infinity in {broken[0]}{more}; the training diverged, or the file is damaged")

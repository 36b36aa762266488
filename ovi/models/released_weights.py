"""The released checkpoints of Ovi, Wan2.2, umT5 and MMAudio -> model folders, and back, tensor for tensor.

Nothing is changed but names. The large transformer is linked where its file is as we keep it; other tensors go from
file to file without being held in memory. What the files are called and hold is `released_layout`'s to know.
Try it: `ovi weights verify --from ckpts`, `ovi weights import --from ckpts --out models/ovi`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ovi import storage
from ovi.config import Clip
from ovi.errors import OviError
from ovi.models import checkpoint_file, codecs
from ovi.models import released_layout as layout
from ovi.models.folder import TOKENIZER, ModelFolder, link, save_folder
from ovi.models.released_layout import AUDIO, BACKBONE, OLDER_VOICE, TEXT, VERSIONS, VIDEO, VOICE, WAN, Network
from ovi.models.tower import TowerConfig
from ovi.progress import Progress, Silent

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
KINDS = {"video_codec": "wan22", "audio_codec": "mmaudio", "text_encoder": "umt5"}  # that the release has files for
OLDER_NAMES = "older_vocoder_names"  # in the lineage: export as it was
MIB = 1 << 20


@dataclass(frozen=True)
class Finding:
    """Something wrong with a released file, or with one tensor of it."""

    file: str
    problem: str
    key: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.file, self.key, self.problem)))


@dataclass(frozen=True)
class Part:
    """One released file, its tensors not read yet."""

    path: Path
    network: Network
    outline: dict[str, Tensor]  # on the meta device, named as in the file
    sizes: dict[str, Any]  # arguments of network.build

    @classmethod
    def read(cls, path: Path, network: Network) -> Part:
        """Raises OviError when the file is missing, damaged, or not of this network."""
        outline = checkpoint_file.outline(path)
        if any(tensor.dtype in EIGHT_BITS for tensor in outline.values()):
            raise OviError(f"{path}: holds 8-bit weights; take the 16-bit ones, and let the sampler store 8 bits")
        if network is VOICE and any(name.endswith(".weight_g") for name in outline):
            network = OLDER_VOICE
        try:
            return cls(path, network, outline, network.sizes({name: tuple(x.shape) for name, x in outline.items()}))
        except OviError as error:
            raise OviError(f"{path}: {error}") from None

    def findings(self) -> list[Finding]:
        """Where the file's tensors are not those of the network of its sizes."""
        with torch.device("meta"):
            wanted = self.network.released(self.network.build(**self.sizes).state_dict())
        file, outline = self.network.file, self.outline
        found = [Finding(file, "missing", name) for name in wanted if name not in outline]
        for name, tensor in outline.items():
            if name not in wanted:
                found.append(Finding(file, "unexpected", name))
            elif tensor.shape != wanted[name].shape:
                found.append(Finding(file, f"is {list(tensor.shape)}, should be {list(wanted[name].shape)}", name))
            elif tensor.dtype not in DTYPES:
                found.append(Finding(file, f"is {tensor.dtype}, should be a float of 16 or 32 bits", name))
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Named as in the component of a model folder; mapped from the file."""
        return self._ours(checkpoint_file.read(self.path))

    @property
    def as_kept(self) -> bool:
        """A model folder keeps just such a file."""
        return self.path.suffix == ".safetensors" and self._ours(self.outline).keys() == self.outline.keys()

    def _ours(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {self.network.prefix + name: tensor for name, tensor in self.network.ours(tensors).items()}


def import_weights(
    source: Path, version: str, out: Path, progress: Progress | None = None, transformer: Path | None = None
) -> None:
    """Make the model folder `out` of a version's files in `source`, or of the backbone's.

    transformer: a file of the same tensors to take instead of the version's own, as a dump that DeepSpeed made.
    Raises OviError for files that are missing, are not what they should be, or do not belong together.
    """
    progress = progress or Silent()
    if out.exists() and not (out / "model.json").is_file():
        raise OviError(f"{out}: is there and is no model folder; choose another name")
    for place in layout.sources(version):
        progress.note(f"{place.folder}: of {place.repository}, licence {place.licence}")
    if version == BACKBONE:
        parts = [backbone(source / WAN)]
        video = parts[0].sizes["config"]
        config = _config((video, layout.as_audio(video)), {}, VERSIONS["720x720_5s"], None)
    else:
        parts = _parts(source, version, transformer)
        config = _model_config(version, parts)
    _refuse(parts)
    components: dict[str, dict[str, Tensor] | Path] = {}
    for name in {part.network.component for part in parts}:
        of_it = [part for part in parts if part.network.component == name]
        ready = len(of_it) == 1 and of_it[0].as_kept
        components[name] = of_it[0].path if ready else {k: x for part in of_it for k, x in part.tensors().items()}
    if TOKENIZER in config:
        components[TOKENIZER] = _tokenizer(source / layout.TOKENIZER, config["text_encoder"])
    lineage = {"stage": "import", "version": version, OLDER_NAMES: OLDER_VOICE in [part.network for part in parts]}
    progress.start("writing and hashing", sum(x.nbytes for part in parts for x in part.outline.values()) // MIB, "MiB")
    save_folder(out, config, components, lineage, done=lambda file: progress.advance(file.stat().st_size // MIB))


def backbone(folder: Path) -> Part:
    """The Wan2.2 video model of a folder as it is published. `tensors()` is a video tower without fusion parameters."""
    return Part.read(*_backbone_file(folder))


def verify_weights(source: Path, version: str | None = None) -> dict[str, list[Finding]]:
    """What is wrong with the files in `source`, by file: those of a version, or all that are there and any needs."""
    if not source.is_dir():
        raise OviError(f"{source}: no such folder; get the weights with `ovi weights download`")
    layout.sources(version or BACKBONE)
    models = [_fusion(source, name) for name in ([version] if version in VERSIONS else VERSIONS)]
    there = [network for network in models if (source / network.file).is_file()]
    files = [(source / network.file, network) for network in (*(there or models[:1]), VIDEO, TEXT, AUDIO, VOICE)]
    tower = _backbone_file(source / WAN)
    if version == BACKBONE:
        files = [tower]
    elif version is None and tower[0].is_file():
        files.append(tower)
    report = {network.file: _verified(path, network) for path, network in files}
    if version != BACKBONE and not (source / layout.TOKENIZER).is_file():
        report[layout.TOKENIZER] = [Finding(layout.TOKENIZER, "no such file")]
    return report


def export_weights(folder: Path, out: Path, progress: Progress | None = None) -> list[str]:
    """Write what a model folder has into `out`, laid out and named as the release is; the files.

    A component the release has no file for (a linear codec, an audio tower alone) is left out, and noted.
    """
    progress = progress or Silent()
    if out.exists() and any(out.iterdir()):
        raise OviError(f"{out}: is not empty; export into a new folder")
    model = ModelFolder.open(folder)
    progress.start("exporting", len(model.components), "components")
    with storage.atomic_folder(out) as target:
        for name in model.components:
            before = len(storage.list_files(target))
            _export(model, name, target)
            if len(storage.list_files(target)) == before:
                progress.note(f"{name} is left out: the release has no file for this kind")
            progress.advance()
        files = [str(Path(file).relative_to(target)) for file in storage.list_files(target)]
        if not files:
            raise OviError(f"{folder}: holds nothing that the release has a file for")
    return files


def _export(model: ModelFolder, name: str, target: Path) -> None:
    if name == TOKENIZER:
        link(model.file(name), _place(target, layout.TOKENIZER))
    elif name == "transformer":
        _export_transformer(model, target)
    elif model.config[name]["kind"] == KINDS.get(name):
        voice = OLDER_VOICE if model.lineage.get(OLDER_NAMES) else VOICE
        tensors = model.tensors(name)
        for network in (VIDEO, TEXT, AUDIO, voice):
            if network.component == name:
                state = network.released(
                    {k.removeprefix(network.prefix): x for k, x in tensors.items() if k.startswith(network.prefix)}
                )
                torch.save({"generator": state} if network is voice else state, _place(target, network.file))


def _export_transformer(model: ModelFolder, target: Path) -> None:
    file = model.file("transformer")
    towers = {name.partition(".")[0] for name in checkpoint_file.outline(file)}
    configs = {side: TowerConfig(**model.config["transformer"][side]) for side in layout.TOWER_FILES}
    if towers == {"video_model", "audio_model"}:
        version = VERSIONS.get(str(model.config.get("version")), VERSIONS["720x720_5s"])
        link(file, _place(target, version.file))
        for side, name in layout.TOWER_FILES.items():
            storage.write_json(target / name, layout.tower_about(configs[side]))
    elif towers == {"video_model"}:
        network = layout.backbone(f"{WAN}/{layout.DIT}.safetensors", {})
        tensors = model.tensors("transformer").items()
        state = network.released({name.removeprefix(network.prefix): tensor for name, tensor in tensors})
        save_file(state, _place(target, network.file))
        storage.write_json(target / WAN / "config.json", layout.tower_about(configs["video"]))


def _parts(source: Path, version: str, transformer: Path | None) -> list[Part]:
    """The files of a version."""
    path = transformer or source / VERSIONS[version].file
    if not path.is_file():
        others = [name for name, other in VERSIONS.items() if (source / other.file).is_file()]
        if (source / layout.EIGHT_BITS).is_file():
            others.append("8-bit weights, which cannot be imported")
        raise OviError(
            f"{path}: no such file; {source} has {', '.join(others) or 'no Ovi model'}, "
            f"get this one with `ovi weights download --version {version}`"
        )
    fusion = Part.read(path, _fusion(source, version))
    return [fusion, *(Part.read(source / network.file, network) for network in (VIDEO, TEXT, AUDIO, VOICE))]


def _fusion(source: Path, version: str) -> Network:
    abouts = {side: _about(source / file) for side, file in layout.TOWER_FILES.items()}
    return layout.fusion(VERSIONS[version].file, abouts)


def _model_config(version: str, parts: list[Part]) -> dict[str, Any]:
    """config.json of a released model. Raises OviError when the parts' sizes do not go together."""
    fusion, video_codec, text, audio_codec, vocoder = parts
    video, audio = fusion.sizes["video"], fusion.sizes["audio"]
    for tower, wants, part, has in (
        ("video", video.in_dim, video_codec, video_codec.sizes["channels"]),
        ("audio", audio.in_dim, audio_codec, audio_codec.sizes["channels"]),
        ("text", video.text_dim, text, text.sizes["dim"]),
    ):
        if wants != has:
            raise OviError(
                f"{part.path}: has {has} {tower} channels, {fusion.path} wants {wants}; take files of one set"
            )
    components = {
        "video_codec": {"kind": "wan22", "patch": [16, 16], **video_codec.sizes},
        "audio_codec": {"kind": "mmaudio", **audio_codec.sizes, "vocoder_channels": vocoder.sizes["channels"]},
        "text_encoder": {"kind": "umt5", "max_tokens": video.text_len, **text.sizes},
    }
    return _config((video, audio), components, VERSIONS[version], version)


def _config(
    towers: tuple[TowerConfig, TowerConfig], components: dict[str, Any], like: layout.Version, version: str | None
) -> dict[str, Any]:
    side = round(math.sqrt(like.area) / layout.SIDES) * layout.SIDES
    picture = {"height": side, "width": side, "area": like.area, "multiple": layout.SIDES}
    return codecs.folder_config(towers, components, Clip(frames=like.frames), picture, like.audio_latents, version)


def _tokenizer(file: Path, text_encoder: dict[str, Any]) -> Path:
    """The file, if the encoder can take it."""
    with torch.device("meta"):
        encoder: Any = codecs.build("text_encoder", text_encoder)
    encoder.read_tokenizer(file)
    return file


def _refuse(parts: list[Part]) -> None:
    for part in parts:
        findings = part.findings()
        if findings:
            first, more = findings[0], len(findings) - 1
            rest = f" and {more} more; see `ovi weights verify`" if more else ""
            raise OviError(f"{part.path}: {first.key} {first.problem}{rest}; it is no whole file of this model")


def _about(file: Path) -> dict[str, Any]:
    """A config of the release, empty where there is none."""
    if not file.is_file():
        return {}
    about = storage.read_json(file)
    if not isinstance(about, Mapping):
        raise OviError(f"{file}: not a model's config; take the release's or remove it")
    for name, kind in layout.TOLD.items():
        if name in about and not (isinstance(about[name], kind) and about[name] > 0):
            raise OviError(f"{file}: {name} is {about[name]!r}; take the release's file or remove it")
    return dict(about)


def _backbone_file(folder: Path) -> tuple[Path, Network]:
    index = folder / f"{layout.DIT}.safetensors.index.json"
    file = index if index.is_file() else folder / f"{layout.DIT}.safetensors"
    return file, layout.backbone(f"{WAN}/{file.name}", _about(folder / "config.json"))


def _verified(path: Path, network: Network) -> list[Finding]:
    try:
        return Part.read(path, network).findings()
    except OviError as error:
        return [Finding(network.file, str(error).removeprefix(f"{path}: "))]


def _place(target: Path, file: str) -> Path:
    path = target / file
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

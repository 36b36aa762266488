"""params.yaml -> typed settings. Unknown keys, wrong types and impossible values are one line each.

A params file holds the demo's values at its top level and a `profiles:` section whose entries overlay them.
`ovi config show --profile small` prints the result; written to a file, that result is itself a params file
(without `profiles:`), which is how the pipeline fixes one set of values for all its stages.
Try it: `ovi config show --set training.fusion.steps=10`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from ovi.config.evaluation import Ablation, Evaluation, Promotion
from ovi.config.media import Clip, Corpus, Curation
from ovi.config.model import Codec, Model, Runtime, Sampling, Text
from ovi.config.platform import Cluster, Data, Resources, Service, Tracking
from ovi.config.section import Section
from ovi.config.training import Training
from ovi.errors import ConfigError


class Settings(Section):
    profile: str = "tiny"
    seed: int = 0
    clip: Clip = Clip()
    corpus: Corpus = Corpus()
    curation: Curation = Curation()
    codec: Codec = Codec()
    text: Text = Text()
    model: Model = Model()
    training: Training
    sampling: Sampling = Sampling()
    runtime: Runtime = Runtime()
    evaluation: Evaluation = Evaluation()
    ablation: Ablation = Ablation()
    promotion: Promotion = Promotion()
    service: Service = Service()
    tracking: Tracking = Tracking()
    data: Data = Data()
    executor: Literal["local", "kubernetes"] = "local"
    resources: dict[str, Resources] = {}
    cluster: Cluster = Cluster()


def load(params: str | Path = "params.yaml", profile: str | None = None, sets: list[str] | None = None) -> Settings:
    """Settings from a params file, a profile laid over it, and `a.b=c` words laid over both.

    Raises ConfigError with one line that names the key, what was given and what is allowed.
    """
    values = _read(Path(params))
    profiles = values.pop("profiles", None) or {}
    if profile is not None and profile != values.get("profile", "tiny"):
        if profile not in profiles:
            known = ", ".join(sorted({str(values.get("profile", "tiny")), *profiles}))
            raise ConfigError(f"profile: {profile!r} is not in {params}; it has {known}")
        values = _overlay(values, profiles[profile] or {})
        values["profile"] = profile
    for word in sets or []:
        _set(values, word)
    return _validate(values, str(params))


def dump(settings: Settings) -> str:
    """The settings as YAML that `load` reads back to equal settings."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such params file; run from the repository or give --params") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings, holds {type(values).__name__}")
    return values


def _overlay(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _set(values: dict[str, Any], word: str) -> None:
    dotted, equals, text = word.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {word!r}: write it as section.key=value")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        value = text
    place = values
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {word!r}: {key!r} is a value, not a section")
    place[keys[-1]] = value


def _validate(values: dict[str, Any], where: str) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            message = f"unknown key; allowed here: {', '.join(_siblings(first['loc']))}"
        elif first["type"] == "missing":
            message = "missing, has no default"
        else:
            message = f"{first['msg'].removeprefix('Value error, ')}, given {first['input']!r}"
        raise ConfigError(" ".join(f"{where}: {key or 'settings'}: {message}{more}".split())) from None


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Settings
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    return sorted(getattr(model, "model_fields", {})) or ["any name of the right type"]

"""A tiny random model folder: real networks, real codecs, nothing learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ovi import config, storage
from ovi.config import Settings
from ovi.models import codecs
from ovi.models.folder import ModelFolder, save_folder
from ovi.models.fusion import FusionModel, init
from services.generation.bundle import describe
from services.generation.schemas import SERVED

PARAMS = Path(__file__).parents[2] / "params.yaml"


def tiny_settings(**sets: object) -> Settings:
    """The demo's settings, smaller still; `a__b=c` sets a.b."""
    small = ["model.dim=32", "model.ffn_dim=64", "model.heads=2", "model.layers=1", "codec.video_patch=[8,8]"]
    small += ["codec.video_channels=16", "model.video_patch=[1,2,2]"]
    small += ["text.dim=32", "text.layers=1", "sampling.steps=4", "sampling.display_pixels=64", "service.port=0"]
    return config.load(PARAMS, sets=small + [f"{key.replace('__', '.')}={value}" for key, value in sets.items()])


def save_tiny_model(path: Path, settings: Settings, seed: int = 0) -> Path:
    draw = np.random.default_rng(seed)
    clip, (height, width) = settings.clip, codecs.picture_size(settings)
    wanted = codecs.model_config(settings)
    pictures = [draw.integers(0, 256, (clip.frames, height, width, 3), dtype=np.uint8) for _ in range(2)]
    sounds = [draw.normal(0, 0.1, clip.samples).astype(np.float32) for _ in range(2)]
    fusion = init(FusionModel(*codecs.tower_configs(settings)), seed)
    with torch.no_grad():  # a new model's last layers are zero: let it move the latents
        for weight in fusion.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    components = {
        "transformer": fusion.state_dict(),
        "video_codec": codecs.fit_video_codec(settings, pictures).state_dict(),
        "audio_codec": codecs.fit_audio_codec(settings, sounds).state_dict(),
        "text_encoder": codecs.new_text_encoder(settings).state_dict(),
    }
    save_folder(path, wanted, components, {"made_by": "tests"})
    return path


def lay_bundle(path: Path, model: Path, settings: Settings) -> Path:
    """What a Bento carries beside the code: the model and its description."""
    path.mkdir(parents=True)
    (path / "model").symlink_to(model.absolute())
    storage.write_json(path / SERVED, describe(settings, ModelFolder.open(model)).model_dump(mode="json"))
    return path

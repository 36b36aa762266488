"""params.yaml as typed settings: `load` reads them, `Settings` holds them, a file for each part of the platform.

Try it: `ovi config show --set training.fusion.steps=10`.
"""

from ovi.config.evaluation import Ablation, Evaluation, Networks, Outputs, Promotion, Threshold
from ovi.config.media import Captions, Clip, Corpus, Curation, People, Weights
from ovi.config.model import Codec, Model, Runtime, Sampling, Text
from ovi.config.platform import Cluster, Data, Resources, Service, Tracking
from ovi.config.settings import Settings, dump, load
from ovi.config.training import AudioStage, FusionStage, Lora, Stage, Training, VideoStage

__all__ = [
    "Ablation",
    "AudioStage",
    "Captions",
    "Clip",
    "Cluster",
    "Codec",
    "Corpus",
    "Curation",
    "Data",
    "Evaluation",
    "FusionStage",
    "Lora",
    "Model",
    "Networks",
    "Outputs",
    "People",
    "Promotion",
    "Resources",
    "Runtime",
    "Sampling",
    "Service",
    "Settings",
    "Stage",
    "Text",
    "Threshold",
    "Tracking",
    "Training",
    "VideoStage",
    "Weights",
    "dump",
    "load",
]

"""The encode stage: clips -> latents and text embeddings, once, so that training never sees a picture or a sound.

The codecs are those of codec.source, or linear ones fitted on training clips only. Fine-tuning sounds are padded or
cut to the clip's 5.04 s, pretraining sounds keep their lengths (paper 4.2.1). codec.json says how well the codecs
reconstruct held-out clips.
Try it: `ovi encode --clips data/clips --codec models/codec --out data/latents`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ovi import storage, threads
from ovi.config import Settings
from ovi.curation import manifest, packed
from ovi.curation.manifest import SETS, SPLITS, Row
from ovi.curation.shards import ShardReader
from ovi.errors import OviError
from ovi.models import codecs, mel
from ovi.models.codecs import AudioCodec, TextEncoder, VideoCodec
from ovi.models.folder import TOKENIZER, ModelFolder, save_folder
from ovi.models.linear_codec import pixels
from ovi.progress import Progress
from ovi.training.latents import LatentWriter, Sample, write_empty_text

BATCH_VALUES = 1 << 24  # colour values encoded at once
TEXTS = 64  # captions encoded at once
FROZEN = ("video_codec", "audio_codec", "text_encoder", TOKENIZER)
MEASURED = 24  # held-out clips that are decoded again


def encode(settings: Settings, clips: Path, codec_out: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Write the model folder `codec_out` and the latent shards `out`; what codec.json says.

    Raises OviError when there are no curated clips to learn from, or when `out` holds something else than latents.
    """
    threads.use(settings.training)
    if out.exists() and any(out.iterdir()) and not (out / "codec.json").exists():
        raise OviError(f"{out}: holds something else than latents and would be replaced; choose another folder")
    stage = _Encode(settings, clips, progress)
    if settings.codec.source:
        stage.take(ModelFolder.open(settings.codec.source))
    else:
        stage.fit()
    stage.save_codec(codec_out)
    with storage.atomic_folder(out) as folder:
        for name in SETS:
            for split in SPLITS:
                stage.write(folder, name, split)
        write_empty_text(folder, stage.text.encode([""])[0].cpu())
        report = stage.report()
        storage.write_json(folder / "codec.json", report)
    figures = {name: report[name] for name in ("video_psnr_db", "audio_log_mel_error")}
    progress.result(latents=str(out), clips=sum(map(len, stage.rows.values())), **figures)
    return report


class _Encode:
    def __init__(self, settings: Settings, clips: Path, progress: Progress) -> None:
        self.settings, self.clips, self.progress = settings, clips, progress
        rows = sorted(manifest.rows(clips / "manifest.parquet"), key=lambda row: row["clip_id"])
        self.rows = {
            (name, split): [row for row in rows if (row["set"], row["split"]) == (name, split)]
            for name in SETS
            for split in SPLITS
        }
        if not self.rows["av", "train"]:
            raise OviError(f"{clips}: no audio-video clip was kept for training; the report in there says why")
        self.video: VideoCodec
        self.audio: AudioCodec
        self.text: TextEncoder
        self.parts: Mapping[str, dict[str, Tensor] | Path]  # as the model folder of codecs gets them
        self.device = torch.device("cpu")
        self.shards = {name: ShardReader(clips / "shards", name) for name in SETS}

    def fit(self) -> None:
        """Codecs from training clips, evenly chosen; the text encoder from the seed."""
        wanted = self.settings.codec.fit_clips
        sights = _evenly(self.rows["av", "train"], wanted)
        sounds = _evenly(sorted(self._train(), key=lambda row: row["clip_id"]), wanted)
        self.progress.start("fitting codecs", len(sights) + len(sounds), "clips")
        self.video = codecs.fit_video_codec(self.settings, self._counted(self._frames(row) for row in sights))
        self.audio = codecs.fit_audio_codec(self.settings, self._counted(self._sound(row) for row in sounds))
        self.text = codecs.new_text_encoder(self.settings)
        parts: dict[str, nn.Module] = {"video_codec": self.video, "audio_codec": self.audio, "text_encoder": self.text}
        self.parts = {name: dict(part.state_dict()) for name, part in parts.items()}

    def take(self, source: ModelFolder) -> None:
        """Codecs and text encoder of another model, such as a released one; the device is a GPU where there is one."""
        wanted = codecs.model_config(self.settings)
        for name in FROZEN:
            if source.config.get(name) != wanted.get(name):
                raise OviError(f"codec.source: {source.path}: its {name} has other sizes than the settings ask for")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.video, self.audio, self.text = (source.load(name, self.device) for name in FROZEN[:3])
        self.parts = {name: source.file(name) for name in FROZEN if name in source.components}

    def save_codec(self, path: Path) -> None:
        lineage = {"stage": "encode", "clips": storage.sha256(self.clips / "manifest.parquet")}
        save_folder(path, codecs.model_config(self.settings), self.parts, lineage)

    def write(self, folder: Path, name: str, split: str) -> None:
        """One set and split, in the order of clip ids."""
        rows = self.rows[name, split]
        self.progress.start(f"encoding {name} {split}", len(rows), "clips")
        texts = self._texts(rows)
        with LatentWriter(folder, name, split, self.settings.curation.shard_mib << 20) as writer:
            for group in _alike(rows):
                for sample in self._samples(group, texts):
                    writer.add(sample)
                self.progress.advance(len(group))

    @torch.no_grad()
    def report(self) -> dict[str, Any]:
        """Reconstruction of held-out clips: PSNR of pictures in dB, mean distance of log10 mels before the vocoder."""
        rows = _evenly(self.rows["av", "val"], MEASURED)
        counts = {name: {split: len(self.rows[name, split]) for split in SPLITS} for name in SETS}
        if not rows:
            why = "not applicable: no held-out clip"
            reasons = {"video_psnr_db_reason": why, "audio_log_mel_error_reason": why}
            return {"video_psnr_db": None, "audio_log_mel_error": None, "measured": 0, "counts": counts, **reasons}
        self.progress.start("measuring codecs", len(rows), "clips")
        psnr, distance = [], []
        for row in rows:
            psnr.append(_psnr(self.video, pixels(self._frames(row))[None].to(self.device)))
            distance.append(_mel_distance(self.audio, torch.from_numpy(self._sound(row))[None].to(self.device)))
            self.progress.advance()
        return {
            "video_psnr_db": float(np.mean(psnr)),
            "audio_log_mel_error": float(np.mean(distance)),
            "measured": len(rows),
            "counts": counts,
        }

    @torch.no_grad()
    def _samples(self, rows: Sequence[Row], texts: dict[str, Tensor]) -> Iterator[Sample]:
        """Clips of one size through the codecs together."""
        audio = self.audio.encode(torch.from_numpy(np.stack([self._sound(row) for row in rows])).to(self.device)).cpu()
        video: Sequence[Tensor | None] = [None] * len(rows)
        if rows[0]["frames"]:
            sights = torch.stack([pixels(self._frames(row)) for row in rows]).to(self.device)
            video = list(self.video.encode(sights).cpu())
        for row, seen, heard in zip(rows, video, audio, strict=True):
            yield Sample(row["clip_id"], seen, heard, texts[row["caption"]], row["caption"])

    def _texts(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Embeddings by caption; captions of like length are encoded together, each only once."""
        captions = sorted({row["caption"] for row in rows}, key=lambda caption: (len(caption), caption))
        found: dict[str, Tensor] = {}
        for at in range(0, len(captions), TEXTS):
            part = captions[at : at + TEXTS]
            found |= {text: row.cpu() for text, row in zip(part, self.text.encode(part), strict=True)}
        return found

    def _train(self) -> list[Row]:
        return [row for name in SETS for row in self.rows[name, "train"]]

    def _frames(self, row: Row) -> NDArray[np.uint8]:
        return packed.frames(self.shards[row["set"]], row)

    def _sound(self, row: Row) -> NDArray[np.float32]:
        return packed.sound(self.shards[row["set"]], row)

    def _counted(self, arrays: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        for array in arrays:
            yield array
            self.progress.advance()


def _evenly(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` of the rows, evenly spread over them."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[place] for place in places]


def _alike(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Neighbouring rows of one size, as many as may be encoded at once."""
    group: list[Row] = []
    for row in rows:
        values = 3 * (row["frames"] or 0) * (row["width"] or 0) * (row["height"] or 0) + row["samples"]
        if group and (_size(row) != _size(group[0]) or values * (len(group) + 1) > BATCH_VALUES):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _size(row: Row) -> tuple[Any, ...]:
    return row["frames"], row["height"], row["width"], row["samples"]


def _psnr(codec: VideoCodec, video: Tensor) -> float:
    """In dB, of one clip in [-1, 1]: the peak-to-peak value is 2."""
    error = (codec.decode(codec.encode(video)) - video).square().mean()
    return float(10 * torch.log10(4 / error.clamp_min(1e-10)))


def _mel_distance(codec: AudioCodec, audio: Tensor) -> float:
    spectrogram = mel.log_mel(audio)
    rebuilt = codec.spectrogram(codec.encode(audio))
    return float((rebuilt - spectrogram[..., : rebuilt.shape[-1]]).abs().mean())

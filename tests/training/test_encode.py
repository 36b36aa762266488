from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ovi import config, storage
from ovi.curation import manifest
from ovi.errors import OviError
from ovi.models.folder import ModelFolder
from ovi.progress import Silent
from ovi.training.encode import encode
from ovi.training.latents import LatentSet, Pool, read_empty_text
from tests.training import made

SETTINGS = config.load(
    made.PARAMS,
    sets=["codec.fit_clips=4", "codec.video_channels=16", "codec.video_patch=[8,8]", "training.ranks=1"],
)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoded")
    made.clips(folder / "clips")
    encode(SETTINGS, folder / "clips", folder / "codec", folder / "latents", Silent())
    return folder


def test_every_kept_clip_becomes_a_sample(encoded: Path) -> None:
    for name in manifest.SETS:
        for split in ("train", "val"):
            rows = manifest.rows(encoded / "clips" / "manifest.parquet", name, split)
            latents = LatentSet.open(encoded / "latents", name, split)
            assert latents.ids == sorted(row["clip_id"] for row in rows)
            captions = {row["clip_id"]: row["caption"] for row in rows}
            assert all(latents.read(i).caption == captions[clip_id] for i, clip_id in enumerate(latents.ids))


def test_latents_have_the_papers_shapes_and_unit_size(encoded: Path) -> None:
    latents = LatentSet.open(encoded / "latents", "av", "train")
    samples = [latents.read(index) for index in range(len(latents))]
    assert {tuple(sample.video.shape) for sample in samples if sample.video is not None} == {
        (16, 31, 2, 2),
        (16, 31, 2, 4),
    }
    assert {tuple(sample.audio.shape) for sample in samples} == {(157, 20)}
    assert {tuple(s.text.shape) for s in samples} == {(len(samples[0].caption) + 1, SETTINGS.text.dim)}
    assert [list(sample.audio.shape) for sample in samples] == [shapes["audio"] for shapes in latents.shapes]
    sounds = LatentSet.open(encoded / "latents", "pretrain", "train")
    assert len({len(sounds.read(index).audio) for index in range(len(sounds))}) > 1
    assert sounds.read(0).video is None
    assert 0.2 < float(torch.cat([sample.audio for sample in samples]).var()) < 5


def test_codecs_are_judged_on_held_out_clips(encoded: Path) -> None:
    report = storage.read_json(encoded / "latents" / "codec.json")
    assert report["video_psnr_db"] > 15
    assert 0 < report["audio_log_mel_error"] < 0.5
    assert report["measured"] == report["counts"]["av"]["val"] == 3


def test_the_codec_folder_opens_and_gives_the_same_latents(encoded: Path) -> None:
    codec = ModelFolder.open(encoded / "codec")
    assert sorted(codec.components) == ["audio_codec", "text_encoder", "video_codec"]
    latents = LatentSet.open(encoded / "latents", "finetune", "train")
    text = codec.load("text_encoder").encode([latents.captions[0], ""])
    torch.testing.assert_close(text[0], latents.read(0).text, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text[1], read_empty_text(encoded / "latents"), atol=1e-5, rtol=1e-5)


def test_codecs_of_another_model_are_taken_as_they_are(encoded: Path, tmp_path: Path) -> None:
    taken = SETTINGS.model_copy(
        update={"codec": SETTINGS.codec.model_copy(update={"source": str(encoded / "codec"), "fit_clips": 1})}
    )
    encode(taken, encoded / "clips", tmp_path / "codec", tmp_path / "latents", Silent())
    for folder in ("codec", "latents"):
        for file in sorted((encoded / folder).rglob("*.safetensors")) + sorted((encoded / folder).rglob("*.tar")):
            assert (tmp_path / file.relative_to(encoded)).read_bytes() == file.read_bytes()
    other = taken.model_copy(update={"codec": taken.codec.model_copy(update={"audio_channels": 7})})
    with pytest.raises(OviError, match=r"codec\.source: .* its audio_codec has other sizes"):
        encode(other, encoded / "clips", tmp_path / "codec", tmp_path / "latents", Silent())


def test_codecs_see_training_clips_only(encoded: Path, tmp_path: Path) -> None:
    rows = manifest.rows(encoded / "clips" / "manifest.parquet", status=None)
    for row in rows:
        if row["split"] == "val":
            row["status"] = "rejected"
    manifest.write(tmp_path / "manifest.parquet", rows)
    (tmp_path / "shards").symlink_to(encoded / "clips" / "shards")
    report = encode(SETTINGS, tmp_path, tmp_path / "codec", tmp_path / "latents", Silent())
    for name in ("video_codec", "audio_codec"):
        file = f"{name}.safetensors"
        assert (tmp_path / "codec" / file).read_bytes() == (encoded / "codec" / file).read_bytes()
    assert report["video_psnr_db"] is None
    assert "no held-out clip" in report["video_psnr_db_reason"]
    assert len(LatentSet.open(tmp_path / "latents", "av", "val")) == 0


def test_two_runs_give_equal_bytes(encoded: Path, tmp_path: Path) -> None:
    encode(SETTINGS, encoded / "clips", tmp_path / "codec", tmp_path / "latents", Silent())
    for name in ("codec", "latents"):
        assert storage.sha256_folder(tmp_path / name) == storage.sha256_folder(encoded / name)


def test_missing_and_empty_inputs_are_one_line(encoded: Path, tmp_path: Path) -> None:
    with pytest.raises(OviError, match=r"nothing/manifest\.parquet: no such file"):
        encode(SETTINGS, tmp_path / "nothing", tmp_path / "codec", tmp_path / "latents", Silent())
    manifest.write(tmp_path / "manifest.parquet", [])
    with pytest.raises(OviError, match="no audio-video clip was kept"):
        encode(SETTINGS, tmp_path, tmp_path / "codec", tmp_path / "latents", Silent())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(OviError, match="something else"):
        encode(SETTINGS, encoded / "clips", tmp_path / "codec", tmp_path / "mine", Silent())
    with pytest.raises(OviError, match="run `ovi encode` first"):
        LatentSet.open(tmp_path, "av", "train")


def test_a_pool_reads_several_sets_as_one(encoded: Path) -> None:
    sets = [LatentSet.open(encoded / "latents", name, "train") for name in ("finetune", "av")]
    pool = Pool(sets)
    assert len(pool) == sum(map(len, sets))
    assert pool.read(len(sets[0])) is sets[1].read(0)
    assert pool.names[0].startswith("finetune/")
    assert len(set(pool.names)) == len(pool)

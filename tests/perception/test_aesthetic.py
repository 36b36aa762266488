"""The aesthetic head against the golden scores, pictures as CLIP's authors prepare them, a tiny CLIP from a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ovi.errors import OviError
from ovi.perception import aesthetic
from ovi.perception.aesthetic import Head, prepare, scores
from tests.golden import curation as golden

CASE = golden.arrays("aesthetic_mlp")


def head_state() -> dict[str, Tensor]:
    return golden.filled(Head().state_dict(), int(CASE["seed"]))


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with a whole CLIP, both towers, of random weights, and a head."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("aesthetic")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**small, "image_size": 224, "patch_size": 56, "projection_dim": 768, "hidden_act": "quick_gelu"}
    config = CLIPConfig(text_config={**small, "vocab_size": 50}, vision_config=vision, projection_dim=768)
    CLIPModel(config).save_pretrained(folder / "clip")
    torch.save(head_state(), folder / "head.pth")
    return folder / "clip", folder / "head.pth"


def frames(count: int, height: int = 90, width: int = 160) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def test_the_head_is_the_golden_one(tmp_path: Path) -> None:
    assert sorted(head_state()) == [f"layers.{at}.{kind}" for at in (0, 2, 4, 6, 7) for kind in ("bias", "weight")]
    head = Head().eval()
    head.load_state_dict(head_state())
    embeddings = torch.from_numpy(CASE["emb"])  # the last one is zero
    np.testing.assert_allclose(head(embeddings).detach(), CASE["score"][:, 0], rtol=1e-5, atol=1e-6)
    assert torch.allclose(head(7 * embeddings), head(embeddings), atol=1e-6)


def test_scores_are_those_of_clip_s_embeddings(files: tuple[Path, Path]) -> None:
    from transformers import CLIPModel

    network = aesthetic.load(*files)
    pictures = frames(3)
    pixels = torch.stack([prepare(picture) for picture in pictures])
    embeddings = CLIPModel.from_pretrained(files[0]).get_image_features(pixel_values=pixels)
    embeddings = getattr(embeddings, "pooler_output", embeddings).detach()
    head = Head().eval()
    head.load_state_dict(head_state())
    want = head.layers(embeddings / embeddings.norm(dim=1, keepdim=True))[:, 0].detach()
    np.testing.assert_allclose(scores(network, pictures), want, rtol=1e-5, atol=1e-6)
    assert len(set(scores(network, pictures))) == 3


def test_the_batch_does_not_matter(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    network = aesthetic.load(*files)
    whole = scores(network, frames(5))
    monkeypatch.setattr(aesthetic, "BATCH", 2)
    np.testing.assert_allclose(scores(network, frames(5)), whole, rtol=1e-5, atol=1e-6)
    assert scores(network, frames(0)).shape == (0,)


@pytest.mark.parametrize(
    ("size", "reduced", "corner"),
    [
        ((300, 227), (296, 224), (36, 0)),
        ((225, 500), (224, 497), (0, 136)),  # 136.5 goes to the even side, as in the original
        ((224, 227), (224, 227), (0, 2)),  # 1.5 as well
        ((100, 60), (373, 224), (74, 0)),
    ],
)
def test_pictures_are_prepared_as_clip_s_authors_do(
    size: tuple[int, int], reduced: tuple[int, int], corner: tuple[int, int]
) -> None:
    picture = frames(1, *size)[0]
    small = np.asarray(Image.fromarray(picture).resize(reduced[::-1], Image.Resampling.BICUBIC), np.float32)
    square = small[corner[0] : corner[0] + 224, corner[1] : corner[1] + 224] / 255
    mean, spread = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    np.testing.assert_allclose(prepare(picture).permute(1, 2, 0), (square - mean) / spread, atol=1e-6)


def test_preparation_is_that_of_transformers_where_no_half_pixel_is_in_the_way() -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    picture = frames(1, 180, 320)[0]
    theirs = CLIPImageProcessorPil()(Image.fromarray(picture), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(prepare(picture), theirs, rtol=0, atol=1e-6)


def test_what_is_no_clip(files: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig

    with pytest.raises(OviError, match=r"no config\.json"):
        aesthetic.load(tmp_path, files[1])
    CLIPVisionConfig().save_pretrained(tmp_path)
    with pytest.raises(OviError, match="CLIP cannot be loaded") as caught:
        aesthetic.load(tmp_path, files[1])
    assert "\n" not in str(caught.value)


def test_a_clip_with_missing_tensors(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Nothing is drawn at random in place of what a file lacks."""
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((files[0] / "config.json").read_bytes())
    state = load_file(files[0] / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OviError, match=r"1 missing \(first visual_projection.weight\)"):
        aesthetic.load(tmp_path, files[1])


def test_another_clip(tmp_path: Path, files: tuple[Path, Path]) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPVisionConfig(**small, image_size=224, projection_dim=512)
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    with pytest.raises(OviError, match="224 pixels and 512 values"):
        aesthetic.load(tmp_path, files[1])

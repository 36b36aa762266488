from __future__ import annotations

from pathlib import Path

import numpy as np

from ovi import config
from ovi.evaluation import samples
from ovi.evaluation.samples import Row
from ovi.models.codecs import model_config
from tests.evaluation import made


def rows(*scenes: str | None) -> list[Row]:
    return [{"clip_id": f"{k:02d}", "scene": scene, "caption": f"caption {k}"} for k, scene in enumerate(scenes)]


def chosen(clips: int, show: int, scenes: str = "[blink]", seed: int = 0) -> config.Settings:
    words = [
        f"evaluation.clips_per_scene={clips}",
        f"evaluation.show={show}",
        f"evaluation.scenes={scenes}",
        f"seed={seed}",
    ]
    return config.load(made.ROOT / "params.yaml", sets=words)


def test_prompts_come_from_test_then_validation_and_never_from_training(tmp_path: Path) -> None:
    splits = ["val", "train", "test", "test", "val"]
    made.clips(tmp_path, [("blink", split) for split in splits])
    found = samples.held_out(tmp_path)
    assert [row["split"] for row in found] == ["test", "test", "val", "val"]
    assert all(row["status"] == "kept" for row in found)


def test_scored_scenes_get_their_number_and_others_are_shown_in_turn() -> None:
    asked = samples.prompts(rows("blink", "bounce", "blink", "slide"), chosen(5, 4))
    assert [prompt.caption for prompt in asked if prompt.scene == "blink"] == [f"caption {k}" for k in (0, 2, 0, 2, 0)]
    assert [(p.scene, p.index) for p in asked if p.scene != "blink"] == [("bounce", 0), ("slide", 0)]
    places = samples.shown(asked, 4)
    assert [(asked[k].scene, asked[k].index) for k in places] == [
        ("blink", 0),
        ("blink", 1),
        ("bounce", 0),
        ("slide", 0),
    ]


def test_every_scene_is_shown_even_when_there_are_more_than_places() -> None:
    asked = samples.prompts(rows("a", "b", "c", None), chosen(5, 2))
    assert {asked[k].scene for k in samples.shown(asked, 2)} == {"a", "b", "c", None}
    assert samples.shown([], 2) == samples.prompts([], chosen(5, 2)) == []


def test_seeds_are_fresh_and_keyed_by_what_they_are_for() -> None:
    one = samples.prompts(rows("blink"), chosen(30, 1))
    assert len({prompt.seed for prompt in one}) == 30
    more = samples.prompts(rows("blink", "bounce", "slide"), chosen(40, 9))
    assert [p for p in more if p.scene == "blink"][:30] == one
    assert {prompt.seed for prompt in samples.prompts(rows("blink"), chosen(30, 1, seed=1))}.isdisjoint(
        {p.seed for p in one}
    )


def test_batches_hold_all_of_a_tiny_run_and_one_clip_of_the_paper_model() -> None:
    settings = config.load(made.ROOT / "params.yaml")
    assert samples.batch_size(model_config(settings)) >= 64
    sets = ["model.dim=3072", "model.heads=24", "curation.target_pixels=518400", "curation.side_multiple=32",
            "codec.video_patch=[16,16]"]  # fmt: skip
    paper = config.load(made.ROOT / "params.yaml", sets=sets)
    assert samples.batch_size(model_config(paper)) == 1


def test_real_clips_come_back_as_packed(tmp_path: Path) -> None:
    scenes = made.clips(tmp_path, [("blink", "test"), ("bounce", "test")])
    found = samples.held_out(tmp_path)
    by_caption = {scene.caption: scene for scene in scenes}
    for row, (frames, audio) in zip(found, samples.real_clips(tmp_path, found), strict=True):
        scene = by_caption[row["caption"]]
        assert np.array_equal(frames, scene.frames)
        assert np.abs(audio - scene.audio).max() < 1e-4

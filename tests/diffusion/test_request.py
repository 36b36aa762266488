"""Requests: every way to be wrong is one line that names the field."""

import cv2
import numpy as np
import pytest

from ovi.config import Sampling
from ovi.diffusion.request import Request, fit_image, read_image
from ovi.errors import OviError

GOOD = "A man says <S>hello there<E> and waves. <AUDCAP>A calm voice, wind.<ENDAUDCAP>"


def test_prompts_are_looked_at():
    assert Request(GOOD).prompt == GOOD
    with pytest.raises(OviError, match=r"^prompt: <S> is not closed; add <E>$"):
        Request("A man says <S>hello")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 201),
        ("steps", 2.5),
        ("steps", True),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", "7"),
        ("shift", 0.0),
        ("shift", float("nan")),
        ("solver", "ddim"),
        ("guidance_video", -0.1),
        ("guidance_audio", float("inf")),
        ("guidance_audio", None),
        ("skip_layer", -2),
        ("negative_video", "x" * 4001),
    ],
)
def test_bad_fields(field, value):
    with pytest.raises(OviError, match=f"^{field}: ") as caught:
        Request(GOOD, **{field: value})
    assert "\n" not in str(caught.value)


def test_of_takes_the_settings_and_changes_some():
    request = Request.of(Sampling(steps=7, guidance_video=2.0), GOOD, seed=3, steps=9)
    assert (request.steps, request.seed, request.guidance_video, request.guidance_audio) == (9, 3, 2.0, 3.0)
    assert request.batch_key == Request.of(Sampling(steps=9, guidance_video=2.0), "Another.", seed=4).batch_key
    assert request.batch_key != Request.of(Sampling(steps=7), GOOD).batch_key


def test_an_image_is_cut_about_its_middle_and_resized(tmp_path):
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, :30], picture[:, 70:] = (255, 0, 0), (0, 255, 0)
    cv2.imwrite(str(tmp_path / "a.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    for image in (picture, tmp_path / "a.png", str(tmp_path / "a.png")):
        got = fit_image(read_image(image), 16, 16)
        assert got.shape == (16, 16, 3)
        assert not got.any()  # the coloured sides are cut off
    assert tuple(fit_image(read_image(picture), 8, 20)[4, 1]) == (
        255,
        0,
        0,
    )  # RGB, and the whole width when the aspect fits
    assert fit_image(picture[:1, :1], 32, 16).shape == (32, 16, 3)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("nowhere.png", "No such file"),
        (np.zeros((4, 4), np.uint8), "must be uint8"),
        (np.zeros((4, 4, 3), np.float32), "must be uint8"),
        (np.zeros((0, 4, 3), np.uint8), "must be uint8"),
    ],
)
def test_bad_images(image, words):
    with pytest.raises(OviError, match=f"^image: .*{words}"):
        fit_image(read_image(image), 16, 16)


def test_a_file_that_is_no_picture(tmp_path):
    for content in (b"", b"not a picture"):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(OviError, match=r"^image: .*not a picture"):
            read_image(tmp_path / "a.png")

"""Picture sizes: the release's tables, and what holds for every size."""

import cv2
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovi.diffusion.sizes import from_ratio, image_size, preprocess_image, scale_to_area, snap
from ovi.errors import OviError
from tests import golden

TABLE = golden.table("text_and_resolution")
AREAS = st.sampled_from([518400, 921600])


@st.composite
def pictures(draw):
    """(height, width) of up to 1:3, either way round."""
    short = draw(st.integers(16, 3000))
    sides = short, draw(st.integers(short, 3 * short))
    return sides if draw(st.booleans()) else sides[::-1]


def test_snap():
    for row in TABLE["snap_hw"]:
        assert list(snap(row["h"], row["w"], row["area"])) == row["out"]


def test_image_size():
    for row in TABLE["preprocess_image_hw"]:
        assert list(image_size(row["h"], row["w"], row["area"])) == row["out_hw"]


def test_from_ratio():
    for row in TABLE["calc_dims_from_area"]:
        assert list(from_ratio(row["ratio"], row["area"])) == row["out"]
    assert from_ratio("99999:1", 1024) == (10112, 32)


def test_scale_to_area():
    for row in TABLE["scale_hw_div16_area1M"]:
        assert list(scale_to_area(row["h"], row["w"], 1024**2, 16)) == row["out"]


def test_halves_go_to_the_even_neighbour():
    assert snap(720, 720, 720 * 720) == (704, 704)  # 22.5
    assert snap(752, 752, 752 * 752) == (768, 768)  # 23.5
    assert scale_to_area(40, 24, 960, 16) == (32, 32)  # 2.5 and 1.5


@given(pictures(), AREAS)
def test_snapped_sizes(sides, area):
    height, width = snap(*sides, area)
    assert height % 32 == width % 32 == 0
    assert height * width == pytest.approx(area, rel=0.06)
    assert snap(*sides[::-1], area) == (width, height)


@given(pictures(), AREAS)
def test_image_sizes(sides, area):
    height, width = image_size(*sides, area)
    assert height % 32 == width % 32 == 0
    assert height * width == pytest.approx(area, rel=0.06)
    direct = scale_to_area(*sides, area, 32)
    assert abs(height * width - area) <= abs(direct[0] * direct[1] - area)


@given(st.integers(1, 100), st.integers(1, 100), AREAS)
def test_sizes_of_ratios(high, wide, area):
    height, width = from_ratio(f"{high}:{wide}", area)
    assert height % 32 == width % 32 == 0
    assert min(height, width) == 32 or height * width <= area
    assert from_ratio(f"{3 * wide}:{3 * high}", area) == (width, height)


@given(st.integers(1, 10**5), st.integers(1, 10**5), st.integers(1, 10**7))
def test_any_size_has_sides(height, width, area):
    for sides in (snap(height, width, area), image_size(height, width, area)):
        assert min(sides) >= 32
        assert all(side % 32 == 0 for side in sides)


@pytest.mark.parametrize("sides", [(0, 5), (5, -1), (0, 0)])
def test_no_size(sides):
    for rule in (snap, image_size):
        with pytest.raises(OviError, match=f"^size: {sides[0]}x{sides[1]} at an area of 1024 pixels; "):
            rule(*sides, 1024)


@pytest.mark.parametrize(
    "ratio", ["", "16", "16:", "0:9", "-1:9", "1.5:1", "1:2:3", " 1:2", "1:2\n", "１:２", "9" * 9 + ":1"]
)
def test_no_ratio(ratio):
    with pytest.raises(OviError, match=r"^ratio: .* is not height:width") as caught:
        from_ratio(ratio, 1024)
    assert "\n" not in str(caught.value)


def test_preprocess_image():
    picture = cv2.cvtColor(cv2.imread(str(golden.FOLDER / "e2e_first_frame.png")), cv2.COLOR_BGR2RGB)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255 * 2 - 1
    got = preprocess_image(image, golden.config("image_preprocess")["target_area"])
    golden.check("image_preprocess", got, golden.tensors("image_preprocess")["out/image"])


def test_preprocess_image_keeps_what_it_can():
    """Overshoot, the dtype, and a picture that has its size already."""
    image = torch.ones(1, 3, 64, 64, dtype=torch.bfloat16)
    image[..., 32:] = -1
    got = preprocess_image(image, 128 * 128)
    assert got.shape == (1, 3, 128, 128)
    assert got.dtype == torch.bfloat16
    assert got.max() > 1
    assert torch.equal(preprocess_image(image, 64 * 64), image)

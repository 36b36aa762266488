from __future__ import annotations

import xml.etree.ElementTree as tree

import numpy as np
import pytest

from ovi.evaluation import figures
from ovi.evaluation.figures import Bar, Line, Row

SVG = "{http://www.w3.org/2000/svg}"


def drawn(text: str) -> tree.Element:
    return tree.fromstring(text)


def test_lines_pass_through_their_points_and_mark_their_ends() -> None:
    plot = drawn(figures.lines([Line("video", [(0, 2.0), (50, 1.5), (100, 1.0)])], "step"))
    points = [tuple(map(float, pair.split(","))) for pair in plot.find(f"{SVG}polyline").get("points").split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.1)
    assert points[0][1] < points[1][1] < points[2][1]  # a falling loss falls on the page
    ends = [(float(c.get("cx")), float(c.get("cy"))) for c in plot.iter(f"{SVG}circle")]
    assert ends == [points[0], points[-1]]


def test_bars_are_as_long_as_their_values() -> None:
    plot = drawn(figures.bars([Bar("own <partner>", "video", 0.5), Bar("shuffled", "plain", 1.0)]))
    short, long = (float(bar.get("width")) for bar in plot.iter(f"{SVG}rect"))
    assert short == pytest.approx(long / 2, rel=0.01)
    assert "own <partner>" in [text.text for text in plot.iter(f"{SVG}text")]


def test_few_values_are_dots_and_many_a_histogram() -> None:
    rng = np.random.default_rng(0)
    plot = drawn(
        figures.dots(
            [Row("own", "video", list(rng.normal(1, 0.1, 24))), Row("other", "plain", list(rng.normal(0, 0.2, 552)))],
            "score",
        )
    )
    assert len(list(plot.iter(f"{SVG}circle"))) == 24
    assert len(list(plot.iter(f"{SVG}rect"))) > 5
    assert all(0 <= float(circle.get("cx")) <= figures.WIDE for circle in plot.iter(f"{SVG}circle"))


def test_interval_lies_around_its_value() -> None:
    plot = drawn(figures.interval(0.9, 0.8, 0.95, {"chance": 0.5}, "video"))
    middle = float(plot.find(f"{SVG}circle").get("cx"))
    span = next(path for path in plot.iter(f"{SVG}path") if "span" in path.get("class")).get("d")
    low, high = float(span[1:].split()[0]), float(span.split("H")[1])
    assert low < middle < high
    assert (high - low) / figures.WIDE == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.61, 1.83), (-1e-4, 3e-4), (0, 40000), (-0.95, -0.9)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = figures.ticks(low, high, 5)
    assert 2 <= len(found) <= 8
    assert low <= found[0] < found[-1] <= high
    assert all(len(f"{abs(tick):.12g}".replace(".", "").strip("0")) <= 3 for tick in found)


def test_a_flat_curve_and_equal_values_still_have_a_plot() -> None:
    drawn(figures.lines([Line("audio", [(5, 0.0), (5, 0.0)])], "step"))
    drawn(figures.dots([Row("all the same", "video", [0.3, 0.3])], "score"))
    drawn(figures.bars([Bar("nothing", "video", 0.0)]))


def test_envelope_holds_every_peak() -> None:
    audio = np.zeros(16000, np.float32)
    audio[777], audio[12345] = 0.9, -3.0
    low, high = figures.envelope(audio, 100)
    assert high.max() == pytest.approx(0.9)
    assert low.min() == -1.0  # clipped
    assert low.shape == high.shape == (100,)


def test_numbers_are_written_for_people() -> None:
    assert [figures.number(value) for value in (0.61803, -3, 40000, 0.0001)] == ["0.618", "−3", "40,000", "0.0001"]
    assert [figures.fixed(value) for value in (1.7, -0.9, 24, 40000)] == ["1.70", "−0.900", "24.0", "40,000"]

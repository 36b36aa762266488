"""Histograms: every value is in a bar, thresholds are where they belong."""

from __future__ import annotations

import re

import pytest

from ovi.curation.histogram import TALL, WIDE, histogram


def bars(svg: str, kind: str) -> list[tuple[float, float]]:
    """(x, height) of the bars of one group."""
    found = re.findall(rf'<rect class="{kind}" x="([\d.]+)" y="[-\d.]+" width="[\d.]+" height="([\d.]+)"', svg)
    return [(float(x), float(height)) for x, height in found]


def test_values_are_in_their_bars() -> None:
    svg = histogram([0.0] * 10 + [1.0] * 5, [1.0] * 5, [], "dB")
    assert [height for _, height in bars(svg, "kept")] == pytest.approx([TALL, TALL / 2], abs=0.1)
    assert [height for _, height in bars(svg, "out")] == pytest.approx([TALL / 2], abs=0.1)
    assert "tallest bar 10" in svg
    assert "dB" in svg


def test_thresholds_are_on_the_axis_wherever_the_values_are() -> None:
    svg = histogram([-20.0, -10.0], [-90.0], [-60.0], "dB")
    (x,) = re.findall(r'<line class="limit" x1="([\d.]+)"', svg)
    low, high = -90 - 0.04 * 80, -10 + 0.04 * 80
    assert float(x) == pytest.approx((-60 - low) / (high - low) * WIDE, abs=2)
    assert 0 <= float(histogram([5.0], [], [0.0], "").split('class="limit" x1="')[1].split('"')[0]) <= WIDE


def test_the_largest_hundredth_is_in_the_last_bar() -> None:
    svg = histogram([*([0.5] * 500), 1000.0], [], [0.1], "")
    assert max(x for x, _ in bars(svg, "kept")) > WIDE * 0.9
    assert min(x for x, _ in bars(svg, "kept")) > WIDE * 0.5


def test_no_values_make_an_empty_picture() -> None:
    assert bars(histogram([], [], [1.0], ""), "kept") == []

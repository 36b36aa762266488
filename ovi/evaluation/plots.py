"""The paper's figures as PNG: affinity matrices (Fig. 2), where sound looks (Fig. 3), win rates (Fig. 4).

It draws what it is given and computes nothing. Equal input gives equal bytes.
Try it: `ovi evaluate --figures`, then look into out/evaluation/figures.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ovi.evaluation.gaze import Gaze

Array = NDArray[np.float64]
SHOWN = 6  # frames of a clip
DPI = 150
BRIGHT = 4  # times what attention everywhere alike would be: shown as brightest at least


@dataclass(frozen=True)
class WinRate:
    """How often the first of two models was preferred, ties one half, with its 95 % interval."""

    models: str  # e.g. ovi over javisdit
    question: str
    rate: float
    low: float
    high: float


def affinities(pairs: Mapping[str, tuple[Array, float]]) -> bytes:
    """Figure 2: by title, a matrix [latents, frames] and its ridge correlation, side by side."""
    figure, panels = _figure(3.4 * len(pairs) + 0.8, 4.2, 1, len(pairs))
    for panel, (title, (affinity, correlation)) in zip(panels[0], pairs.items(), strict=True):
        image = panel.imshow(affinity, aspect="auto", origin="lower", cmap="viridis", vmin=-1, vmax=1)
        ridge = affinity.argmax(axis=1)
        panel.plot(ridge, np.arange(len(ridge)), ".", color="#ff5a36", markersize=2.2)
        panel.set_title(f"{title}\nridge correlation {correlation:.4f}", fontsize=10)
        panel.set_xlabel("latent frame")
    panels[0][0].set_ylabel("sound latent")
    figure.colorbar(image, ax=list(panels[0]), label="mean cosine", fraction=0.05)
    return _png(figure)


def gazes(looks: Sequence[Gaze]) -> bytes:
    """Figure 3: a clip a row, frames from first to last under the heat of attention, the source outlined."""
    figure, panels = _figure(1.7 * SHOWN, 1.95 * len(looks), len(looks), SHOWN)
    for row, one in zip(panels, looks, strict=True):
        size = one.scene.frames.shape[1:3]
        for panel, at in zip(row, np.linspace(0, len(one.heat) - 1, SHOWN).round().astype(int), strict=True):
            frame = round(at * (len(one.scene.frames) - 1) / max(len(one.heat) - 1, 1))
            panel.imshow(one.scene.frames[frame])
            heat = cv2.resize(one.heat[at], size[::-1], interpolation=cv2.INTER_LINEAR)
            panel.imshow(heat, cmap="inferno", alpha=0.55, vmin=0, vmax=max(one.heat.max(), BRIGHT / one.heat[0].size))
            y0, x0, y1, x1 = one.scene.box[frame] - 0.5  # a pixel's middle is a whole number here
            panel.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="#39d353", linewidth=1)
            panel.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5), xticks=[], yticks=[])
        row[0].set_ylabel(one.scene.name, fontsize=10)
        row[0].set_title(f"inside {one.inside:.2f}, area {one.area:.2f}", fontsize=9, loc="left")
    return _png(figure)


def win_rates(rows: Sequence[WinRate]) -> bytes:
    """Figure 4: bars by question, grouped by models, with intervals and the line of no preference."""
    together, questions = (list(dict.fromkeys(getattr(row, of) for row in rows)) for of in ("models", "question"))
    figure, panels = _figure(1.6 * len(together) * len(questions) / 2 + 2.4, 3.6, 1, 1)
    panel, wide = panels[0][0], 0.8 / len(questions)
    for at, question in enumerate(questions):
        mine = {row.models: row for row in rows if row.question == question}
        there = [(place, mine[name]) for place, name in enumerate(together) if name in mine]
        x = [place + (at - (len(questions) - 1) / 2) * wide for place, _ in there]
        rates = [row.rate for _, row in there]
        ends = [[row.rate - row.low for _, row in there], [row.high - row.rate for _, row in there]]
        colour = ("#2f6fb3", "#c2571a", "#2c7a4b", "#7a5ab5")[at % 4]
        panel.bar(x, rates, wide * 0.9, label=question, color=colour, yerr=ends, capsize=3, ecolor="#444444")
        for place, rate in zip(x, rates, strict=True):
            panel.text(place, 0.02, f"{rate:.0%}", ha="center", color="white", fontsize=9)
    panel.axhline(0.5, color="#444444", linewidth=1, linestyle="--")
    panel.set(ylim=(0, 1), ylabel="win rate, ties one half", xticks=range(len(together)))
    panel.set_xticklabels(together)
    panel.legend(frameon=False, ncols=len(questions), loc="upper center", bbox_to_anchor=(0.5, 1.14), fontsize=9)
    return _png(figure)


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Any, Any]:
    """An empty figure and its panels [rows, columns], without pyplot's memory of all that was ever drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second to import, and few draw
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()

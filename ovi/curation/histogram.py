"""A histogram of two groups of values as inline SVG, with thresholds drawn in. It knows numbers only."""

from __future__ import annotations

import numpy as np

BINS, WIDE, TALL, FOOT = 44, 460, 130, 26


def histogram(kept: list[float], out: list[float], limits: list[float], unit: str) -> str:
    """Stacked counts of both groups; dashed lines at `limits`. The largest hundredth may lie in the last bar."""
    low, high = _range(np.array([*kept, *out], np.float64), limits)
    edges = np.linspace(low, high, BINS + 1)
    counts = [np.histogram(np.clip(group, low, high), edges)[0] for group in (kept, out)]
    tallest = max(1, int((counts[0] + counts[1]).max()))
    scale = TALL / tallest
    parts = [f'<line class="base" x1="0" x2="{WIDE}" y1="{TALL}" y2="{TALL}"/>']
    parts.append(f'<text x="{WIDE}" y="-20" text-anchor="end">tallest bar {tallest}</text>')
    for at in range(BINS):
        base = float(TALL)
        for name, n in (("kept", counts[0][at]), ("out", counts[1][at])):
            tall = max(1.5, n * scale) if n else 0.0
            base -= tall
            if n:
                parts.append(_bar(name, at * WIDE / BINS, base, tall))
    parts += [_limit(limit, (limit - low) / (high - low) * WIDE) for limit in limits]
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        label = f"{low + share * (high - low):.3g} {unit if share == 1 else ''}".strip()
        parts.append(f'<text x="{share * WIDE:.0f}" y="{TALL + 16}" text-anchor="{anchor}">{label}</text>')
    return f'<svg viewBox="0 -30 {WIDE} {TALL + FOOT + 26}" role="img">{"".join(parts)}</svg>'


def _bar(name: str, x: float, y: float, tall: float) -> str:
    return f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{WIDE / BINS - 1:.1f}" height="{tall:.1f}"/>'


def _limit(limit: float, x: float) -> str:
    left = x > WIDE - 60
    place = f'x="{x - 5 if left else x + 5:.1f}" y="-5" text-anchor="{"end" if left else "start"}"'
    line = f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="-14" y2="{TALL}"/>'
    return f'{line}<text class="limit" {place}>{limit:g}</text>'


def _range(values: np.ndarray, limits: list[float]) -> tuple[float, float]:
    """An axis that holds the limits and all values but the largest hundredth."""
    ends = [*limits, *([float(values.min()), float(np.percentile(values, 99))] if len(values) else [])]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    margin = 0.04 * (high - low) or 0.5
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin

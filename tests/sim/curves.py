"""Curves as SVG, for docs/: one line a name, the y axis logarithmic.  No library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 400, 60, 40, 170, 50
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5ea2", "#b8860b", "#555555", "#00838f", "#ad1457")


def draw(
    title: str,
    x_name: str,
    y_name: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    limits: Mapping[str, float] | None = None,
) -> str:
    """The picture as text.  limits: horizontal lines, by what they are called."""
    points = [point for curve in curves.values() for point in curve]
    values = [y for _, y in points] + list((limits or {}).values())
    most_x = max(x for x, _ in points)
    low, high = math.log10(min(values) * 0.9), math.log10(max(values) * 1.1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (WIDTH - LEFT - RIGHT) * x / most_x
        up = (HEIGHT - TOP - BOTTOM) * (math.log10(y) - low) / (high - low)
        return LEFT + across, HEIGHT - BOTTOM - up

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{title}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 12}">{x_name}</text>',
        f'<text transform="translate(16 {HEIGHT / 2:.0f}) rotate(-90)">{y_name}</text>',
    ]
    ticks = [10.0**e * m for e in range(-4, 3) for m in (1, 2, 5)]
    for tick in (t for t in ticks if low <= math.log10(t) <= high):
        x, y = at(0, tick)
        out.append(f'<path d="M{x} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for part in range(6):
        x, y = at(most_x * part / 5, 10**low)
        out.append(
            f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{most_x * part / 5:g}</text>'
        )
    for name, value in (limits or {}).items():
        x, y = at(0, value)
        out.append(f'<path d="M{x} {y:.1f}H{WIDTH - RIGHT}" stroke="#888" stroke-dasharray="4 3"/>')
        out.append(f'<text x="{WIDTH - RIGHT + 6}" y="{y + 4:.1f}" fill="#888">{name}</text>')
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in curve))
        out.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        row = TOP + 16 * index
        out.append(f'<text x="{WIDTH - RIGHT + 6}" y="{row}" fill="{colour}">{name}</text>')
    return "\n".join([*out, "</svg>", ""])

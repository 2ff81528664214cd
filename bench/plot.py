"""Charts as SVG, drawn without a library: one row a figure, its rounds as dots, its target as a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from msgspec import Struct

WIDTH, ROW, LEFT, RIGHT, TOP = 880, 34, 330, 170, 54
GOOD, MISSED, INK, PALE = "#1a7f4b", "#b3541e", "#24292f", "#d0d7de"


class Bar(Struct, frozen=True):
    """One figure: its rounds, the bound it is held against (None: none), and whether more is better."""

    name: str
    unit: str
    values: tuple[float, ...]
    target: float | None = None
    more_is_better: bool = True

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        ordered = sorted(self.values)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

    @property
    def reached(self) -> bool | None:
        """Whether the median keeps the bound; None without one."""
        if self.target is None:
            return None
        return self.median >= self.target if self.more_is_better else self.median <= self.target


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if value >= 1000:
        digits = 2 - math.floor(math.log10(value))
        return f"{round(value, min(digits, 0)):,.0f}"
    return f"{value:.3g}"


def chart(title: str, bars: Sequence[Bar]) -> str:
    """The chart: each row has a scale of its own, from nought to a little beyond what stands in it."""
    height = TOP + ROW * len(bars) + 16
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}">'
        ),
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="16" y="24" font-size="15" font-weight="600">{escape(title)}</text>',
        (
            f'<text x="16" y="42" fill="#57606a">bar: median · dots: rounds · line: target · '
            f'<tspan fill="{GOOD}">kept</tspan> · <tspan fill="{MISSED}">missed</tspan></text>'
        ),
    ]
    for row, bar in enumerate(bars):
        parts += _row(bar, TOP + ROW * row)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _row(bar: Bar, y: int) -> list[str]:
    room = WIDTH - LEFT - RIGHT
    most = max(*bar.values, bar.target or 0.0, 1e-9) * 1.08
    colour = {True: GOOD, False: MISSED, None: "#57606a"}[bar.reached]
    middle = y + ROW / 2

    def x(value: float) -> float:
        return round(LEFT + room * value / most, 1)

    parts = [
        f'<text x="{LEFT - 10}" y="{middle + 4}" text-anchor="end">{escape(bar.name)}</text>',
        f'<rect x="{LEFT}" y="{y + 9}" width="{room}" height="{ROW - 18}" fill="#f6f8fa"/>',
        (
            f'<rect x="{LEFT}" y="{y + 9}" width="{round(x(bar.median) - LEFT, 1)}" height="{ROW - 18}" '
            f'fill="{colour}" fill-opacity="0.75"/>'
        ),
        *(f'<circle cx="{x(value)}" cy="{middle}" r="2.6" fill="{INK}"/>' for value in bar.values),
    ]
    if bar.target is not None:
        parts.append(
            f'<line x1="{x(bar.target)}" x2="{x(bar.target)}" y1="{y + 4}" y2="{y + ROW - 4}" '
            f'stroke="{INK}" stroke-width="1.6" stroke-dasharray="3 2"/>'
        )
    parts.append(
        f'<text x="{WIDTH - RIGHT + 10}" y="{middle + 4}" font-weight="600">{number(bar.median)} '
        f'<tspan font-weight="400" fill="#57606a">{escape(bar.unit)}</tspan></text>'
    )
    return parts

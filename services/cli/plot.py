"""A column chart of characters: one column a bucket, eight steps a line, its scale at the left."""

from __future__ import annotations

from collections.abc import Sequence

_STEPS = " ▁▂▃▄▅▆▇█"
_FULL = len(_STEPS) - 1


def columns(values: Sequence[int], *, width: int, height: int = 8) -> tuple[list[str], int]:
    """The lines of the chart, top first, at most `width` columns wide, and how many values a column sums."""
    each = max(1, -(-len(values) // max(1, width)))
    sums = [sum(values[at : at + each]) for at in range(0, len(values), each)]
    most = max(sums, default=0)
    # whatever there is shows: one step at least
    steps = [-(-value * height * _FULL // most) if most else 0 for value in sums]
    scale = [f"{most:,}", *[""] * (height - 2), "0"]
    room = max(map(len, scale))
    lines = [
        f"{label:>{room}} ┤"
        + "".join(_STEPS[min(_FULL, max(0, step - (height - 1 - row) * _FULL))] for step in steps)
        for row, label in enumerate(scale)
    ]
    return lines, each

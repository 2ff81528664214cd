"""What a benchmark prints and keeps of its figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.plot import Bar, number


def figure(bar: Bar) -> dict[str, Any]:
    """A figure as it is kept."""
    return {
        "median": round(bar.median, 3),
        "unit": bar.unit,
        "min": round(min(bar.values), 3),
        "max": round(max(bar.values), 3),
        "rounds": [round(value, 3) for value in bar.values],
        "target": bar.target,
        "reached": bar.reached,
    }


def printed(bars: Sequence[Bar], facts: dict[str, Any]) -> None:
    """Print them as a table, and what there is to know beside."""
    print(f"{'':44}{'median':>10}  {'min – max':22}{'target':>12}")
    for bar in bars:
        span = f"{number(min(bar.values))} – {number(max(bar.values))}"
        sign = "≥" if bar.more_is_better else "≤"
        target = "" if bar.target is None else f"{sign} {number(bar.target)}"
        word = {True: "kept", False: "MISSED", None: ""}[bar.reached]
        print(f"{bar.name:44}{number(bar.median):>10}  {span:22}{target:>12}  {bar.unit:9}{word}")
    for name, value in facts.items():
        print(f"{name}: {value}")

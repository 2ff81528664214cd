"""A benchmark's figures, printed with their targets and written beside a chart."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.plot import Bar, chart, number

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """What the figures were measured on."""
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def report(name: str, bars: Sequence[Bar], facts: Mapping[str, Any]) -> None:
    """Print the medians, and write `<name>.json` and `<name>.svg` into `bench/results`."""
    print(f"{'':40}{'median':>10}  {'min – max':22}{'target':>12}")
    for bar in bars:
        span = f"{number(min(bar.values))} – {number(max(bar.values))}"
        sign = "≥" if bar.more_is_better else "≤"
        target = "" if bar.target is None else f"{sign} {number(bar.target)}"
        word = {True: "kept", False: "MISSED", None: ""}[bar.reached]
        print(f"{bar.name:40}{number(bar.median):>10}  {span:22}{target:>12}  {bar.unit:9}{word}")
    for fact, value in facts.items():
        print(f"{fact}: {value}")
    RESULTS.mkdir(exist_ok=True)
    figures = {bar.name: _figure(bar) for bar in bars}
    (RESULTS / f"{name}.json").write_text(json.dumps({**facts, "figures": figures}, indent=2) + "\n")
    (RESULTS / f"{name}.svg").write_text(chart(f"The {name}, measured by bench/{name}.py", bars))


def _figure(bar: Bar) -> dict[str, Any]:
    return {
        "median": round(bar.median, 3),
        "unit": bar.unit,
        "min": round(min(bar.values), 3),
        "max": round(max(bar.values), 3),
        "rounds": [round(value, 3) for value in bar.values],
        "target": bar.target,
        "reached": bar.reached,
    }

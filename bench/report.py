"""A benchmark's figures, printed with their targets and written beside a chart."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import figure, printed
from bench.plot import Bar, chart

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """What the figures were measured on."""
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def report(name: str, bars: Sequence[Bar], facts: Mapping[str, Any]) -> None:
    """Print the medians, and write `<name>.json` and `<name>.svg` into `bench/results`."""
    printed(bars, facts)
    RESULTS.mkdir(exist_ok=True)
    figures = {bar.name: figure(bar) for bar in bars}
    (RESULTS / f"{name}.json").write_text(json.dumps({**facts, "figures": figures}, indent=2) + "\n")
    (RESULTS / f"{name}.svg").write_text(chart(f"The {name}, measured by bench/{name}.py", bars))

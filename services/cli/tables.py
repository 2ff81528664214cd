"""What commands print: tables with numbers to the right, plots over time, and JSON for programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from services.cli.plot import columns

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON, for programs.")]

MARGIN = 16
"""Columns of the terminal that are left to a plot's scale."""
MOST_BUCKETS = 100_000
FULL = 1_000_000
"""More columns than any table has."""


def print_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: int = 1,
    wraps: Collection[str] = (),
    console: Console | None = None,
) -> None:
    """A table; the first `text` columns are words, the others numbers.

    On a terminal that is too narrow the columns in `wraps` become narrower, and no other: an id that is cut
    can be neither copied nor searched for. Elsewhere every row is one line.
    """
    from rich import box  # noqa: PLC0415 - 0.1 s that only tables need
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(head):
        justify = "left" if number < text else "right"
        table.add_column(name, justify=justify, no_wrap=name not in wraps, overflow="fold")
    for row in rows:
        # as text: a name in brackets is no markup
        table.add_row(*map(Text, row))
    console = console or Console(highlight=False)
    wanted = console.measure(table, options=console.options.update(width=FULL))
    console.width = max(console.width, wanted.minimum if console.is_terminal else wanted.maximum)
    console.print(table)


def print_plot(counts: Mapping[int, int], seconds: int, title: str, *, start: int, end: int) -> None:
    """Counts by the unix second that their bucket of so many seconds starts at, from `start` to `end`.

    What lies outside, as another clock may see it, widens the plot.
    """
    first, last = min(start, *counts), max(end - 1, *counts)
    while (last - first) // seconds >= MOST_BUCKETS:
        seconds *= 60
    first -= first % seconds
    values = [0] * ((last - first) // seconds + 1)
    for at, count in counts.items():
        values[(at - first) // seconds] += count
    width = shutil.get_terminal_size().columns - MARGIN
    lines, each = columns(values, width=width)
    span = f"{_time(first)} to {_time(first + len(values) * seconds)}, {seconds * each:,} s a column"
    print("\n".join([f"{title}, {span}", *lines]))


def print_json(told: Any) -> None:
    """What a program reads, as one document."""
    print(json.dumps(told, indent=2, ensure_ascii=False))


def _time(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%MZ}"

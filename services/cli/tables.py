"""What commands print: tables with numbers to the right, and plots over time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from services.cli.plot import columns

MARGIN = 16
"""Columns of the terminal that are left to a plot's scale."""
MOST_BUCKETS = 100_000


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text: int = 1) -> None:
    """A table; the first `text` columns are words, the others numbers."""
    from rich import box  # noqa: PLC0415 - 0.1 s that only tables need
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number < text else "right", overflow="fold")
    for row in rows:
        # as text: a name in brackets is no markup
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def print_plot(counts: Mapping[int, int], seconds: int, title: str) -> None:
    """Counts by the unix second that their bucket of so many seconds starts at, first to last."""
    first, last = min(counts), max(counts)
    while (last - first) // seconds >= MOST_BUCKETS:
        seconds *= 60
    values = [0] * ((last - first) // seconds + 1)
    for start, count in counts.items():
        values[(start - first) // seconds] += count
    width = shutil.get_terminal_size().columns - MARGIN
    lines, each = columns(values, width=width)
    span = f"{_time(first)} to {_time(last + seconds)}, {seconds * each:,} s a column"
    print("\n".join([f"{title}, {span}", *lines]))


def _time(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%MZ}"

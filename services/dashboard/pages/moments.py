"""Moments, spans and counts as people read them.

The markup has UTC; a script in the page shows the reader's own time zone instead.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from msgspec import Struct

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_WINDOWS = {1: "second", 60: "minute", 3_600: "hour", 86_400: "day"}
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


class Moment(Struct, frozen=True):
    """A moment for a `<time>` element: `iso` is RFC 3339 in UTC, `text` the same in words."""

    iso: str
    text: str


def moment(at: datetime) -> Moment:
    """A moment as the markup has it."""
    utc = at.astimezone(UTC)
    text = f"{utc.day} {_MONTHS[utc.month - 1]} {utc.year}, {utc:%H:%M} UTC"
    return Moment(iso(utc), text)


def maybe(at: datetime | None) -> Moment | None:
    """The same of what may not be there."""
    return None if at is None else moment(at)


def iso(at: datetime) -> str:
    """RFC 3339 with `Z`, and the fraction where there is one."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def at_micros(micros: int) -> datetime:
    """The moment of these µs since the Unix epoch."""
    return _EPOCH + timedelta(microseconds=micros)


def span(seconds: int) -> str:
    """A length of time by its largest units, at most two: `1 day 2 hours`."""
    parts: list[str] = []
    for size, unit in _UNITS:
        if len(parts) == 2:
            break
        number, seconds = divmod(seconds, size)
        if number:
            parts.append(plural(number, unit))
    return " ".join(parts) or "no time"


def plural(number: int, word: str) -> str:
    """`1 key`, `2 keys`, `12,345 keys`."""
    return f"{grouped(number)} {word}" if number == 1 else f"{grouped(number)} {word}s"


def grouped(number: int) -> str:
    """Thousands set apart by commas."""
    return f"{number:,}"


def compact(number: int) -> str:
    """At most four characters and a unit: `999`, `12.3k`, `4.5M`."""
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        # rounding 999,960 to thousands would give 1000.0k
        if number >= size * 0.99995:
            return f"{number / size:.1f}".removesuffix(".0") + unit
    return str(number)


def per_window(limit: int, window_seconds: int) -> str:
    """`1,000 per minute`; a window that is no unit is told in full."""
    window = _WINDOWS.get(window_seconds)
    return f"{grouped(limit)} per {window or span(window_seconds)}"

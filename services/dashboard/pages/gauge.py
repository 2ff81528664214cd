"""The running cell of a limit as a bar: what was let in, what verifiers hold besides, what is left."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from msgspec import Struct

from keyledger.client.records import RateLimitCell
from keyledger.events import RateLimit
from services.dashboard.pages.moments import Moment, grouped, moment, per_window, span

_DIGITS = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Bar(Struct, frozen=True):
    """One verifier's part of the bar: where it begins and how long it is, in thousandths of the limit.

    `name` is short; `verifier` is the whole id.
    """

    verifier: str
    name: str
    spent: str
    held: str
    begin: int
    spent_length: int
    held_length: int
    tone: int


class Gauge(Struct, frozen=True, kw_only=True):
    """A cell as a page shows it; `unlimited` is a key without a limit of its own, which has none.

    `running` is False while nothing was asked of it yet.
    """

    unlimited: bool
    running: bool
    limit: str
    window: str
    admitted: str
    held: str
    left: str
    percent: int
    bars: tuple[Bar, ...]
    reset: Moment | None
    seconds: int
    state: str
    quota: str | None


def gauge(cell: RateLimitCell, configured: RateLimit | None, *, now: datetime) -> Gauge:
    """The cell, or the configured limit with nothing spent of it."""
    quota = cell.quota
    limit = cell.limit or (configured.limit if configured else 0)
    window = cell.window_seconds or (configured.window_seconds if configured else 60)
    admitted = min(cell.admitted, limit) if limit else 0
    granted = max(cell.granted, cell.admitted)
    percent = round(100 * admitted / limit) if limit else 0
    reset = None if cell.reset is None else datetime.fromtimestamp(cell.reset, UTC)
    seconds = 0 if reset is None else max(0, round((reset - now).total_seconds()))
    return Gauge(
        unlimited=not limit,
        running=bool(limit) and granted > 0,
        limit=per_window(limit, window) if limit else "no limit",
        window=span(window),
        admitted=grouped(cell.admitted),
        held=grouped(granted - cell.admitted),
        left=grouped(max(0, limit - cell.admitted)),
        percent=percent,
        bars=_bars(cell, limit),
        reset=None if reset is None else moment(reset),
        seconds=seconds,
        state="full" if percent >= 100 else "high" if percent >= 80 else "calm",
        quota=None
        if quota is None
        else f"{grouped(quota.admitted)} of {grouped(quota.limit)} this {quota.period}",
    )


def _bars(cell: RateLimitCell, limit: int) -> tuple[Bar, ...]:
    bars: list[Bar] = []
    begin = 0
    for place, part in enumerate(cell.verifiers):
        spent = min(1000 - begin, round(1000 * part.spent / limit)) if limit else 0
        held_count = max(0, part.granted - part.spent)
        held = min(1000 - begin - spent, round(1000 * held_count / limit)) if limit else 0
        bars.append(
            Bar(
                part.verifier,
                _short(part.verifier),
                grouped(part.spent),
                grouped(held_count),
                begin,
                spent,
                held,
                place % 4,
            )
        )
        begin += spent + held
    return tuple(bars)


def _short(verifier: str) -> str:
    """A process calls itself by 32 hexadecimal digits when it starts; some of them tell it from others."""
    return f"Verifier {verifier[:8]}" if _DIGITS.fullmatch(verifier) else verifier

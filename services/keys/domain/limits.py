"""What a changed limit says of running cells: a lowered one binds at once, a raised one from the next cell.

A quota of a month binds at once in either direction: nobody waits a month for what was bought.
"""

from __future__ import annotations

import msgspec
from msgspec import UnsetType

from keyledger.events import Quota, RateLimit
from keyledger.grants import span

SECOND = 1_000_000


def changed(
    new: RateLimit | None | UnsetType, old: RateLimit | None, now: int
) -> RateLimit | None | UnsetType:
    """`new` with what holds in cells that started before `now` (µs); `old` itself where they say the same.

    Of several changes in one cell the smallest limit holds until it ends.
    """
    if not isinstance(new, RateLimit) or old is None:
        return new
    if _plain(new) == _plain(old):
        return old
    if new.window_seconds != old.window_seconds:
        # cells of another length begin anew
        return new
    start, _ = span(new.window_seconds, now // SECOND)
    raised_here = old.before is not None and old.since >= start * SECOND
    least = min(old.limit, old.before) if raised_here and old.before is not None else old.limit
    if new.limit <= least:
        return new
    return msgspec.structs.replace(new, before=least, since=now)


def changed_quota(new: Quota | None | UnsetType, old: Quota | None, now: int) -> Quota | None | UnsetType:
    """`new` as of `now` (µs); `old` itself where they say the same."""
    if not isinstance(new, Quota) or old is None:
        return new
    if (new.limit, new.period) == (old.limit, old.period):
        return old
    return msgspec.structs.replace(new, since=now)


def _plain(limit: RateLimit) -> tuple[object, ...]:
    return limit.limit, limit.window_seconds, limit.on_outage

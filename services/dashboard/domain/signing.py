"""Which key signs sessions, which ones are published, and when the next is due.

A key is published an hour before it signs, so that whoever keeps the set for less than that knows it in
time, and for twenty minutes after: longer than anything that it signed is valid. Times are µs.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from services.dashboard.domain.units import SECOND

PERIOD = 24 * 3600 * SECOND
"""How long a key signs, when nothing is in the way."""
AHEAD = 3600 * SECOND
KEPT = 20 * 60 * SECOND


class KeyTimes(Struct, frozen=True):
    """A signing key's id, and from when on it signs."""

    kid: str
    starts_at: int


def signing(keys: Sequence[KeyTimes], now: int) -> KeyTimes | None:
    """The key that signs: the last that has started; None when none has."""
    return max((key for key in keys if key.starts_at <= now), key=_order, default=None)


def published(keys: Sequence[KeyTimes], now: int) -> list[KeyTimes]:
    """Those in the set that everybody may read, the next one included."""
    ordered = sorted(keys, key=_order)
    followers: list[KeyTimes | None] = [*ordered[1:], None]
    return [
        key
        for key, follower in zip(ordered, followers, strict=True)
        if follower is None or now < follower.starts_at + KEPT
    ]


def next_start(keys: Sequence[KeyTimes], now: int) -> int | None:
    """From when on a key signs that has to be made now; None while none has to.

    The first signs at once. A dashboard that was away for days goes on with the old key for an hour.
    """
    last = max(keys, key=_order, default=None)
    if last is None:
        return now
    if now < last.starts_at + PERIOD - AHEAD:
        return None
    return max(last.starts_at + PERIOD, now + AHEAD)


def _order(key: KeyTimes) -> tuple[int, str]:
    return key.starts_at, key.kid

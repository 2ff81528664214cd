"""A log as it is after a restore, for whoever compares it with what a stream still tells."""

from __future__ import annotations

from collections.abc import Sequence

from keyledger.wire import Followed


class RestoredLog:
    """`LogNow` of which only the beginning is there, up to `position`."""

    def __init__(self, events: Sequence[Followed], position: int) -> None:
        self.events = events[:position]
        self.position = position

    async def hash_at(self, position: int) -> bytes | None:
        return self.events[position - 1].hash if 0 < position <= self.position else None

    async def of_streams(self, stream_ids: Sequence[str], *, after: int, upto: int) -> list[Followed]:
        return [event for event in self.events[after:upto] if event.stream_id in stream_ids]

"""What happened: recorded events with their private parts open, for those who may read them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from keyledger import events
from keyledger.events import Event, Recorded, Unknown
from keyledger.server.seal import SealBroken, Sealer, open_text
from services.keys.ports import HeadNow, States


class History:
    """Reads events and opens them with the workspace's data key."""

    def __init__(self, states: States, sealer: Sealer) -> None:
        self._states = states
        self._sealer = sealer

    async def read(
        self, workspace_id: str, stream_id: str | None, *, after: int, limit: int
    ) -> tuple[Sequence[tuple[Recorded, Event | Unknown]], HeadNow]:
        """Events after a position, oldest first. What was sealed under a destroyed key stays closed."""
        found, head = await self._states.events(workspace_id, stream_id, after=after, limit=limit)
        wrapped = await self._states.data_key(workspace_id) if found else None
        data_key = None if wrapped is None else self._sealer.unwrap(workspace_id, wrapped)
        return [(recorded, open_event(recorded, data_key)) for recorded in found], head


def open_event(recorded: Recorded, data_key: bytes | None) -> Event | Unknown:
    """The event with its private part open, or None in its place."""
    event = events.decode(recorded.type, recorded.schema_version, recorded.data)
    sealed = getattr(event, "private", None)
    if isinstance(event, Unknown) or not isinstance(sealed, bytes):
        return event
    plain = b"null"
    if data_key is not None:
        place = events.private_place(recorded.stream_id, recorded.version, recorded.type)
        try:
            plain = open_text(data_key, sealed, place)
        except SealBroken:
            plain = b"null"
    raw = msgspec.json.decode(recorded.data)
    raw["private"] = msgspec.json.decode(plain)
    return events.decode(recorded.type, recorded.schema_version, msgspec.json.encode(raw))

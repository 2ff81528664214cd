"""What happened: recorded events with their private parts open, for those who may read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from keyledger import events
from keyledger.errors import not_found
from keyledger.event_reader import Unknown
from keyledger.events import Event, Recorded
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
        data_key = await self._data_key(workspace_id) if found else None
        return [(recorded, open_event(recorded, data_key)) for recorded in found], head

    async def read_back(
        self, workspace_id: str, stream_id: str | None, *, before: int | None, limit: int
    ) -> tuple[Sequence[tuple[Recorded, Event | Unknown]], HeadNow]:
        """Events before a position, newest first; else as `read`."""
        found, head = await self._states.events_before(workspace_id, stream_id, before=before, limit=limit)
        data_key = await self._data_key(workspace_id) if found else None
        return [(recorded, open_event(recorded, data_key)) for recorded in found], head

    async def behind(
        self, workspace_id: str, versions: Mapping[str, int], *, until: int, limit: int
    ) -> Sequence[tuple[Recorded, Event | Unknown]]:
        """Events of these streams behind the version given for each, up to a position, oldest first.

        `not_found` when the workspace was deleted.
        """
        found = await self._states.events_behind(workspace_id, versions, until=until, limit=limit)
        data_key = await self._data_key(workspace_id)
        if data_key is None:
            raise not_found()
        return [(recorded, open_event(recorded, data_key)) for recorded in found]

    async def _data_key(self, workspace_id: str) -> bytes | None:
        wrapped = await self._states.data_key(workspace_id)
        return None if wrapped is None else self._sealer.unwrap(workspace_id, wrapped)


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

"""How things stood: keys folded from their events up to a position or a moment of the past."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from msgspec import Struct

from keyledger.clock import Clock, parse_rfc3339
from keyledger.errors import invalid_request, not_found
from keyledger.events import KeyEvent, Recorded
from services.keys.domain.key import Context, Key, evolve
from services.keys.handlers.history import History
from services.keys.ports import KeyFilter, States

_PAGE = 1000
_LONGEST = 19


class Then(Struct, frozen=True):
    """A point of the past: everything up to `position` had happened; `at` (µs) decides what had expired."""

    position: int
    at: int


class TimeTravel:
    """Answers `as_of`."""

    def __init__(self, states: States, history: History, clock: Clock) -> None:
        self._states = states
        self._history = history
        self._clock = clock

    async def resolve(self, as_of: str) -> Then:
        """The point that `as_of` names, a position or an RFC 3339 time; `invalid_request` beyond the head."""
        if as_of.isascii() and as_of.isdigit() and len(as_of) <= _LONGEST:
            head = await self._states.head()
            position = int(as_of)
            if position > head.position:
                raise invalid_request("The log does not reach there yet.", field="as_of")
            return Then(position, await self._states.moment_of(position) or 0)
        try:
            moment = parse_rfc3339(as_of)
        except ValueError:
            raise invalid_request("A position of the log, or an RFC 3339 time.", field="as_of") from None
        head = await self._states.head()
        if moment > max(self._clock.now(), head.at):
            raise invalid_request("That time is still to come.", field="as_of")
        return Then(await self._states.position_at(moment), moment)

    async def key(self, workspace_id: str, key_id: str, then: Then) -> Key:
        """The key as it was; `not_found` before it was created."""
        key: Key | None = None
        async for recorded, event in self._until(workspace_id, key_id, then):
            key = evolve(key, event, _context(recorded))
        if key is None:
            raise not_found()
        return key

    async def keys(
        self, workspace_id: str, wanted: KeyFilter, then: Then, *, before: int | None, limit: int
    ) -> Sequence[tuple[int, Key]]:
        """Keys as they were, with the position at which each was created, newest first."""
        created: dict[str, int] = {}
        keys: dict[str, Key] = {}
        async for recorded, event in self._until(workspace_id, None, then):
            created.setdefault(recorded.stream_id, recorded.position)
            keys[recorded.stream_id] = evolve(keys.get(recorded.stream_id), event, _context(recorded))
        found = [
            (created[key_id], key)
            for key_id, key in keys.items()
            if _matches(key, wanted, then.at) and (before is None or created[key_id] < before)
        ]
        return sorted(found, key=lambda pair: -pair[0])[:limit]

    async def _until(
        self, workspace_id: str, stream_id: str | None, then: Then
    ) -> AsyncGenerator[tuple[Recorded, KeyEvent], None]:
        after = 0
        while True:
            page, _ = await self._history.read(workspace_id, stream_id, after=after, limit=_PAGE)
            for recorded, event in page:
                if recorded.position > then.position:
                    return
                if isinstance(event, KeyEvent):
                    yield recorded, event
            if len(page) < _PAGE:
                return
            after = page[-1][0].position


def _context(recorded: Recorded) -> Context:
    return Context(recorded.stream_id, recorded.workspace_id, recorded.actor, recorded.at)


def _matches(key: Key, wanted: KeyFilter, now: int) -> bool:
    search = (wanted.search or "").lower()
    texts = (key.name.lower(), (key.external_id or "").lower())
    return (
        wanted.environment in (None, key.environment)
        and wanted.status in (None, key.status(now))
        and wanted.external_id in (None, key.external_id)
        and (any(search in text for text in texts) or wanted.search == key.id)
    )

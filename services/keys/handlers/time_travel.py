"""How things stood: keys folded from their events up to a position or a moment of the past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        keys = await self._folded(workspace_id, [key_id], then.position)
        if key_id not in keys:
            raise not_found()
        return keys[key_id]

    async def keys(
        self, workspace_id: str, wanted: KeyFilter, then: Then, *, before: int | None, limit: int
    ) -> Sequence[tuple[int, Key]]:
        """Keys as they were, with the position at which each was created, newest first.

        When and in which environment a key was created never changes, and a revoked one stays so: today's
        states tell which keys may be shown, and only these are folded, without another filter no more than
        are answered.
        """
        revoked = wanted.status if wanted.status == "revoked" else None
        lasting = KeyFilter(then.at, environment=wanted.environment, status=revoked)
        end = then.position + 1 if before is None else min(before, then.position + 1)
        found: list[tuple[int, Key]] = []
        many = limit
        while len(found) < limit:
            page, _ = await self._states.keys(workspace_id, lasting, before=end, limit=many)
            keys = await self._folded(workspace_id, [stored.stream_id for stored in page], then.position)
            found += [
                (stored.created_position, key)
                for stored in page
                if (key := keys.get(stored.stream_id)) is not None and _matches(key, wanted, then.at)
            ]
            if len(page) < many:
                break
            end, many = page[-1].created_position, min(2 * many, _PAGE)
        return found[:limit]

    async def _folded(self, workspace_id: str, key_ids: Sequence[str], until: int) -> Mapping[str, Key]:
        """These keys as they were at a position; those that came later are left out."""
        versions = dict.fromkeys(key_ids, 0)
        keys: dict[str, Key] = {}
        while versions:
            page = await self._history.behind(workspace_id, versions, until=until, limit=_PAGE)
            for recorded, event in page:
                versions[recorded.stream_id] = recorded.version
                if isinstance(event, KeyEvent):
                    keys[recorded.stream_id] = evolve(keys.get(recorded.stream_id), event, _context(recorded))
            if len(page) < _PAGE:
                break
        return keys


def _context(recorded: Recorded) -> Context:
    return Context(recorded.stream_id, recorded.workspace_id, recorded.actor, recorded.at)


def _matches(key: Key, wanted: KeyFilter, now: int) -> bool:
    search = (wanted.search or "").lower()
    ending = wanted.hint_ending
    texts = (key.name.lower(), (key.external_id or "").lower())
    return (
        wanted.environment in (None, key.environment)
        and wanted.status in (None, key.status(now))
        and wanted.external_id in (None, key.external_id)
        and (
            any(search in text for text in texts)
            or wanted.search == key.id
            or (ending is not None and any(secret.hint.endswith(ending) for secret in key.secrets))
        )
    )

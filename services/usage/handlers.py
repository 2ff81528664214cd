"""Reading usage: who may, what they asked, and one page of it with the totals of the whole period."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from keyledger.clock import SECOND, Clock, parse_rfc3339, rfc3339
from keyledger.errors import Refusal, invalid_request, missing_api_key, not_found, unavailable
from keyledger.token import is_id
from services.usage.domain.cell import Cell, current
from services.usage.domain.period import Granularity, Resolution, period_of
from services.usage.domain.series import (
    MAX_POINTS,
    Question,
    Reading,
    fingerprint,
    groups_of,
    read_cursor,
    write_cursor,
)
from services.usage.ports import Access, Credential, LimitCells, Limited, StoreUnavailable, UsageStore

MAX_KEYS = 200
# A malformed id is asked about as an id that nobody has: whether the credential is good is told first.
_NOBODY = "ws_" + "0" * 22


class Asked(Struct, frozen=True):
    """The parameters of a series as a caller gave them; the times are RFC 3339."""

    start: str | None
    end: str | None
    granularity: Resolution
    group_by: str | None
    cursor: str | None


class Answer(Struct, frozen=True):
    """One page of a series; `groups` are the fields its points have."""

    groups: tuple[str, ...]
    reading: Reading
    next_cursor: str | None


class Usage:
    """The service's questions, over its ports; a page has at most `max_points`."""

    def __init__(
        self,
        store: UsageStore,
        access: Access,
        clock: Clock,
        limits: LimitCells,
        *,
        max_points: int = MAX_POINTS,
    ) -> None:
        self._limits = limits
        self._max_points = max_points
        self._store = store
        self._access = access
        self._clock = clock

    async def admit(self, credential: Credential, workspace_id: str, key_id: str | None = None) -> Limited:
        """The limits of the workspace, or key, whose usage may be read; else the contract's refusal."""
        if not credential.headers:
            raise missing_api_key()
        if not is_id(workspace_id, "ws"):
            await self._access.authorize(credential, _NOBODY, None)
            raise not_found()
        if key_id is not None and not is_id(key_id, "key"):
            await self._access.authorize(credential, workspace_id, None)
            raise not_found()
        return await self._access.authorize(credential, workspace_id, key_id)

    async def series(self, workspace_id: str, key_id: str | None, asked: Asked) -> Answer:
        """The page that was asked for, or a refusal that names the parameter."""
        groups = groups_of(asked.group_by)
        start = _time(asked.start, "from")
        end = _time(asked.end, "to")
        bound = fingerprint(workspace_id, key_id, asked.start, asked.end, asked.granularity, ",".join(groups))
        if asked.cursor is None:
            period, after = period_of(start, end, asked.granularity, now=self._clock.now()), None
        else:
            period, after = read_cursor(asked.cursor, bound)
        question = Question(workspace_id, key_id, period, groups)
        try:
            # one more than is told shows whether there is a next page
            reading = await self._store.read(question, after, self._max_points + 1)
        except StoreUnavailable as error:
            raise _away() from error
        for granularity, first, _ in period.pieces:
            if first < (since := reading.kept_from.get(granularity, first)):
                raise _dropped(granularity, since)
        points = reading.points[: self._max_points]
        more = len(reading.points) > self._max_points
        cursor = write_cursor(bound, period, points[-1].mark) if more else None
        told = Reading(points, reading.totals, reading.position, reading.last_used_at)
        return Answer(groups, told, cursor)

    async def last_used(self, workspace_id: str, keys: str) -> tuple[dict[str, int | None], int]:
        """Each listed key's last use in µs, None for one that was never used here, and the position read."""
        listed = list(dict.fromkeys(keys.split(",")))
        if len(listed) > MAX_KEYS:
            raise invalid_request(f"At most {MAX_KEYS} keys can be listed.", field="keys")
        if not all(is_id(key, "key") for key in listed):
            raise invalid_request("keys is a list of key ids, separated by commas.", field="keys")
        found, position = await self._last_used(workspace_id, listed)
        return {key: found.get(key) for key in listed}, position

    async def limits_of(self, holder: str, limited: Limited) -> tuple[Cell | None, Cell | None]:
        """The running cell of a workspace's or key's rate limit, and of its quota; None without one."""
        try:
            pools = await self._limits.cells(holder)
        except StoreUnavailable as error:
            raise unavailable("unavailable", "What is granted is not known here just now.") from error
        return current(pools, self._clock.now() // SECOND, limited.rate_limit, limited.quota)

    async def _last_used(self, workspace_id: str, keys: Sequence[str]) -> tuple[dict[str, int], int]:
        try:
            return await self._store.last_used(workspace_id, keys)
        except StoreUnavailable as error:
            raise _away() from error


def _time(text: str | None, field: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise invalid_request(
            "The time is RFC 3339 with an offset, 2026-01-31T09:00:00Z.", field=field
        ) from None


def _dropped(granularity: Granularity, kept_from: int) -> Refusal:
    since = rfc3339(kept_from)
    return invalid_request(f"By the {granularity}, uses are kept since {since} only.", field="from")


def _away() -> Refusal:
    return unavailable("unavailable", "The counters cannot be read just now.")

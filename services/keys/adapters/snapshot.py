"""The current state of every key and workspace for followers, a page at a time and without a transaction.

Each page is one statement, so it is a cut of the log at its own head. The pages of one snapshot are read at
different heads: a follower starts the feed at the first page's and passes over what a later page knew. So a
page may be read before it is asked for, while the one before it is on its way, unless its head is before the
first one's, which the follower names. Proofs and hints stay here because the wire's structs have no field for
them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TypeAlias

import msgspec
from msgspec import Struct

from keyledger import events, wire
from keyledger.errors import Refusal
from keyledger.events import EpochAccepted
from keyledger.server.postgres import AWAY, STATEMENT_TIMEOUT, Pool, fetch, postgres_away
from keyledger.wire import SNAPSHOT_MEANING, KeyState, SnapshotPage, WorkspaceState

FRAME = 500
"""Records of one frame, and of one piece of work here before others get their turn (about a millisecond)."""
AHEAD, AHEAD_SECONDS = 2, 1.0
"""How many pages are read ahead at most, one for each follower, and how long one is kept for its own."""

LOOKED_AT_ONCE = 500_000

_KINDS = """
    SELECT type, max(schema_version) AS latest FROM ledger.event
     WHERE position > $1 AND position <= $2 GROUP BY type
"""
# The first row is the head, since no id comes before ''. A deleted workspace has no state but is told of, so
# that it stays deleted; members are nothing to a follower. Ids hold no character that JSON would escape.
# Bytes, since text would be decoded here only to be encoded again.
_PAGE = """
    SELECT convert_to(u.told, 'UTF8') FROM (
        SELECT '' AS id, json_build_object(
                   'epoch_number', h.epoch_number, 'epoch_line', encode(h.epoch_line, 'base64'),
                   'position', h.position, 'hash', encode(h.hash, 'base64'),
                   'lost', EXISTS (SELECT FROM ledger.lost_denial),
                   'accepted', (SELECT json_build_array(e.schema_version, convert_from(e.data, 'UTF8'),
                                                        encode(e.hash, 'base64'))
                                  FROM ledger.event e
                                 WHERE e.stream_id = 'epochs' AND e.type = 'epoch_accepted'
                                 ORDER BY e.version DESC LIMIT 1),
                   'erasing', ARRAY(SELECT d.workspace_id FROM ledger.erasure d WHERE NOT d.rows_gone))::text
               AS told
          FROM ledger.log_head h
         UNION ALL
        (SELECT s.stream_id, '["' || s.kind || '","' || s.stream_id || '","' || s.workspace_id || '",'
                             || s.version || ',' || s.position || ','
                             || CASE s.kind WHEN 'key' THEN s.body ELSE s.body - 'members' END::text || ']'
           FROM ledger.state s WHERE s.stream_id > $1 AND s.kind IN ('key', 'workspace')
          ORDER BY s.stream_id LIMIT $2)
         UNION ALL
        (SELECT d.workspace_id, '["workspace","' || d.workspace_id || '","' || d.workspace_id || '",0,'
                                || d.position || ',{"deleted":true}]'
           FROM ledger.erasure d WHERE d.workspace_id > $1 ORDER BY d.workspace_id LIMIT $2)) u
     ORDER BY u.id LIMIT $2 + 1
"""
_State: TypeAlias = KeyState | WorkspaceState


class _Head(Struct):
    epoch_number: int
    epoch_line: bytes
    position: int
    hash: bytes
    lost: bool
    accepted: tuple[int, str, bytes] | None
    erasing: frozenset[str]


_Rows: TypeAlias = tuple[_Head, list[bytes]]
_HEAD = msgspec.json.Decoder(_Head)
_STATES = msgspec.json.Decoder(list[_State])
_ENCODER = msgspec.msgpack.Encoder()


class PostgresSnapshots:
    """`Snapshots` on a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._looked_at = 0
        self._unknown = False
        self._ahead: dict[tuple[str, int], asyncio.Task[_Rows]] = {}

    async def page(self, after: str, limit: int, since: int) -> bytes:
        """The streams behind this id; see `Snapshots`."""
        head, told = await self._rows(after, limit, since)
        last = ""
        if len(told) == limit:
            (state,) = _STATES.decode(b"[%b]" % told[-1])
            last = _id(state)
            self._read_ahead(last, limit)
        whole = not head.lost and not await self._unknown_until(head.position)
        frames: list[bytes] = []
        for start in range(0, len(told), FRAME):
            states = _STATES.decode(b"[%b]" % b",".join(told[start : start + FRAME]))
            frames.append(_ENCODER.encode(_kept(states, head.erasing)))
            await asyncio.sleep(0)
        return wire.frame([_ENCODER.encode(_first(head, last, whole=whole)), *frames])

    async def _rows(self, after: str, limit: int, since: int) -> _Rows:
        reading = self._ahead.pop((after, limit), None) if since else None
        if reading is not None:
            with contextlib.suppress(Refusal):
                head, told = await reading
                if head.position >= since:
                    return head, told
        return await self._read(after, limit)

    async def _read(self, after: str, limit: int) -> _Rows:
        try:
            rows = await fetch(self._pool, _PAGE, after, limit, within=STATEMENT_TIMEOUT)
        except AWAY:
            raise postgres_away() from None
        return _HEAD.decode(rows[0][0]), [row[0] for row in rows[1:]]

    def _read_ahead(self, after: str, limit: int) -> None:
        """Read this page while nobody asks for it yet; a follower that does not come costs one statement."""
        key = (after, limit)
        if key in self._ahead or len(self._ahead) >= AHEAD:
            return
        reading = asyncio.create_task(self._read(after, limit), name="snapshot ahead")
        # nobody may come to hear of a failure
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._ahead[key] = reading

        def drop() -> None:
            if self._ahead.get(key) is reading:
                del self._ahead[key]

        asyncio.get_running_loop().call_later(AHEAD_SECONDS, drop)

    async def _unknown_until(self, position: int) -> bool:
        """Whether the log so far has an event that this code cannot read: its key fails closed.

        A state does not tell of it, so followers read the whole log then. Each event is looked at once a
        process.
        """
        while not self._unknown and self._looked_at < position:
            until = min(self._looked_at + LOOKED_AT_ONCE, position)
            try:
                kinds = await fetch(self._pool, _KINDS, self._looked_at, until, within=STATEMENT_TIMEOUT)
            except AWAY:
                raise postgres_away() from None
            self._unknown = any(
                kind["type"] not in events.TAGS or kind["latest"] > events.TAGS[kind["type"]][1]
                for kind in kinds
            )
            self._looked_at = max(self._looked_at, until)
        return self._unknown


def _id(state: _State) -> str:
    return state.key_id if isinstance(state, KeyState) else state.workspace_id


def _kept(states: Sequence[_State], erasing: frozenset[str]) -> Sequence[_State]:
    """Without the keys of deleted workspaces, whose rows go in small steps."""
    if not erasing:
        return states
    return [each for each in states if not isinstance(each, KeyState) or each.workspace_id not in erasing]


def _first(head: _Head, after: str, *, whole: bool) -> SnapshotPage:
    accepted = None
    if head.accepted is not None:
        version, data, digest = head.accepted
        event = events.decode("epoch_accepted", version, data.encode())
        accepted = (event.number, digest) if isinstance(event, EpochAccepted) else None
    return SnapshotPage(
        SNAPSHOT_MEANING,
        head.epoch_number,
        head.epoch_line,
        head.position,
        head.hash,
        after,
        whole,
        accepted,
    )

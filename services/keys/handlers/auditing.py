"""Whether the log is what it was, and whether the states are what the log says.

Both look at everything, in pages, while the services go on appending.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from keyledger import events
from keyledger.event_reader import Unknown
from keyledger.events import Event, Recorded
from keyledger.server.seal import SealBroken, Sealer
from services.keys.domain.chain import ChainCheck, ChainEnd, Difference, Differs, EpochBegun
from services.keys.domain.fold import Folded, StreamFound, check_order, compare, compare_members, fold
from services.keys.handlers.history import open_event

EVENTS_A_PAGE = 5000
STREAMS_A_PAGE = 500
_KEPT_KEYS = 10_000
_BEFORE_FIRST = -(2**63)
Tell = Callable[[int], None]


class LogReader(Protocol):
    """The whole log for whoever checks it or rebuilds from it; every answer is one snapshot."""

    async def epochs(self) -> Sequence[EpochBegun]:
        """Every epoch there ever was."""
        ...

    async def events(self, after: int, limit: int) -> Sequence[Recorded]:
        """Events after a position, in order of position; `previous_hash` is left empty."""
        ...

    async def ends(self) -> tuple[ChainEnd, int]:
        """What the head says, and the last position that an event has (0 without any)."""
        ...

    async def streams(self, after: str, limit: int) -> tuple[Sequence[StreamFound], str | None]:
        """At most so many streams behind this id, in order, and the id to go on behind, if any."""
        ...

    async def these(self, stream_ids: Sequence[str]) -> Sequence[StreamFound]:
        """These streams, as far as anything is there of them."""
        ...

    async def touched(self, after: int, until: int) -> Sequence[str]:
        """The streams that have events after the one position, up to the other."""
        ...


class WrongSeal(Exception):
    """The seal secret given is not the one that this database's data keys are wrapped under."""


class StatesChecked(Struct, frozen=True):
    """What was compared: streams, those of deleted workspaces, those that this code cannot fold."""

    streams: int
    deleted: int
    unread: int


class Audit:
    """Checks the log that `log` reads; without a sealer, sealed text is not compared."""

    def __init__(self, log: LogReader, sealer: Sealer | None) -> None:
        self._log = log
        self._folder = Folder(sealer)

    async def chain(self, tell: Tell, *, until: int | None = None) -> ChainEnd:
        """Recompute the chain, to its end or to the position `until`; `Differs` at the first difference.

        `tell` hears the position now and then.
        """
        check, after = ChainCheck(await self._log.epochs()), _BEFORE_FIRST
        while True:
            for event in await self._log.events(after, EVENTS_A_PAGE):
                check.take(event)
                if check.position == until:
                    return ChainEnd(check.epoch, check.position, check.hash, check.at)
            tell(check.position)
            if after == check.position:
                head, last = await self._log.ends()
                if last <= check.position:
                    return check.end(head, last)
            after = check.position

    async def states(self, tell: Tell) -> StatesChecked:
        """Fold every stream and compare; `Differs` at the first that is stored otherwise.

        `tell` hears how many streams are compared now and then.
        """
        streams = deleted = unread = 0
        after: str | None = ""
        while after is not None:
            page, after = await self._log.streams(after, STREAMS_A_PAGE)
            for stream in page:
                folded = self._check(stream)
                streams += 1
                deleted += stream.deleted
                unread += folded is not None and folded.state is None
            tell(streams)
        return StatesChecked(streams, deleted, unread)

    def _check(self, stream: StreamFound) -> Folded | None:
        folded = self._folder.fold(stream)
        if stream.deleted and stream.stored is None:
            # erased, in whatever order: only the events are held against each other
            if folded is not None:
                compare(stream.stream_id, folded.without_state, stream.row, None, opened=False)
        else:
            opened = self._folder.opens and not stream.deleted
            compare(stream.stream_id, folded, stream.row, stream.stored, opened=opened)
        compare_members(stream.stream_id, folded, stream.members)
        return folded


class Folder:
    """Opens and folds whole streams."""

    def __init__(self, sealer: Sealer | None) -> None:
        self._sealer = sealer
        self._data_keys: OrderedDict[bytes, bytes] = OrderedDict()

    @property
    def opens(self) -> bool:
        """Whether sealed text is opened."""
        return self._sealer is not None

    def fold(self, stream: StreamFound) -> Folded | None:
        """The stream added up, None when it has no events; `Differs` when they do not add up.

        `WrongSeal` when a data key does not open.
        """
        if not stream.events:
            return None
        check_order(stream.stream_id, stream.events)
        data_key = self._data_key(stream)
        return fold(stream.stream_id, [(event, self._open(event, data_key)) for event in stream.events])

    def _data_key(self, stream: StreamFound) -> bytes | None:
        if self._sealer is None or stream.deleted:
            return None
        wrapped = stream.data_key
        if wrapped is None:
            where = f"the data key of {stream.workspace_id}"
            raise Differs(Difference(where, "one, for the workspace is not deleted", "none"))
        if wrapped not in self._data_keys:
            try:
                self._data_keys[wrapped] = self._sealer.unwrap(stream.workspace_id, wrapped)
            except SealBroken:
                raise WrongSeal(stream.workspace_id) from None
            while len(self._data_keys) > _KEPT_KEYS:
                self._data_keys.popitem(last=False)
        return self._data_keys[wrapped]

    def _open(self, recorded: Recorded, data_key: bytes | None) -> Event | Unknown:
        event = open_event(recorded, data_key)
        if data_key is not None and not isinstance(event, Unknown) and _lost(recorded, event):
            where = f"position {recorded.position}, stream {recorded.stream_id}"
            raise Differs(Difference(where, "sealed text that opens with the workspace's key", "other bytes"))
        return event


def _lost(recorded: Recorded, opened: Event) -> bool:
    """Whether the event has a private part that could not be opened."""
    if getattr(opened, "private", None) is not None:
        return False
    closed = events.decode(recorded.type, recorded.schema_version, recorded.data)
    return getattr(closed, "private", None) is not None

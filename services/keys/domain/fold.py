"""Any stream of the log folded into its state, and that state held against the one that is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from keyledger.event_reader import Unknown
from keyledger.events import (
    Event,
    KeyCreated,
    KeyEvent,
    KeyImported,
    MemberEvent,
    PepperEvent,
    Recorded,
    WorkspaceCreated,
    WorkspaceEvent,
)
from services.keys.domain import key as keys
from services.keys.domain import peppers
from services.keys.domain import workspace as workspaces
from services.keys.domain.chain import Difference, Differs
from services.keys.domain.key import Context, Key
from services.keys.domain.peppers import PepperState
from services.keys.domain.roles import Member
from services.keys.domain.workspace import Workspace

State: TypeAlias = Key | Workspace | PepperState
#: The kinds of states that are folded here; rows of any other kind are left alone.
KINDS = ("key", "workspace", "peppers")
#: Fields of a state that come out of sealed text: without the seal secret nothing can be said of them.
SEALED = frozenset({"name", "allowed_ips", "external_id", "metadata", "proof"})
#: Never shown, not even to say how they differ.
SECRET = frozenset({"digests", "proof"})
ABSENT = "nothing"


class StreamRow(Struct, frozen=True):
    """What the log's own table says of a stream."""

    workspace_id: str
    version: int


class StateRow(Struct, frozen=True):
    """A state as it is stored."""

    kind: str
    workspace_id: str
    version: int
    position: int
    created_position: int
    body: bytes


class StreamFound(Struct, frozen=True):
    """Everything the database holds of one stream, read in one snapshot.

    `data_key` is its workspace's, wrapped; `deleted`: the log says that the workspace was deleted. `members`
    are those that the table of members has of a workspace.
    """

    stream_id: str
    events: tuple[Recorded, ...]
    row: StreamRow | None
    stored: StateRow | None
    data_key: bytes | None
    deleted: bool
    members: Mapping[str, Member] = {}

    @property
    def workspace_id(self) -> str:
        """Whose stream it is, as its first event says, or whatever else is there."""
        if self.events:
            return self.events[0].workspace_id
        return next((row.workspace_id for row in (self.row, self.stored) if row is not None), "")


class Folded(Struct, frozen=True):
    """A stream's events added up. `state` is None where this code cannot read them all."""

    stream_id: str
    workspace_id: str
    version: int
    position: int
    created_position: int
    state: State | None

    @property
    def kind(self) -> Literal["key", "workspace", "peppers"]:
        """Under which kind the state is stored."""
        if isinstance(self.state, PepperState):
            return "peppers"
        return "workspace" if isinstance(self.state, Workspace) else "key"

    @property
    def deleted(self) -> bool:
        """Whether it is a workspace whose state is not kept any more."""
        return isinstance(self.state, Workspace) and self.state.deleted

    @property
    def without_state(self) -> Folded:
        """The same, with nothing to compare but the events."""
        return msgspec.structs.replace(self, state=None)

    @property
    def row(self) -> StateRow:
        """The state as it is stored."""
        return StateRow(
            self.kind, self.workspace_id, self.version, self.position, self.created_position, self.body
        )

    @property
    def body(self) -> bytes:
        """The state as JSON."""
        return msgspec.json.encode(self.state)


def check_order(stream_id: str, events: Sequence[Recorded]) -> None:
    """`Differs` when a version is missing, when positions go back, or when the workspace changes midway."""
    position = 0
    for expected, recorded in enumerate(events, 1):
        where = f"position {recorded.position}, stream {stream_id}"
        if recorded.version != expected:
            raise Differs(Difference(where, f"version {expected}", f"version {recorded.version}"))
        if recorded.position <= position:
            raise Differs(Difference(where, f"a position after {position}", "an earlier one"))
        if recorded.workspace_id != events[0].workspace_id:
            raise Differs(Difference(where, f"workspace {events[0].workspace_id}", recorded.workspace_id))
        position = recorded.position


def fold(stream_id: str, events: Sequence[tuple[Recorded, Event | Unknown]]) -> Folded:
    """Fold a stream's events, at least one, whose order is checked already."""
    first, last = events[0][0], events[-1][0]
    state: State | None = None
    for at, (recorded, event) in enumerate(events):
        state = None if at and state is None else _evolve(state, event, recorded)
    return Folded(stream_id, first.workspace_id, last.version, last.position, first.position, state)


def _evolve(state: State | None, event: Event | Unknown, recorded: Recorded) -> State | None:
    """The state after the event; None when this event is not of a kind that adds up to a state here."""
    context = Context(recorded.stream_id, recorded.workspace_id, recorded.actor, recorded.at)
    if isinstance(event, KeyEvent):
        if isinstance(state, Key) or (state is None and isinstance(event, KeyCreated | KeyImported)):
            return keys.evolve(state, event, context)
    elif isinstance(event, WorkspaceEvent | MemberEvent) and (
        isinstance(state, Workspace) or (state is None and isinstance(event, WorkspaceCreated))
    ):
        return workspaces.evolve(state, event, context)
    elif isinstance(event, PepperEvent) and (state is None or isinstance(state, PepperState)):
        return peppers.evolve(state, event, context)
    return None


def compare(
    stream_id: str, folded: Folded | None, stream: StreamRow | None, stored: StateRow | None, *, opened: bool
) -> None:
    """Raise `Differs` unless both tables say what the events say, sealed fields left out unless `opened`."""
    where = f"stream {stream_id}"
    if folded is None:
        if stream is not None and stream.version:
            raise Differs(Difference(where, f"{stream.version} events", "none"))
        if stored is not None:
            raise Differs(Difference(f"state of {stream_id}", ABSENT, f"version {stored.version}"))
        return
    told = StreamRow(folded.workspace_id, folded.version)
    _same(where, told, stream)
    if folded.state is None:
        return
    where = f"state of {stream_id}"
    if folded.deleted:
        if stored is not None:
            raise Differs(Difference(where, f"{ABSENT}, for it is deleted", f"version {stored.version}"))
        return
    if stored is None:
        raise Differs(Difference(where, f"version {folded.version}", ABSENT))
    for field in ("kind", "workspace_id", "version", "position", "created_position"):
        expected, found = getattr(folded, field), getattr(stored, field)
        if expected != found:
            raise Differs(Difference(f"{where}, {field}", str(expected), str(found)))
    _same_body(where, folded, stored, opened=opened)


def compare_members(stream_id: str, folded: Folded | None, stored: Mapping[str, Member]) -> None:
    """Raise `Differs` unless the table of members says of this stream what its events say."""
    told: Mapping[str, Member] = {}
    if folded is not None:
        if folded.state is None:
            return
        if isinstance(folded.state, Workspace):
            told = folded.state.members
    for user in sorted({*told, *stored}):
        expected, found = told.get(user), stored.get(user)
        if expected != found:
            words = [
                ABSENT if each is None else msgspec.json.encode(each).decode() for each in (expected, found)
            ]
            raise Differs(Difference(f"member {user} of {stream_id}", *words))


def _same(where: str, expected: StreamRow, found: StreamRow | None) -> None:
    if found is None:
        raise Differs(Difference(where, f"version {expected.version} in the table of streams", ABSENT))
    for field in ("workspace_id", "version"):
        if getattr(expected, field) != getattr(found, field):
            told = str(getattr(expected, field)), str(getattr(found, field))
            raise Differs(Difference(f"{where}, {field} in the table of streams", *told))


def _same_body(where: str, folded: Folded, stored: StateRow, *, opened: bool) -> None:
    expected, found = msgspec.json.decode(folded.body), msgspec.json.decode(stored.body)
    if not opened:
        expected, found = _without_sealed(expected), _without_sealed(found)
    differing = _path(expected, found)
    if differing is not None:
        path, one, other = differing
        raise Differs(Difference(f"{where}, {'.'.join(path)}", _shown(path, one), _shown(path, other)))


def _without_sealed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_sealed(part) for name, part in value.items() if name not in SEALED}
    return [_without_sealed(part) for part in value] if isinstance(value, list) else value


def _path(expected: Any, found: Any, path: tuple[str, ...] = ()) -> tuple[tuple[str, ...], Any, Any] | None:
    """Where two JSON values first differ, in the order of names, and the two parts there."""
    if expected == found:
        return None
    if isinstance(expected, dict) and isinstance(found, dict):
        names = sorted({*expected, *found})
        pairs = [(name, expected.get(name, ABSENT), found.get(name, ABSENT)) for name in names]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = [(str(at), one, other) for at, (one, other) in enumerate(zip(expected, found, strict=True))]
    else:
        return path, expected, found
    for name, one, other in pairs:
        if (inner := _path(one, other, (*path, name))) is not None:
            return inner
    return path, expected, found


def _shown(path: tuple[str, ...], value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    if value == ABSENT:
        return ABSENT
    if SECRET & {*path} or "digests" in text or '"proof"' in text:
        return f"something of fingerprint {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return text

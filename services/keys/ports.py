"""What the key service needs from outside: the log, the states folded from it, and the answers it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias
from uuid import UUID

from msgspec import Struct

from keyledger.events import Epoch, Recorded
from keyledger.wire import UseBatch

Kind: TypeAlias = Literal["key", "workspace"]


class VersionConflict(Exception):
    """Someone else appended to the stream first: load again, decide again."""


class AlreadyAnswered(Exception):
    """The same Idempotency-Key has been answered; look the answer up."""


class AnswerInProgress(Exception):
    """The same Idempotency-Key is being answered elsewhere at this moment."""


class NewEvent(Struct, frozen=True):
    """An event to append; `data` as it will be stored and hashed."""

    type: str
    schema_version: int
    actor: str
    request_id: str
    data: bytes


class NewAnswer(Struct, frozen=True):
    """An answer to keep until `kept_until` (µs), under the name `id`."""

    id: bytes
    request_hash: bytes
    sealed: bytes
    kept_until: int


class Command(Struct, frozen=True):
    """One command's write: all of it happens, or none.

    `body` is the stream's state afterwards as JSON; `stamps` are the paths in it that take the moment of the
    commit. `data_key` is the wrapped key of a workspace created here.
    """

    command_id: UUID
    stream_id: str
    kind: Kind
    workspace_id: str
    expected_version: int
    now: int
    events: tuple[NewEvent, ...]
    body: bytes
    stamps: tuple[tuple[str, ...], ...] = ()
    data_key: bytes | None = None
    answer: NewAnswer | None = None


class Appended(Struct, frozen=True):
    """What came of a command: the stream's version, its last position, the moment (µs), the epoch."""

    version: int
    position: int
    at: int
    epoch: Epoch


class Stored(Struct, frozen=True):
    """A state as it stands, with the head it was read at."""

    stream_id: str
    workspace_id: str
    version: int
    position: int
    created_position: int
    body: bytes


class KeptAnswer(Struct, frozen=True):
    """A kept answer, and where and when its command was recorded."""

    request_hash: bytes
    sealed: bytes
    position: int
    at: int


class HeadNow(Struct, frozen=True):
    """The head of the log: nothing committed is later."""

    epoch: Epoch
    position: int
    hash: bytes
    at: int


class KeyFilter(Struct, frozen=True):
    """Which keys of a workspace to list; None asks for any. `now` (µs) decides what has expired."""

    now: int
    environment: str | None = None
    status: str | None = None
    external_id: str | None = None
    search: str | None = None


class EventLog(Protocol):
    """The only way anything is written."""

    async def append(self, command: Command) -> Appended:
        """Commit the command's events, state and answer in one transaction.

        Raises `VersionConflict`, `AlreadyAnswered`, `AnswerInProgress`, or a `Refusal`: `unavailable` when
        nothing was written, `outcome_unknown` when that cannot be told.
        """
        ...


class States(Protocol):
    """Reads of the primary; each answer is one snapshot."""

    async def head(self) -> HeadNow:
        """The head as of now."""
        ...

    async def get(self, stream_id: str) -> tuple[Stored | None, HeadNow]:
        """One state, and the head it was read at."""
        ...

    async def credential(self, key_id: str) -> tuple[Stored, Stored] | None:
        """A key and its workspace."""
        ...

    async def keys(
        self, workspace_id: str, wanted: KeyFilter, *, before: int | None, limit: int
    ) -> tuple[Sequence[Stored], HeadNow]:
        """Keys created before that position, newest first."""
        ...

    async def workspaces(self, *, before: int | None, limit: int) -> tuple[Sequence[Stored], HeadNow]:
        """Workspaces created before that position, newest first."""
        ...

    async def events(
        self, workspace_id: str, stream_id: str | None, *, after: int, limit: int
    ) -> tuple[Sequence[Recorded], HeadNow]:
        """Events of a workspace, or of one of its streams, oldest first."""
        ...

    async def position_at(self, moment: int) -> int:
        """The last position at or before `moment` (µs), 0 before the first."""
        ...

    async def moment_of(self, position: int) -> int | None:
        """The moment (µs) of the event at this position, None where there is none."""
        ...

    async def data_key(self, workspace_id: str) -> bytes | None:
        """The wrapped data key, or None once it is destroyed."""
        ...

    async def answer(self, answer_id: bytes, *, now: int) -> KeptAnswer | None:
        """A kept answer that is still valid at `now`."""
        ...


class Feed(Protocol):
    """Recorded events as followers get them, in length-prefixed pages."""

    async def page(self, after: int, limit: int) -> bytes:
        """Key events after a position: a `Page`, then `Followed` records."""
        ...


class UseFeed(Protocol):
    """Recorded uses as the usage service gets them, in length-prefixed pages."""

    async def uses(self, after: int, limit: int) -> bytes:
        """Use batches after a position: a `Page`, then `RecordedUses`."""
        ...


class UseLog(Protocol):
    """The log of uses."""

    async def record(self, batch: UseBatch, *, now: int) -> int:
        """Record a batch once, however often it comes; answers the seq expected next from its source."""
        ...

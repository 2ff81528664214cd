"""What the key service needs from outside: the log, the states folded from it, and the answers it keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias
from uuid import UUID

from msgspec import Struct

from keyledger.events import Epoch, LostDenial, Recorded
from keyledger.wire import UseBatch

Kind: TypeAlias = Literal["key", "workspace", "peppers"]


class VersionConflict(Exception):
    """Someone else appended to the stream first: load again, decide again."""


class AlreadyAnswered(Exception):
    """The same Idempotency-Key has been answered; look the answer up."""


class AnswerInProgress(Exception):
    """The same Idempotency-Key is being answered elsewhere at this moment."""


class TokensTaken(Exception):
    """Some of the tokens to import belong to keys already; `places` are theirs in the list, from 0."""

    def __init__(self, places: Sequence[int]) -> None:
        super().__init__("tokens taken")
        self.places = tuple(places)


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


class Follower(Struct, frozen=True):
    """A verifier, when it was last answered (µs), and how old (µs) a view it answers from at most."""

    name: str
    seen: int
    max_staleness: int


class HeadNow(Struct, frozen=True):
    """The head of the log: nothing committed is later."""

    epoch: Epoch
    position: int
    hash: bytes
    at: int


_HINT = re.compile(r"(?:\w*…)?([0-9A-Za-z]{4})", re.ASCII)


class KeyFilter(Struct, frozen=True):
    """Which keys of a workspace to list; None asks for any. `now` (µs) decides what has expired."""

    now: int
    environment: str | None = None
    status: str | None = None
    external_id: str | None = None
    search: str | None = None

    @property
    def hint_ending(self) -> str | None:
        """How a hint must end to be found: `…` and the four characters that a secret is known by."""
        found = _HINT.fullmatch(self.search or "")
        return f"…{found[1]}" if found else None


class EventLog(Protocol):
    """The only way anything is written."""

    async def append(self, command: Command) -> Appended:
        """Commit the command's events, state and answer in one transaction.

        A `workspace_deleted` destroys the workspace's data key and its state with it.

        Raises `VersionConflict`, `AlreadyAnswered`, `AnswerInProgress`, or a `Refusal`: `unavailable` when
        nothing was written, `outcome_unknown` when that cannot be told, `not_found` when the workspace was
        deleted.
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

    async def events_before(
        self, workspace_id: str, stream_id: str | None, *, before: int | None, limit: int
    ) -> tuple[Sequence[Recorded], HeadNow]:
        """Events of a workspace, or of one of its streams, before a position, newest first."""
        ...

    async def events_behind(
        self, workspace_id: str, versions: Mapping[str, int], *, until: int, limit: int
    ) -> Sequence[Recorded]:
        """Events of these streams behind the version given for each, up to a position, oldest first."""
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


class EpochTold(Struct, frozen=True):
    """One telling of the log: where and when (µs) it began, what was lost then, when that was accepted."""

    epoch: Epoch
    base_position: int
    at: int
    accepted_at: int | None
    lost: tuple[LostDenial, ...]


class EpochAt(Struct, frozen=True):
    """The epoch that was accepted, and where in the log, and when (µs)."""

    epoch: Epoch
    position: int
    at: int


class Epochs(Protocol):
    """The tellings of the log, and what of an older one is still refused."""

    async def told(self) -> Sequence[EpochTold]:
        """Every epoch, oldest first."""
        ...

    async def accept(self, number: int, *, actor: str, request_id: str, workspace_id: str) -> EpochAt:
        """Let the log's own word count from here on; a `conflict` unless `number` is the epoch of now."""
        ...

    async def lost(self, key_id: str, workspace_id: str) -> Sequence[LostDenial]:
        """What was lost of this key, or of all keys of its workspace, and is not accepted."""
        ...


class Followers(Protocol):
    """Verifiers that may answer from what they were told of the head; every process knows them."""

    async def all(self) -> Sequence[Follower]:
        """Those heard of lately."""
        ...

    async def note(self, heard: Sequence[Follower], *, now: int) -> None:
        """These were answered."""
        ...

    async def forget(self, name: str) -> None:
        """This one stopped, and answers nobody any more."""
        ...


class ImportedTokens(Protocol):
    """Other systems' tokens, by keyed names that tell nothing of them; unique across all workspaces."""

    async def key_of(self, name: bytes) -> str | None:
        """The id of the key that was imported with this token."""
        ...

    async def taken(self, names: Sequence[bytes]) -> Sequence[int]:
        """The places in the list, from 0, of the tokens that some key has."""
        ...

    async def append(self, names: Sequence[bytes], commands: Sequence[Command]) -> Sequence[Appended]:
        """Commit all of these creations, one of one workspace for each name, in one transaction, or none.

        Raises `TokensTaken`, and what `EventLog.append` raises. The answer to keep is the first command's.
        """
        ...


class DigestCounts(Protocol):
    """How far the keys have moved to a pepper."""

    async def without_digest(self, pepper: str, *, now: int) -> int:
        """How many keys have a secret that is good at `now` (µs), and no digest of it under this pepper."""
        ...


class Feed(Protocol):
    """Recorded events as followers get them, in length-prefixed pages."""

    async def page(self, after: int, limit: int) -> bytes:
        """Key events after a position: a `Page`, then `Followed` records."""
        ...


class Snapshots(Protocol):
    """The current state of every key and workspace as followers get it, in length-prefixed pages."""

    async def page(self, after: str, limit: int, since: int) -> bytes:
        """The streams behind this id, in order: a `SnapshotPage`, then lists of key and workspace states.

        `since` is the first page's head, 0 for the first page: the page is read at that position or later.
        """
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


class Standing(Struct, frozen=True):
    """A user's role in a workspace, None for no member, and whether the session was ended."""

    role: str | None
    ended: bool


class Memberships(Protocol):
    """Reads of the primary, each of them one snapshot, and the ends of sessions.

    A member whose removal, or lesser role, a restore of the log has lost is none until that is accepted.
    """

    async def standing(self, user_id: str, workspace_id: str, session_id: str) -> Standing:
        """The user's role in this workspace, and whether this session was ended."""
        ...

    async def workspaces_of(
        self, user_id: str, *, before: int | None, limit: int
    ) -> tuple[Sequence[tuple[Stored, str]], HeadNow]:
        """The user's workspaces that were created before that position, newest first, with their role."""
        ...

    async def end(self, session_id: str, *, until: int) -> None:
        """Refuse this session from now on; it may be forgotten after `until` (µs)."""
        ...

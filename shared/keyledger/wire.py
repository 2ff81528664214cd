"""What travels between the services: followed events, uses, heads, and the framing of a feed page.

All of it is msgpack of arrays: a new field goes to the end and gets a default. Golden files freeze it.
"""

from __future__ import annotations

import struct

from msgspec import Struct


class Followed(Struct, frozen=True, array_like=True):
    """One event as followers get it, by feed and by bus: the private part open, the proof left out."""

    position: int
    previous_hash: bytes
    hash: bytes
    stream_id: str
    version: int
    type: str
    schema_version: int
    workspace_id: str
    at: int
    data: bytes


class Use(Struct, frozen=True, array_like=True):
    """How often one key met one outcome in one minute, as one verifier counted it.

    `minute` is µs of the minute's start, `last_at` µs of the last use, `cost` the limit units spent.
    `external_id` is the key's at the time of use, empty for a key without one.
    """

    workspace_id: str
    key_id: str
    environment: str
    minute: int
    outcome: str
    count: int
    cost: int
    last_at: int
    external_id: str = ""

    def __repr__(self) -> str:
        # somebody else's name for a person is nobody's business in a log
        return f"Use({self.key_id}, {self.minute}, {self.outcome}, {self.count})"


class UseBatch(Struct, frozen=True, array_like=True):
    """What a verifier sends each second; `(boot, seq)` identifies it for ever, `seq` counts up from 0.

    `first_uses` are the (key id, secret's version) that were first used, of keys that asked to be told.
    """

    boot: str
    seq: int
    uses: tuple[Use, ...]
    first_uses: tuple[tuple[str, int], ...] = ()


class RecordedUses(Struct, frozen=True, array_like=True):
    """A batch as the use log holds it, at its dense position."""

    position: int
    at: int
    uses: tuple[Use, ...]


class ErasedUses(RecordedUses, frozen=True, array_like=True):
    """A batch without uses that says which workspaces are deleted: no later batch has uses of theirs.

    Who reads this reads every batch; an older reader takes it for an empty one.
    """

    erased: tuple[str, ...] = ()


class Page(Struct, frozen=True, array_like=True):
    """What precedes the records of a feed page: the epoch and head it was read at, its last position."""

    epoch_number: int
    epoch_line: bytes
    head_position: int
    head_hash: bytes
    last_position: int


class Head(Struct, frozen=True, array_like=True):
    """The answer to a follower's question for the head; `nonce` repeats the question's.

    `writable` is False when Postgres could not be asked; position and hash are then the last ones known.
    `pepper` is the one under which new digests are made; `writer` names the process that answers.
    """

    nonce: str
    epoch_number: int
    epoch_line: bytes
    position: int
    hash: bytes
    at: int
    writable: bool = True
    pepper: str = ""
    writer: str = ""


class HeadQuestion(Struct, frozen=True, array_like=True):
    """What a follower asks once a second: who it is, how far it has applied, which peppers it holds.

    `max_staleness` is how old a view (in seconds) it answers from at most. `leaving`: it has stopped and
    answers nobody any more.
    """

    nonce: str
    verifier: str
    epoch_line: bytes = b""
    applied: int = 0
    peppers: tuple[str, ...] = ()
    max_staleness: float = 300.0
    leaving: bool = False


SNAPSHOT_MEANING = 1
"""What the records of a snapshot say and mean; a follower that does not know it reads the feed instead, where
each event that it cannot read costs one key only. It grows with every new tag that changes a record."""


class SnapshotPage(Struct, frozen=True, array_like=True):
    """What precedes the frames of a snapshot page: the epoch and head it was read at, where to go on.

    Each frame is a list of `KeyState` and `WorkspaceState`. `after` is empty on the last page. `whole` is
    False while the log holds what no record tells (lost denials in force, an event that the key service
    cannot read). `accepted` are the number of the last accepted epoch and the hash of the event that says so.
    """

    meaning: int
    epoch_number: int
    epoch_line: bytes
    head_position: int
    head_hash: bytes
    after: str
    whole: bool
    accepted: tuple[int, bytes] | None = None


class LimitState(Struct, frozen=True, gc=False, omit_defaults=True):
    """A rate limit, as events tell it."""

    limit: int
    window_seconds: int
    on_outage: str | None = None
    before: int | None = None
    since: int = 0


class QuotaState(Struct, frozen=True, gc=False, omit_defaults=True):
    """A quota, as events tell it."""

    limit: int
    period: str
    since: int = 0


class SecretState(Struct, frozen=True, gc=False, omit_defaults=True):
    """One secret of a key, without its proof. It ends at the earlier of the two moments (µs), if any."""

    digests: dict[str, bytes]
    valid_until: int | None = None
    dropped_at: int | None = None
    version: int = 1
    foreign: bool = False
    on_first_use: bool = False


class KeyBody(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a verifier needs to know of a key; `secrets` are oldest first, moments µs."""

    environment: str
    name: str
    scopes: tuple[str, ...]
    secrets: tuple[SecretState, ...]
    enabled: bool = True
    revoked_at: int | None = None
    expires_at: int | None = None
    allowed_ips: tuple[str, ...] | None = None
    rate_limit: LimitState | None = None
    external_id: str | None = None
    metadata: dict[str, str] = {}
    quota: QuotaState | None = None


class KeyState(Struct, frozen=True, gc=False, array_like=True, tag="key"):
    """A key as it stands after its event at `position`."""

    key_id: str
    workspace_id: str
    version: int
    position: int
    body: KeyBody


class WorkspaceBody(Struct, frozen=True, gc=False, omit_defaults=True):
    """What a verifier needs to know of a workspace; of a deleted one only that."""

    name: str = ""
    rate_limit: LimitState | None = None
    suspended: bool = False
    deleted: bool = False
    quota: QuotaState | None = None


class WorkspaceState(Struct, frozen=True, gc=False, array_like=True, tag="workspace"):
    """A workspace as it stands after its event at `position`."""

    workspace_id: str
    owner_id: str
    version: int
    position: int
    body: WorkspaceBody


def frame(records: list[bytes]) -> bytes:
    """Length-prefixed binary (u32 big-endian), the body of a feed page: a `Page`, then its records."""
    return b"".join(struct.pack(">I", len(record)) + record for record in records)


def unframe(body: bytes) -> list[memoryview]:
    """The records of a framed body; `ValueError` when it is cut short."""
    view, records, offset = memoryview(body), list[memoryview](), 0
    while offset < len(view):
        if offset + 4 > len(view):
            raise ValueError("a length is cut short")
        (length,) = struct.unpack_from(">I", view, offset)
        offset += 4
        if offset + length > len(view):
            raise ValueError("a record is cut short")
        records.append(view[offset : offset + length])
        offset += length
    return records

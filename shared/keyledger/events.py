"""The wire: every event of the key log, its codec, its canonical bytes and the chain's hash.

Tags are written out and frozen, with golden files in the tests: a new field gets a default, a new meaning
gets a new tag. A consumer looks at the tag first (`decode` answers `Unknown` for one it does not know), so
that an event from the future costs one key and not the whole consumer.

What a person may have typed sits in an event's `private` part. In the log it is ciphertext (`bytes`); the
key service opens it for the feed, leaving the proofs out; it is None once the workspace's data key is
destroyed. The hash covers the ciphertext, so the chain outlives the text.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from keyledger.event_reader import Reader, Unknown, Upcast

Environment: TypeAlias = Literal["live", "test"]
OnOutage: TypeAlias = Literal["static", "closed", "open"]
Retire: TypeAlias = Literal["at_overlap", "on_first_use"]
Period: TypeAlias = Literal["day", "month"]

GENESIS = bytes(32)
SYSTEM_ACTOR = "system"


class RateLimit(Struct, frozen=True, omit_defaults=True):
    """At most `limit` requests in each epoch-aligned cell of `window_seconds`.

    `on_outage` says what holds while no grants can be had; None is the default, `static`. A raised limit
    holds in cells that start at `since` (µs) or later; in those before, at most `before`.
    """

    limit: int
    window_seconds: int
    on_outage: OnOutage | None = None
    before: int | None = None
    since: int = 0


class Quota(Struct, frozen=True, omit_defaults=True):
    """At most `limit` requests in each calendar period, UTC; this one since a moment (µs), of several."""

    limit: int
    period: Period
    since: int = 0


class NewSecret(Struct, frozen=True):
    """A secret as recorded: what may be shown of it, and its digests by pepper id."""

    hint: str
    digests: dict[str, bytes]


class KeyText(Struct, frozen=True, omit_defaults=True):
    """The private part of `key_created`. `proof` is the Argon2id PHC string; the feed leaves it out."""

    name: str
    allowed_ips: tuple[str, ...] | None = None
    external_id: str | None = None
    metadata: dict[str, str] = {}
    proof: str | None = None


class KeyTextChange(Struct, frozen=True, omit_defaults=True):
    """The private part of `key_changed`: what is absent stays as it is."""

    name: str | UnsetType = UNSET
    allowed_ips: tuple[str, ...] | None | UnsetType = UNSET
    external_id: str | None | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET


class Proof(Struct, frozen=True, omit_defaults=True):
    """The private part of `key_rotated`; the feed leaves the proof out."""

    proof: str | None = None


class Reason(Struct, frozen=True, omit_defaults=True):
    """The private part of `key_revoked`."""

    reason: str | None = None
    note: str | None = None


class WorkspaceText(Struct, frozen=True, omit_defaults=True):
    """The private part of `workspace_created` and `workspace_changed`."""

    name: str | UnsetType = UNSET


class KeyCreated(Struct, frozen=True, omit_defaults=True):
    """A key exists from here on, with its first secret."""

    environment: Environment
    scopes: tuple[str, ...]
    secret: NewSecret
    expires_at: int | None = None
    rate_limit: RateLimit | None = None
    private: KeyText | bytes | None = None
    quota: Quota | None = None


class KeyImported(Struct, frozen=True, omit_defaults=True):
    """A key exists from here on whose first secret is another system's token.

    Its digests are those of the token's SHA-256, and so is its proof.
    """

    environment: Environment
    scopes: tuple[str, ...]
    secret: NewSecret
    expires_at: int | None = None
    rate_limit: RateLimit | None = None
    private: KeyText | bytes | None = None
    quota: Quota | None = None


class SecretDigested(Struct, frozen=True, omit_defaults=True):
    """A secret, named by the version of the event that recorded it, has these digests besides."""

    secret: int
    digests: dict[str, bytes]


class SecretRetired(Struct, frozen=True, omit_defaults=True):
    """A secret, named by the version of the event that recorded it, ends here at the latest."""

    secret: int


class KeyChanged(Struct, frozen=True, omit_defaults=True):
    """Some of a key's fields have new values; what is absent stays as it is."""

    scopes: tuple[str, ...] | UnsetType = UNSET
    expires_at: int | None | UnsetType = UNSET
    rate_limit: RateLimit | None | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    private: KeyTextChange | bytes | None = None
    quota: Quota | None | UnsetType = UNSET


class KeyRotated(Struct, frozen=True, omit_defaults=True):
    """A key has a new secret; the one before it ends at `previous_valid_until` (µs), an older one now."""

    secret: NewSecret
    previous_valid_until: int
    retire: Retire = "at_overlap"
    private: Proof | bytes | None = None


class KeyRevoked(Struct, frozen=True, omit_defaults=True):
    """The key is refused from here on, for ever."""

    private: Reason | bytes | None = None


class WorkspaceCreated(Struct, frozen=True, omit_defaults=True):
    """A workspace exists. The system workspace is the one whose keys may administer every other."""

    rate_limit: RateLimit
    system: bool = False
    private: WorkspaceText | bytes | None = None
    quota: Quota | None = None


class WorkspaceChanged(Struct, frozen=True, omit_defaults=True):
    """Some of a workspace's fields have new values; suspension stops verification, not management."""

    rate_limit: RateLimit | UnsetType = UNSET
    suspended: bool | UnsetType = UNSET
    private: WorkspaceText | bytes | None = None
    quota: Quota | None | UnsetType = UNSET


class WorkspaceDeleted(Struct, frozen=True, omit_defaults=True):
    """The workspace and all its keys are gone: its data key is destroyed, and no later event of it counts."""


class MemberAdded(Struct, frozen=True):
    """A user (`user_…`) may act in the workspace from here on; a role that is not known grants nothing."""

    user: str
    role: str


class MemberChanged(Struct, frozen=True):
    """A member has another role from here on."""

    user: str
    role: str


class MemberRemoved(Struct, frozen=True):
    """A user is no member of the workspace any more, or has left it."""

    user: str


class PepperActivated(Struct, frozen=True, omit_defaults=True):
    """New digests are made under this pepper from here on: every live verifier holds it."""

    pepper: str


class PepperRetired(Struct, frozen=True, omit_defaults=True):
    """No digest under this pepper is needed any more, and none is made."""

    pepper: str


class LostDenial(Struct, frozen=True, omit_defaults=True):
    """What an older telling of the log refused and the restored one does not know to refuse.

    A key, one secret of it (`secret` is the version of the event that made it), or, without `key_id`, all
    keys of a workspace; or a member of one, whose user id stands for the key's then. `what` is a word of
    `LOST`; one that is not known here refuses all the same. `since` (µs) is the moment from which an expired
    key or a retired secret is refused.
    """

    workspace_id: str
    what: str
    key_id: str | None = None
    secret: int | None = None
    since: int | None = None


LOST = (
    "revoked", "disabled", "retired", "expired", "unreadable", "suspended", "deleted", "removed", "demoted",
)  # fmt: skip


class EpochStarted(Struct, frozen=True, omit_defaults=True):
    """Postgres went back in time: from here on the log is another telling, hashed under `line`.

    `base_position` is the last position hashed under the older line; `shared_position` the last one that
    both tellings have in common, `lost_position` where the older one ended as far as the bus still knew.
    `lost` stays refused until `epoch_accepted`; a long list stands in several events of the same number.
    """

    number: int
    line: bytes
    base_position: int
    shared_position: int = 0
    lost_position: int = 0
    lost: tuple[LostDenial, ...] = ()


class EpochAccepted(Struct, frozen=True, omit_defaults=True):
    """An operator has looked at what was lost: from here on the log's own word counts, up to this epoch."""

    number: int


KeyEvent: TypeAlias = (
    KeyCreated | KeyImported | KeyChanged | KeyRotated | KeyRevoked | SecretDigested | SecretRetired
)
WorkspaceEvent: TypeAlias = WorkspaceCreated | WorkspaceChanged | WorkspaceDeleted
MemberEvent: TypeAlias = MemberAdded | MemberChanged | MemberRemoved
PepperEvent: TypeAlias = PepperActivated | PepperRetired
EpochEvent: TypeAlias = EpochStarted | EpochAccepted
Event: TypeAlias = KeyEvent | WorkspaceEvent | MemberEvent | PepperEvent | EpochEvent

#: tag → (type, the schema version written today)
TAGS: Mapping[str, tuple[type[Any], int]] = {
    "key_created": (KeyCreated, 1),
    "key_imported": (KeyImported, 1),
    "key_changed": (KeyChanged, 1),
    "key_rotated": (KeyRotated, 1),
    "key_revoked": (KeyRevoked, 1),
    "secret_digested": (SecretDigested, 1),
    "secret_retired": (SecretRetired, 1),
    "workspace_created": (WorkspaceCreated, 1),
    "workspace_changed": (WorkspaceChanged, 1),
    "workspace_deleted": (WorkspaceDeleted, 1),
    "member_added": (MemberAdded, 1),
    "member_changed": (MemberChanged, 1),
    "member_removed": (MemberRemoved, 1),
    "pepper_activated": (PepperActivated, 1),
    "pepper_retired": (PepperRetired, 1),
    "epoch_started": (EpochStarted, 1),
    "epoch_accepted": (EpochAccepted, 1),
}
#: (tag, an older schema version) → what turns its raw JSON object into the next version's. `private` is text
#: in it while it is sealed and an object once it is open; both must pass.
UPCASTS: Mapping[tuple[str, int], Upcast] = {}

_TAG_OF = {kind: tag for tag, (kind, _) in TAGS.items()}
_ENCODER = msgspec.json.Encoder(order="deterministic")


def private_place(stream_id: str, version: int, tag: str) -> bytes:
    """Where a private part stands: sealed for this place, it opens nowhere else."""
    return f"{stream_id}\n{version}\n{tag}".encode()


def tag_of(event: Event) -> str:
    """The frozen tag of this event."""
    return _TAG_OF[type(event)]


def schema_version_of(event: Event) -> int:
    """The schema version this event is written with today."""
    return TAGS[_TAG_OF[type(event)]][1]


def encode(event: Event) -> bytes:
    """The event's data, deterministic JSON, without its tag (which the envelope carries)."""
    return _ENCODER.encode(event)


_READER = Reader(TAGS, UPCASTS)


def decode(tag: str, schema_version: int, data: bytes) -> Event | Unknown:
    """Read an event of any version ever written; never raises for content it does not know."""
    return _READER.decode(tag, schema_version, data)


class Epoch(Struct, frozen=True):
    """Which telling of the log: the number grows when Postgres goes back in time; line = 8 random bytes."""

    number: int
    line: bytes

    @property
    def text(self) -> str:
        """As it stands in answers, subjects and stream names: `<number>-<line in hex>`."""
        return f"{self.number}-{self.line.hex()}"


class Recorded(Struct, frozen=True):
    """One event as the log holds it; `data` byte for byte."""

    position: int
    stream_id: str
    version: int
    type: str
    schema_version: int
    workspace_id: str
    actor: str
    request_id: str
    at: int
    data: bytes
    hash: bytes
    previous_hash: bytes


def chain_hash(previous: bytes, epoch_line: bytes, event: Recorded) -> bytes:
    """The hash of `event` after `previous`; the database computes the same.

    SHA-256(0x01 ‖ previous ‖ u64 position ‖ the other fields, each behind its length as u32), big-endian.
    """
    canonical = hashlib.sha256(b"\x01" + previous + struct.pack(">Q", event.position))
    for field in (
        epoch_line,
        event.stream_id.encode(),
        struct.pack(">Q", event.version),
        event.type.encode(),
        struct.pack(">H", event.schema_version),
        event.workspace_id.encode(),
        event.actor.encode(),
        event.request_id.encode(),
        struct.pack(">q", event.at),
        event.data,
    ):
        canonical.update(struct.pack(">I", len(field)))
        canonical.update(field)
    return canonical.digest()

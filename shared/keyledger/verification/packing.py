"""Records as bytes: msgpack arrays in which what many records share stands once, as a numbered word.

A packed record is flags (1 byte), its workspace's id (22), its body, and a CRC-32 over its row's key and all
of this (4). The flags tell without decoding whether the record denies anything. The body is msgpack; that of
a key with one secret, as most are, a few numbers, the digest and the texts, and the rest one word: its shape.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec
from msgspec import Struct

from keyledger.events import Quota, RateLimit
from keyledger.verification.lost import denies_something
from keyledger.verification.projection import KeyRecord, SecretRecord, WorkspaceRecord
from keyledger.verification.record_ids import SIZE, WORKSPACE, text_id
from keyledger.verification.store import Damaged

WORD_LIMIT = 16_384
"""Words of one store; what finds no room stands in its record."""
LONGEST_WORD = 1024
SEEN_LIMIT = 65_536
OWNER = slice(1, 1 + SIZE)
"""Where a packed record of a key has its workspace."""
DENIES = 1
_REVOKED, _DISABLED, _UNREADABLE = 2, 4, 8
IMPORTED = 16
"""Of a key: it may be found by the digest of another system's token."""
_PLAIN = 32
_HEAD = OWNER.stop
_CRC = 4
_WHOLE = 0x2144DF1C
"""The CRC-32 of anything that ends in its own."""
_NUMBERS = struct.Struct("<HHIIq32s")
"""Of a plain key: the number of its shape, the bytes of its name, both versions, its end, the digest."""
_TEXTS = _HEAD + _NUMBERS.size
_NEVER = -(1 << 63)
_MOST, _LONGEST = (1 << 32) - 1, (1 << 16) - 1
_SHAPE = 0
"""What a shape begins with, and no other word."""
_ARRAY = 0x90
_DIGEST = 32
_FOREIGN, _ON_FIRST_USE = 1, 2
_NO_METADATA: Mapping[str, str] = {}
OWNERS_KEPT = 65_536

Word: TypeAlias = "str | tuple[str, ...] | dict[str, str] | _Shape"


class _Secret(Struct, array_like=True, gc=False):
    digests: dict[int, bytes]
    valid_until: int | None
    version: int
    flags: int


class _Limit(Struct, array_like=True, gc=False):
    limit: int
    window_seconds: int
    on_outage: str | None = None
    before: int | None = None
    since: int = 0


class _Quota(Struct, array_like=True, gc=False):
    limit: int
    period: str
    since: int = 0


class _Key(Struct, array_like=True, gc=False):
    environment: int
    name: str
    scopes: int | tuple[str, ...]
    secrets: tuple[_Secret, ...]
    version: int
    expires_at: int | None
    allowed_ips: tuple[str, ...] | None
    rate_limit: _Limit | None
    external_id: str | None
    metadata: int | dict[str, str] | None
    quota: _Quota | None = None


class _Shape(Struct, array_like=True, frozen=True, gc=False):
    """What many plain keys have in common."""

    kind: int
    environment: str
    scopes: tuple[str, ...]
    metadata: dict[str, str]
    allowed_ips: tuple[str, ...] | None
    rate_limit: RateLimit | None
    pepper: str
    external: bool
    foreign: bool
    on_first_use: bool
    quota: Quota | None = None


class _Workspace(Struct, array_like=True, gc=False):
    name: str
    rate_limit: _Limit
    suspended: bool
    unreadable: bool
    deleted: bool
    quota: _Quota | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_key = msgspec.msgpack.Decoder(_Key).decode
_decode_workspace = msgspec.msgpack.Decoder(_Workspace).decode
_decode_word = msgspec.msgpack.Decoder(str | list[str] | dict[str, str]).decode
_decode_shape = msgspec.msgpack.Decoder(_Shape).decode
_unpack_numbers = _NUMBERS.unpack_from
_crc32 = zlib.crc32


class Words:
    """What records share, by number. Words are only ever added, and `added` are those not written yet."""

    def __init__(self, read: Callable[[int], bytes | None]) -> None:
        """`read` brings the bytes of a word that is not known here yet."""
        self.added: dict[int, bytes] = {}
        self._read = read
        self.known: dict[int, Word] = {}
        """The words that are known here, by number."""
        self._numbers: dict[bytes, int] = {}
        self._seen: set[int] = set()

    def learn(self, number: int, encoded: bytes) -> None:
        """A word that is in the store."""
        self.known[number] = _word(encoded)
        self._numbers[encoded] = number

    def forget(self) -> None:
        """Know nothing, as before anything was learned."""
        for each in (self.added, self.known, self._numbers):
            each.clear()

    def word(self, number: int) -> Word:
        """The word of this number; `Damaged` when there is none."""
        found = self.known.get(number)
        if found is None:
            encoded = self._read(number)
            if encoded is None:
                raise Damaged("a word is missing")
            self.learn(number, encoded)
            found = self.known[number]
        return found

    def number(self, value: object, *, always: bool = False) -> int | None:
        """The word's number, a new one from the second time on; None when it has to stand in its record."""
        encoded = _encode(value)
        number = self._numbers.get(encoded)
        if number is not None or not (always or self._again(encoded)):
            return number
        number = len(self._numbers) + 1
        self.learn(number, encoded)
        self.added[number] = encoded
        return number

    def _again(self, encoded: bytes) -> bool:
        if len(encoded) > LONGEST_WORD or len(self._numbers) >= WORD_LIMIT:
            return False
        mark = hash(encoded)
        if mark in self._seen:
            return True
        if len(self._seen) >= SEEN_LIMIT:
            self._seen.clear()
        self._seen.add(mark)
        return False


class Packing:
    """Turns records into the bytes of their rows and back; `row` is a row's key."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._owners: dict[bytes, str] = {}

    def key(self, row: bytes, owner: bytes, record: KeyRecord) -> bytes:
        """The bytes of a key's record, whose workspace has this id."""
        plain = self._plain(record)
        if plain is not None:
            return _sealed(row, _flags(record) | _PLAIN, owner, plain)
        words = self._words
        environment = words.number(record.environment, always=True)
        scopes = words.number(record.scopes)
        metadata = words.number(record.metadata) if record.metadata else None
        packed = _Key(
            environment or 0,
            record.name,
            record.scopes if scopes is None else scopes,
            tuple([self._secret(secret) for secret in record.secrets]),
            record.version,
            record.expires_at,
            record.allowed_ips,
            None if record.rate_limit is None else _packed_limit(record.rate_limit),
            record.external_id,
            (dict(record.metadata) or None) if metadata is None else metadata,
            _packed_quota(record.quota),
        )
        return _sealed(row, _flags(record), owner, _encode(packed))

    def key_record(self, row: bytes, key_id: str, packed: bytes) -> KeyRecord:
        """The record in these bytes; `Damaged` when they are not what was written for this row."""
        if _crc32(packed, _crc32(row)) != _WHOLE or len(packed) < _HEAD + _CRC:
            raise Damaged("a record is not what was written")
        flags, owner = packed[0], packed[OWNER]
        if flags & _PLAIN:
            number, size, version, of_secret, end, digest = _unpack_numbers(packed, _HEAD)
            shape = self._words.known.get(number) or self._words.word(number)
            named = _TEXTS + size
            return KeyRecord(
                key_id,
                self._owners.get(owner) or self._owner(owner),
                shape.environment,  # type: ignore[union-attr]
                packed[_TEXTS:named].decode(),
                shape.scopes,  # type: ignore[union-attr]
                (
                    SecretRecord(
                        {shape.pepper: digest},  # type: ignore[union-attr]
                        None,
                        of_secret,
                        shape.foreign,  # type: ignore[union-attr]
                        shape.on_first_use,  # type: ignore[union-attr]
                    ),
                ),
                None if end == _NEVER else end,
                shape.allowed_ips,  # type: ignore[union-attr]
                shape.rate_limit,  # type: ignore[union-attr]
                packed[named:-_CRC].decode() if shape.external else None,  # type: ignore[union-attr]
                shape.metadata,  # type: ignore[union-attr]
                not flags & _DISABLED,
                flags & _REVOKED != 0,
                flags & _UNREADABLE != 0,
                version,
                shape.quota,  # type: ignore[union-attr]
            )
        it = _decode_key(packed[_HEAD:-_CRC])
        word = self._words.word
        scopes, metadata = it.scopes, it.metadata
        return KeyRecord(
            key_id,
            self._owner(owner),
            word(it.environment),  # type: ignore[arg-type]
            it.name,
            word(scopes) if isinstance(scopes, int) else scopes,  # type: ignore[arg-type]
            tuple([self._secret_record(secret) for secret in it.secrets]),
            it.expires_at,
            it.allowed_ips,
            None if it.rate_limit is None else _rate_limit(it.rate_limit),
            it.external_id,
            word(metadata) if isinstance(metadata, int) else metadata or _NO_METADATA,  # type: ignore[arg-type]
            not flags & _DISABLED,
            flags & _REVOKED != 0,
            flags & _UNREADABLE != 0,
            it.version,
            _quota(it.quota),
        )

    def workspace(self, row: bytes, owner: bytes, record: WorkspaceRecord) -> bytes:
        """The bytes of a workspace's record."""
        packed = _Workspace(
            record.name,
            _packed_limit(record.rate_limit),
            record.suspended,
            record.unreadable,
            record.deleted,
            _packed_quota(record.quota),
        )
        denies = record.suspended or record.unreadable or record.deleted
        return _sealed(row, DENIES if denies else 0, owner, _encode(packed))

    def workspace_record(self, row: bytes, workspace_id: str, packed: bytes) -> WorkspaceRecord:
        """As `key_record`, for a workspace."""
        if _crc32(packed, _crc32(row)) != _WHOLE or len(packed) < _HEAD + _CRC:
            raise Damaged("a record is not what was written")
        it = _decode_workspace(packed[_HEAD:-_CRC])
        limit = _rate_limit(it.rate_limit)
        quota = _quota(it.quota)
        return WorkspaceRecord(workspace_id, it.name, limit, it.suspended, it.unreadable, it.deleted, quota)

    def _plain(self, record: KeyRecord) -> bytes | None:
        """The body of a plain key; None for any other, and while its shape is no word yet."""
        if len(record.secrets) != 1 or len(record.secrets[0].digests) != 1:
            return None
        secret, end = record.secrets[0], record.expires_at
        ((pepper, digest),) = secret.digests.items()
        name, external = record.name.encode(), record.external_id
        if (
            secret.valid_until is not None
            or len(digest) != _DIGEST
            or len(name) > _LONGEST
            or not 0 <= record.version <= _MOST
            or not 0 <= secret.version <= _MOST
            or not (end is None or _NEVER < end < -_NEVER)
        ):
            return None
        shape = _Shape(
            _SHAPE,
            record.environment,
            record.scopes,
            dict(record.metadata),
            record.allowed_ips,
            record.rate_limit,
            pepper,
            external is not None,
            secret.foreign,
            secret.on_first_use,
            record.quota,
        )
        number = self._words.number(shape)
        if number is None or number > _LONGEST:
            return None
        numbers = _NUMBERS.pack(
            number, len(name), record.version, secret.version, _NEVER if end is None else end, digest
        )
        return numbers + name + (external or "").encode()

    def _secret(self, secret: SecretRecord) -> _Secret:
        number = self._words.number
        digests = {number(name, always=True) or 0: digest for name, digest in secret.digests.items()}
        flags = (_FOREIGN if secret.foreign else 0) | (_ON_FIRST_USE if secret.on_first_use else 0)
        return _Secret(digests, secret.valid_until, secret.version, flags)

    def _secret_record(self, secret: _Secret) -> SecretRecord:
        word = self._words.word
        digests = {word(number): digest for number, digest in secret.digests.items()}
        flags = secret.flags
        return SecretRecord(
            digests,  # type: ignore[arg-type]
            secret.valid_until,
            secret.version,
            flags & _FOREIGN != 0,
            flags & _ON_FIRST_USE != 0,
        )

    def _owner(self, raw: bytes) -> str:
        found = self._owners.get(raw)
        if found is None:
            if len(self._owners) >= OWNERS_KEPT:
                self._owners.clear()
            found = self._owners[raw] = text_id(raw, WORKSPACE)
        return found


def _flags(record: KeyRecord) -> int:
    return (
        (DENIES if denies_something(record) else 0)
        | (_REVOKED if record.revoked else 0)
        | (0 if record.enabled else _DISABLED)
        | (_UNREADABLE if record.unreadable else 0)
        | (IMPORTED if any(secret.foreign for secret in record.secrets) else 0)
    )


def _sealed(row: bytes, flags: int, owner: bytes, body: bytes) -> bytes:
    whole = bytes((flags,)) + owner + body
    return whole + _crc32(whole, _crc32(row)).to_bytes(_CRC, "little")


def _packed_limit(limit: RateLimit) -> _Limit:
    return _Limit(limit.limit, limit.window_seconds, limit.on_outage, limit.before, limit.since)


def _rate_limit(limit: _Limit) -> RateLimit:
    return RateLimit(
        limit.limit,
        limit.window_seconds,
        limit.on_outage,  # type: ignore[arg-type]
        limit.before,
        limit.since,
    )


def _packed_quota(quota: Quota | None) -> _Quota | None:
    return None if quota is None else _Quota(quota.limit, quota.period, quota.since)


def _quota(quota: _Quota | None) -> Quota | None:
    return None if quota is None else Quota(quota.limit, quota.period, quota.since)  # type: ignore[arg-type]


def _word(encoded: bytes) -> Word:
    if len(encoded) > 1 and encoded[1] == _SHAPE and encoded[0] & 0xF0 == _ARRAY:
        return _decode_shape(encoded)
    value = _decode_word(encoded)
    return tuple(value) if isinstance(value, list) else value

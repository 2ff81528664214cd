"""JetStream by its JSON API over a `Bus`: streams, stored messages, and publishing with a fence.

Everything is asked of the stream's leader: a direct get may be answered by a replica that is behind.
`BusUnavailable` passes through; after a publish it means that the outcome is unknown.

No `Nats-Msg-Id` anywhere: after a purge a known id is acknowledged and not stored. The fence is
`Nats-Expected-Last-Sequence`, and an acknowledgement counts only when it names the position expected.
"""

from __future__ import annotations

import secrets
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from keyledger.verification.ports import Bus

API_TIMEOUT = 2.0
"""Seconds for one answer of the API; a cluster without a leader answers nothing at all."""
DUPLICATE_WINDOW = 100_000_000
"""Nanoseconds, the least the server takes: ids are not used, so it has nothing to remember."""

_STREAM_MISSING = 10059
_STREAM_EXISTS = 10058
_MESSAGE_MISSING = 10037
_WRONG_LAST_SEQUENCE = (10071, 10164)


class JetStreamError(Exception):
    """The server refused; `code` is its own error code (`err_code`)."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


class StreamMissing(JetStreamError):
    """There is no stream of this name."""


class StreamExists(JetStreamError):
    """A stream of this name was there first, with another configuration."""


class WrongLastSequence(JetStreamError):
    """The stream does not end where the publisher thought: look, and go on from there."""


class StreamConfig(Struct, frozen=True, kw_only=True):
    """A stream that holds a log's tail: its sequence numbers are positions, and nothing expires by age."""

    name: str
    subjects: tuple[str, ...]
    republish: Mapping[str, str]
    metadata: Mapping[str, str]
    first_seq: int
    num_replicas: int
    max_msgs: int
    max_bytes: int
    retention: str = "limits"
    discard: str = "old"
    storage: str = "file"
    allow_atomic: bool = True
    allow_direct: bool = True
    deny_delete: bool = True
    duplicate_window: int = DUPLICATE_WINDOW


class StreamState(Struct, frozen=True):
    """`last_seq` of an empty stream is the one before its `first_seq`."""

    messages: int
    first_seq: int
    last_seq: int


class _ConfigRead(Struct, frozen=True):
    name: str
    metadata: dict[str, str] = {}


class StreamInfo(Struct, frozen=True):
    """What the leader says about a stream."""

    state: StreamState
    config: _ConfigRead

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.config.metadata


class StoredMessage(Struct, frozen=True):
    """One message as the stream holds it."""

    sequence: int
    subject: str
    headers: Mapping[str, str]
    body: bytes


class Publication(Struct, frozen=True):
    """One message to be stored."""

    subject: str
    body: bytes
    headers: Mapping[str, str]


class _Refusal(Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(Struct, frozen=True):
    error: _Refusal | None = None


class _Stored(Struct, frozen=True):
    seq: int
    subject: str
    hdrs: str = ""
    data: str = ""


class _MessageAnswer(Struct, frozen=True):
    message: _Stored


class _Names(Struct, frozen=True):
    total: int
    streams: list[str] | None = None


class _Purged(Struct, frozen=True):
    purged: int = 0


class _PubAck(Struct, frozen=True):
    stream: str
    seq: int
    count: int = 0


T = TypeVar("T")


async def create(bus: Bus, config: StreamConfig) -> StreamInfo:
    """Create the stream; asked again with the same configuration it changes nothing. `StreamExists`."""
    return await _ask(bus, f"STREAM.CREATE.{config.name}", config, StreamInfo)


async def info(bus: Bus, name: str) -> StreamInfo:
    """The stream's state and metadata, or `StreamMissing`."""
    return await _ask(bus, f"STREAM.INFO.{name}", None, StreamInfo)


async def names(bus: Bus, prefix: str) -> list[str]:
    """The names of all streams that begin so."""
    found: list[str] = []
    offset = 0
    while True:
        page = await _ask(bus, "STREAM.NAMES", {"offset": offset}, _Names)
        found += [name for name in page.streams or () if name.startswith(prefix)]
        offset += len(page.streams or ())
        if not page.streams or offset >= page.total:
            return found


async def delete(bus: Bus, name: str) -> None:
    """Delete the stream with all it holds, or `StreamMissing`."""
    await _ask(bus, f"STREAM.DELETE.{name}", None, _Answer)


async def purge(bus: Bus, name: str, subject: str = "", *, before: int | None = None) -> int:
    """Remove the messages of this subject (wildcards allowed; empty: all) and count them.

    Only those at sequences below `before`, if it is given. The sequences of all others stay as they are.
    """
    if before is not None and before <= 1:
        # the server takes these for no bound at all, and there is nothing below them
        return 0
    question: dict[str, Any] = {"filter": subject} if subject else {}
    if before is not None:
        question["seq"] = before
    return (await _ask(bus, f"STREAM.PURGE.{name}", question, _Purged)).purged


async def message(bus: Bus, name: str, sequence: int) -> StoredMessage | None:
    """The message at this sequence, None when the stream no longer holds it."""
    return await _message(bus, name, {"seq": sequence})


async def last_message(bus: Bus, name: str, subject: str) -> StoredMessage | None:
    """The newest message of this subject, None when there is none.

    Wildcards are allowed, but `>` alone is answered from the last sequence, whether or not it is purged.
    """
    return await _message(bus, name, {"last_by_subj": subject})


async def message_from(bus: Bus, name: str, sequence: int, subject: str = ">") -> StoredMessage | None:
    """The first message of this subject at or after this sequence, None when there is none."""
    return await _message(bus, name, {"seq": sequence, "next_by_subj": subject})


async def append(
    bus: Bus, stream: str, publications: Sequence[Publication], *, after: int, timeout: float = API_TIMEOUT
) -> int:
    """Store all of them right after sequence `after`, or none; the last one's sequence.

    `WrongLastSequence` when the stream ends elsewhere. `BusUnavailable` when no answer came, and then they
    may be stored or not. At most 1,000 messages.
    """
    *others, last = publications
    fence = {"Nats-Expected-Stream": stream, "Nats-Expected-Last-Sequence": str(after)}
    if not others:
        headers = {**last.headers, **fence}
    else:
        batch = {"Nats-Batch-Id": secrets.token_hex(12)}
        for number, each in enumerate(others, start=1):
            extra = {**batch, "Nats-Batch-Sequence": str(number), **(fence if number == 1 else {})}
            await bus.publish(each.subject, each.body, {**each.headers, **extra})
        size = str(len(publications))
        headers = {**last.headers, **batch, "Nats-Batch-Sequence": size, "Nats-Batch-Commit": "1"}
    reply = await bus.request(last.subject, last.body, timeout=timeout, headers=headers)
    ack = _read(reply.body, _PubAck)
    if ack.stream != stream or ack.seq != after + len(publications):
        raise WrongLastSequence(_WRONG_LAST_SEQUENCE[0], f"acknowledged as {ack.seq} of {ack.stream}")
    return ack.seq


async def _message(bus: Bus, name: str, question: Mapping[str, Any]) -> StoredMessage | None:
    try:
        found = (await _ask(bus, f"STREAM.MSG.GET.{name}", question, _MessageAnswer)).message
    except JetStreamError as error:
        if error.code == _MESSAGE_MISSING:
            return None
        raise
    return StoredMessage(found.seq, found.subject, _headers(b64decode(found.hdrs)), b64decode(found.data))


async def _ask(bus: Bus, call: str, question: object, kind: type[T]) -> T:
    body = b"" if question is None else msgspec.json.encode(question)
    reply = await bus.request(f"$JS.API.{call}", body, timeout=API_TIMEOUT)
    return _read(reply.body, kind)


def _read(body: bytes, kind: type[T]) -> T:
    """The answer as this kind, or the error it holds."""
    try:
        refusal = msgspec.json.decode(body, type=_Answer).error
        if refusal is None:
            return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise JetStreamError(0, f"an answer that cannot be read: {error}") from None
    raise _kind_of(refusal.err_code)(refusal.err_code, refusal.description)


def _kind_of(code: int) -> type[JetStreamError]:
    if code in _WRONG_LAST_SEQUENCE:
        return WrongLastSequence
    return {_STREAM_MISSING: StreamMissing, _STREAM_EXISTS: StreamExists}.get(code, JetStreamError)


def _headers(block: bytes) -> Mapping[str, str]:
    """`NATS/1.0`, then `Name: value` lines."""
    lines = block.decode("utf-8", "replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip(): value.strip() for name, _, value in pairs}

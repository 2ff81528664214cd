"""A key log as followers see it, in memory: what the key service would serve, with its chain of hashes.

Also a small world around it: a clock that is set by hand, peppers, workspaces, keys and their tokens.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Any

import msgspec

from keyledger.clock import SECOND
from keyledger.digest import Peppers
from keyledger.events import (
    GENESIS,
    Epoch,
    Event,
    KeyCreated,
    KeyRotated,
    KeyText,
    NewSecret,
    Proof,
    RateLimit,
    WorkspaceCreated,
    WorkspaceText,
    encode,
    schema_version_of,
    tag_of,
)
from keyledger.token import ALPHABET, mint
from keyledger.verification.ports import FeedUnavailable
from keyledger.wire import Followed, Head, HeadQuestion, Page
from tests.support.memory_bus import MemoryBus

START = 1_790_000_000 * SECOND
WORKSPACE = "ws_0000000000000000000001"
PEPPERS = Peppers({"p1": bytes(range(32))}, active="p1")


class HandClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.wall = START
        self.seconds = 1000.0

    def now(self) -> int:
        return self.wall

    def steady(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Move both clocks."""
        self.wall += int(seconds * SECOND)
        self.seconds += seconds


class FollowedLog:
    """`Source` in memory. `away` refuses pages and heads; `writable` is what head answers say."""

    def __init__(self, number: int = 1, line: bytes = b"\x01" * 8) -> None:
        self.epoch = Epoch(number, line)
        self.events: list[Followed] = []
        self.away = False
        self.writable = True
        self.heads = 0
        self.pages = 0

    @property
    def position(self) -> int:
        return len(self.events)

    @property
    def hash(self) -> bytes:
        return self.events[-1].hash if self.events else GENESIS

    def append(self, stream: str, event: Event, *, at: int = START, workspace: str = WORKSPACE) -> Followed:
        """Record an event."""
        return self.append_raw(
            stream, tag_of(event), schema_version_of(event), encode(event), at=at, workspace=workspace
        )

    def append_raw(
        self, stream: str, tag: str, version: int, data: bytes, *, at: int = START, workspace: str = WORKSPACE
    ) -> Followed:
        """Record an event that this code may not know."""
        position = self.position + 1
        whole = f"{position} {stream} {tag} {at}".encode()
        digest = hashlib.sha256(self.epoch.line + self.hash + data + whole).digest()
        of_stream = 1 + sum(event.stream_id == stream for event in self.events)
        event = Followed(position, self.hash, digest, stream, of_stream, tag, version, workspace, at, data)
        self.events.append(event)
        return event

    async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
        self.pages += 1
        if self.away:
            raise FeedUnavailable("away")
        chosen = self.events[after : after + min(limit, 7)]
        last = chosen[-1].position if chosen else after
        page = Page(self.epoch.number, self.epoch.line, self.position, self.hash, last)
        return page, [memoryview(msgspec.msgpack.encode(event)) for event in chosen]

    async def head(self, question: HeadQuestion) -> Head:
        self.heads += 1
        if self.away:
            raise FeedUnavailable("away")
        return Head(
            question.nonce, self.epoch.number, self.epoch.line, self.position, self.hash, START, self.writable
        )

    async def publish(self, bus: MemoryBus, event: Followed) -> None:
        """Tell it live."""
        subject = f"kl.live.{self.epoch.line.hex()}.{event.workspace_id}.{event.stream_id}"
        await bus.publish(subject, msgspec.msgpack.encode(event))

    def restored(self, position: int) -> FollowedLog:
        """The log after Postgres went back to `position`: a new epoch, and the old beginning."""
        other = FollowedLog(self.epoch.number + 1, bytes(8))
        for event in self.events[:position]:
            other.append_raw(event.stream_id, event.type, event.schema_version, event.data, at=event.at)
        return other


def key_id(number: int) -> str:
    """The id of the test key of this number."""
    return f"key_{number:022d}"


def token(number: int, secret: int = 1, environment: str = "live") -> str:
    """The token of the test key of this number with its so-manieth secret."""
    salt = zlib.crc32(f"{number}/{secret}".encode())
    text = "".join(ALPHABET[(salt + at * (secret + 7)) % 62] for at in range(32))
    return mint("cvtk", environment, key_id(number), text).reveal()


def secret_of(text: str) -> NewSecret:
    """The token as it is recorded."""
    return NewSecret("cvtk_live_…0000", {"p1": PEPPERS.digest(text)})


def workspace_created(limit: int = 1000, window: int = 60) -> WorkspaceCreated:
    """A workspace with this limit."""
    return WorkspaceCreated(RateLimit(limit, window), private=WorkspaceText("Acme"))


def key_created(
    number: int, *, scopes: tuple[str, ...] = ("*",), environment: Any = "live", **more: Any
) -> KeyCreated:
    """A key; `name`, `allowed_ips`, `external_id`, `metadata` go into its text."""
    names = ("name", "allowed_ips", "external_id", "metadata")
    typed: dict[str, Any] = {"name": f"key {number}"}
    typed.update({name: more.pop(name) for name in names if name in more})
    text = KeyText(**typed)
    presented = token(number, environment=environment)
    return KeyCreated(environment, scopes, secret_of(presented), private=text, **more)


def key_rotated(number: int, secret: int, until: int) -> KeyRotated:
    """The key's next secret; the one before ends at `until`."""
    return KeyRotated(secret_of(token(number, secret)), until, private=Proof())

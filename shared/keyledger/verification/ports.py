"""What the heart needs from outside: a message bus, a feed of the log, limits, and a place for uses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from keyledger.wire import Page

LIVE_SUBJECT = "kl.live"
"""Recorded key events, as `kl.live.<line>.<workspace>.<stream>`; the body is a msgpack `Followed`."""
USE_LIVE_SUBJECT = "kl.uselive"
"""Recorded uses, republished as `kl.uselive.<line>`; the body is a msgpack `RecordedUses`."""
TICK_SUBJECT = "kl.tick"
"""Each second, a msgpack `Head` with an empty nonce: only a hint to repair."""
HEAD_SUBJECT = "kl.head"
"""Request with a msgpack `HeadQuestion`, answered by a msgpack `Head` read after the question arrived."""
USES_SUBJECT = "kl.uses"
"""Request with a msgpack `UseBatch`, answered after the commit by the msgpack int next expected seq."""
APPLIED_SUBJECT = "kl.applied"
"""Published by a verifier (a msgpack `HeadQuestion` with an empty nonce) when it has applied a denial."""


class BusUnavailable(Exception):
    """The broker is away, nobody answers the subject, or the time ran out."""


class Message(msgspec.Struct, frozen=True):
    """One message as it arrived. `reply` is empty when no answer is expected."""

    subject: str
    body: bytes
    headers: Mapping[str, str]
    reply: str = ""


Handler = Callable[[Message], Awaitable[None]]


class Bus(Protocol):
    """Core messaging: at most once, in order per publisher while nothing is lost; losses are announced."""

    @property
    def connected(self) -> bool:
        """Whether the broker was reachable a moment ago."""
        ...

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> None:
        """Call `handler` for each message; messages of one subscription are handled one after the other."""
        ...

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send and forget; `BusUnavailable` when there is no connection."""
        ...

    async def request(
        self, subject: str, body: bytes, *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """The first answer within `timeout` seconds, or `BusUnavailable`."""
        ...

    async def request_all(
        self,
        subject: str,
        body: bytes,
        *,
        timeout: float,
        more: float,
        enough: Callable[[Message], bool],
    ) -> list[Message]:
        """Every answer until one is `enough`, `more` seconds after the first one at the latest.

        `BusUnavailable` when there was none within `timeout` seconds.
        """
        ...

    async def reopen(self, why: str) -> None:
        """Give the connection up and open another one, with all subscriptions."""
        ...

    def on_disturbance(self, callback: Callable[[str], None]) -> None:
        """Call back when messages may have been lost: a slow consumer, a lost or renewed connection."""
        ...

    async def close(self) -> None:
        """Hand out what has arrived, then close; safe to call twice."""
        ...


class FeedUnavailable(Exception):
    """The key service cannot be asked for a page just now."""


class NotServed(FeedUnavailable):
    """The key service answers, and has no such address: it is older than who asks."""


class Feed(Protocol):
    """The key service's feed, paged by position."""

    async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
        """Records after this position, oldest first, each a msgpack `Followed`; or `FeedUnavailable`."""
        ...


class Known(Protocol):
    """What is known of the log beside what is applied."""

    @property
    def held(self) -> bool:
        """Whether the last answer said that nothing can be committed."""
        ...

    @property
    def head(self) -> int:
        """The last head heard of."""
        ...


class Following(Protocol):
    """What keeps a store up to date, here or in another process, and how it stands."""

    @property
    def freshness(self) -> Known:
        """What is known of the log's head."""
        ...

    @property
    def hearing(self) -> bool:
        """Whether live events arrive; without them the feed is asked, which is slower."""
        ...

    @property
    def pepper(self) -> str:
        """The pepper under which new digests are made, as the key service last said."""
        ...

    @property
    def unreadable(self) -> int:
        """Events that could not be read."""
        ...

    @property
    def rebuilds(self) -> int:
        """How often the log was read anew."""
        ...

    @property
    def forks(self) -> int:
        """How often what was applied proved to be another history."""
        ...

    def age(self) -> float:
        """Seconds since the store was certainly up to date."""
        ...

    async def reached(self, position: int, epoch: str | None) -> bool:
        """Whether the store has this position (of this epoch, if given) before a second is over."""
        ...

    async def start(self) -> None:
        """Begin; returns before the store is up to date."""
        ...

    async def stop(self) -> None:
        """End; the store stays as it is."""
        ...

    async def leave(self) -> None:
        """Say that this verifier has stopped."""
        ...

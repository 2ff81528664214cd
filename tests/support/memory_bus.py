"""A bus in memory, with the ways in which a real one lets its subscribers down.

Delivery happens inside `publish`, in order, unless a control says otherwise; nothing waits for a clock.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Mapping

from keyledger.verification.ports import BusUnavailable, Handler, Message

_log = logging.getLogger(__name__)


class MemoryBus:
    """`Bus` in memory. `connected = False` makes it unreachable until set back and `disturb` is called."""

    def __init__(self) -> None:
        self.connected = True
        self.published: list[Message] = []
        self.reopened: list[str] = []
        self.drop: Callable[[Message], bool] = _never
        self.duplicate: Callable[[Message], bool] = _never
        self.hold: Callable[[Message], bool] = _never
        self._held: list[Message] = []
        self._subscriptions: list[tuple[str, Handler, str]] = []
        self._callbacks: list[Callable[[str], None]] = []
        self._replies: dict[str, list[Message]] = {}
        self._inboxes = itertools.count()

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> None:
        self._subscriptions.append((subject, handler, queue))

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._require()
        message = Message(subject, body, dict(headers or {}))
        self.published.append(message)
        if subject.startswith("_INBOX."):
            self._replies.setdefault(subject, []).append(message)
        elif self.hold(message):
            self._held.append(message)
        elif not self.drop(message):
            for _ in range(2 if self.duplicate(message) else 1):
                await self._deliver(message)

    async def request(
        self, subject: str, body: bytes, *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        return (await self._ask(subject, body, headers))[0]

    async def request_all(
        self,
        subject: str,
        body: bytes,
        *,
        timeout: float,
        more: float,
        enough: Callable[[Message], bool],
    ) -> list[Message]:
        answers: list[Message] = []
        for answer in await self._ask(subject, body, None):
            answers.append(answer)
            if enough(answer):
                break
        return answers

    async def reopen(self, why: str) -> None:
        self.reopened.append(why)

    def on_disturbance(self, callback: Callable[[str], None]) -> None:
        self._callbacks.append(callback)

    async def close(self) -> None:
        self.connected = False

    def disturb(self, why: str = "the connection was lost") -> None:
        """Announce that messages may have been lost."""
        for callback in self._callbacks:
            callback(why)

    async def release(self, shuffled: random.Random | None = None) -> None:
        """Deliver what was held, in another order when told to."""
        held, self._held = self._held, []
        if shuffled is not None:
            shuffled.shuffle(held)
        for message in held:
            await self._deliver(message)

    async def _ask(self, subject: str, body: bytes, headers: Mapping[str, str] | None) -> list[Message]:
        self._require()
        inbox = f"_INBOX.{next(self._inboxes)}"
        message = Message(subject, body, dict(headers or {}), inbox)
        self.published.append(message)
        if not self.drop(message):
            await self._deliver(message)
        if inbox not in self._replies:
            raise BusUnavailable(f"nobody answers {subject}")
        return self._replies.pop(inbox)

    async def _deliver(self, message: Message) -> None:
        queues: set[tuple[str, str]] = set()
        for subject, handler, queue in tuple(self._subscriptions):
            if not matches(subject, message.subject) or (queue and (subject, queue) in queues):
                continue
            queues.add((subject, queue))
            try:
                await handler(message)
            except Exception:
                # as over a network: what one handler cannot do is nothing to whoever published
                _log.exception("a handler failed on %s", message.subject)

    def _require(self) -> None:
        if not self.connected:
            raise BusUnavailable("not connected to the broker")


def matches(pattern: str, subject: str) -> bool:
    """Whether a broker delivers this subject to who asked for the pattern."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(given) >= len(wanted) and matches(
            ".".join(wanted[:-1]), ".".join(given[: len(wanted) - 1])
        )
    return len(wanted) == len(given) and all(
        each in ("*", other) for each, other in zip(wanted, given, strict=True)
    )


def _never(message: Message) -> bool:
    del message
    return False

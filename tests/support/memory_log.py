"""A log in memory, as the relay's source: dense positions, chained hashes, an epoch, a way back in time."""

import hashlib
import secrets
from collections.abc import Sequence

from keyledger.events import GENESIS, Epoch
from keyledger.server.log_stream import Outgoing, SourceHead


def new_epoch(number: int = 1) -> Epoch:
    """An epoch with a line of its own, so that tests which share a broker share no stream."""
    return Epoch(number, secrets.token_bytes(8))


class MemoryLog:
    """Implements `Source`. `fail` (an exception) is raised by every call while it is set."""

    def __init__(self, epoch: Epoch | None = None, *, tail: str = "ws_a.key_a") -> None:
        self.epoch = epoch or new_epoch()
        self.tail = tail
        self.events: list[Outgoing] = []
        self.fail: Exception | None = None
        self.heads = 0

    def append(self, count: int = 1, *, size: int = 200, salt: str = "") -> int:
        """Record `count` events with bodies of `size` bytes; the last one's position."""
        for _ in range(count):
            position = len(self.events) + 1
            previous = self.events[-1].hash if self.events else GENESIS
            digest = hashlib.sha256(previous + f"{position}{salt}".encode()).digest()
            body = f"{position:08d}".encode().ljust(size, b".")
            self.events.append(Outgoing(position, digest, self.tail, body))
        return len(self.events)

    def go_back_to(self, position: int) -> None:
        """Forget what came after, as a restored backup does."""
        del self.events[position:]

    async def head(self) -> SourceHead:
        self._maybe_fail()
        self.heads += 1
        last = self.events[-1] if self.events else None
        return SourceHead(self.epoch, len(self.events), last.hash if last else GENESIS)

    async def after(self, position: int, limit: int) -> Sequence[Outgoing]:
        self._maybe_fail()
        return self.events[position : position + limit]

    async def hash_at(self, position: int) -> bytes | None:
        self._maybe_fail()
        return self.events[position - 1].hash if 0 < position <= len(self.events) else None

    def _maybe_fail(self) -> None:
        if self.fail:
            raise self.fail

"""What the connections of one listener have in common."""

from __future__ import annotations

import asyncio
from typing import Protocol

from litestar.types import ASGIApp

from keyledger.clock import SECOND, Clock
from keyledger.server.ids import request_ids
from services.verifier.handlers.fields import Fields
from services.verifier.listener.bounds import Bounds
from services.verifier.listener.writing import date_line, json_head
from services.verifier.routes.hot import Endpoints

_LENGTHS = tuple(b"%d" % length for length in range(2048))


class Watched(Protocol):
    """A connection, as far as the listener looks after it. `deadline` is on the steady clock."""

    deadline: float

    def expire(self) -> None:
        """The deadline is over."""
        ...

    def leave(self) -> None:
        """Close at once if nothing is asked, else with the answer."""
        ...

    def abort(self) -> None:
        """End it, whatever is going on."""
        ...


class Shared:
    """What the connections of one listener have in common; `tick` moves its clock on."""

    def __init__(self, endpoints: Endpoints, rest: ASGIApp, bounds: Bounds, clock: Clock) -> None:
        self.endpoints = endpoints
        self.verify_now = endpoints.verify_now
        self.rest = rest
        self.bounds = bounds
        self.connections: set[Watched] = set()
        self.emptied = asyncio.Event()
        """Set while there is none."""
        self.emptied.set()
        self.leaving = False
        """Whether every answer is to be the last of its connection."""
        self.closing = False
        """Whether nothing is waited for but answers."""
        self._clock = clock
        self._ids = map(str.encode, request_ids())
        self.tick()

    def tick(self) -> None:
        """Learn the time, which is looked at no more often than this is called."""
        self.now = self._clock.steady()
        self.idle_until = self.now + self.bounds.idle
        self.date = date_line(self._clock.now() / SECOND)
        self.json_head = json_head(self.date)

    def verdict(self, content: bytes, fields: Fields) -> bytes:
        """The whole answer to a check that may be followed by others."""
        given = fields.request_id
        request_id = next(self._ids) if given is None else given.encode()
        length = _LENGTHS[len(content)] if len(content) < len(_LENGTHS) else b"%d" % len(content)
        return b"".join((self.json_head, length, b"\r\nx-request-id: ", request_id, b"\r\n\r\n", content))

    def add(self, connection: Watched) -> int:
        """Take one more; how many there are."""
        self.connections.add(connection)
        self.emptied.clear()
        return len(self.connections)

    def forget(self, connection: Watched) -> None:
        """It is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self.emptied.set()

    def after(self, seconds: float) -> float:
        """The deadline so many seconds from now."""
        return self._clock.steady() + seconds

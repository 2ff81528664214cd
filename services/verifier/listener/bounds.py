"""How much of everything one listener bears."""

from __future__ import annotations

from msgspec import Struct

HIGH_WATER = 256 * 1024
"""Bytes of answers that a client has not taken, above which it is not read from."""
BACKLOG = 64 * 1024
"""Bytes kept of the requests behind one that waits, above which the connection is not read from."""
PASSED_OVER = 1024 * 1024
"""Bytes of a body that nobody reads, above which the connection is closed instead."""
AT_ONCE = 32
"""Requests of one connection that are answered before the others have their turn."""
REFUSED_AT_ONCE = 64
"""Connections beyond the most that are told so; whoever comes then is hung up on."""


class Bounds(Struct, frozen=True):
    """Durations are in seconds."""

    connections: int = 4096
    head: float = 10.0
    """From the first byte of a request, or from the connection, to the end of its head."""
    body: float = 30.0
    """From there to the end of the body."""
    idle: float = 75.0
    """Between two requests."""
    answer: float = 60.0
    """For an answer that has to wait."""
    stall: float = 30.0
    """For a client to take what it is sent."""
    linger: float = 2.0
    """For a client to notice that its connection ends while it is still sending."""

    @property
    def tick(self) -> float:
        """How often the connections are looked at."""
        return min(1.0, min(self.head, self.body, self.idle, self.stall, self.linger) / 4)

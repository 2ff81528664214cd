"""Live events that came before their turn, kept while those before them are missing."""

from __future__ import annotations

from keyledger.wire import Followed

LIMIT = 10_000


class Ahead:
    """The events by position; when there are too many all are forgotten, for the feed has them too."""

    def __init__(self) -> None:
        self._events: dict[int, Followed] = {}

    def __contains__(self, position: int) -> bool:
        return position in self._events

    def keep(self, event: Followed) -> None:
        """Keep this one."""
        if len(self._events) >= LIMIT:
            self._events.clear()
        self._events[event.position] = event

    def take(self, position: int) -> Followed | None:
        """The event of this position, which is kept no longer."""
        return self._events.pop(position, None)

    def clear(self) -> None:
        """Keep none."""
        self._events.clear()

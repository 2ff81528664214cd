"""How much is done of something long before other work of the event loop has its turn."""

from __future__ import annotations

from collections.abc import Callable

TURN = 0.001
"""Seconds of work in one turn; what is kept together is written besides, which takes about as long."""
MOST = 128
"""Events, or records, that are kept together."""


class Turn:
    """One turn, which ends when enough was done or when its time is over, whichever is first."""

    __slots__ = ("_left", "_steady", "_until")

    def __init__(self, steady: Callable[[], float], *, most: int = MOST) -> None:
        """`steady` are seconds of `Clock.steady`; `most` is the number of pieces that are enough."""
        self._steady = steady
        self._until = steady() + TURN
        self._left = most

    def over(self) -> bool:
        """Whether the piece of work that was just done is the last one; to be asked after each."""
        self._left -= 1
        return self._left <= 0 or self._steady() >= self._until

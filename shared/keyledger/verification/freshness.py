"""How old the applied state may be, on the clock that counts while the machine is suspended.

The store is fresh as of the instant a question for the head was *sent*, once the position in its answer is
applied: the answer was read after the question arrived. While the key service answers that it cannot reach
Postgres nothing can be committed, so the state is `held`: it stays fresh, for a bounded time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import Struct

PENDING = 64
NEVER = float("inf")


def age_of(proven_at: float | None, held_at: float | None, held_seconds: float, now: float) -> float:
    """Seconds since `proven_at`, or since it was last said that nothing can be committed."""
    if proven_at is None:
        return NEVER
    age = now - proven_at
    if held_at is not None and age <= held_seconds:
        age = now - max(proven_at, held_at)
    return age if age > 0 else 0.0


def _nobody() -> None:
    """Nobody is told."""


class _Promise(Struct, frozen=True):
    position: int
    asked_at: float


class Freshness:
    """What the answers to the head questions prove; times are seconds of `Clock.steady`."""

    def __init__(self, *, held_seconds: float) -> None:
        self._held_seconds = held_seconds
        self._proven_at: float | None = None
        self._held_at: float | None = None
        self._pending: deque[_Promise] = deque()
        self.head = 0
        self.told: Callable[[], None] = _nobody
        """Called whenever what is known of the age has changed."""

    @property
    def held(self) -> bool:
        """Whether the last answer said that nothing can be committed."""
        return self._held_at is not None

    def answered(self, position: int, *, asked_at: float, applied: int, writable: bool) -> None:
        """An answer arrived to the question sent at `asked_at`, on the line that is applied."""
        self.head = max(position, applied)
        if not writable:
            self._hold(position, asked_at, applied)
        else:
            self._held_at = None
            if position <= applied:
                self._prove(asked_at)
            elif len(self._pending) < PENDING:
                # the oldest are kept: they come true first
                self._pending.append(_Promise(position, asked_at))
        self.told()

    def applied(self, position: int) -> None:
        """The store has this position now."""
        self.head = max(self.head, position)
        if self._pending and self._pending[0].position <= position:
            while self._pending and self._pending[0].position <= position:
                self._prove(self._pending.popleft().asked_at)
            self.told()

    def lost(self) -> None:
        """What is applied proved to be another history; nothing is known of its age."""
        self._proven_at = self._held_at = None
        self._pending.clear()
        self.head = 0
        self.told()

    @property
    def instants(self) -> tuple[float | None, float | None]:
        """When the store was last certainly up to date, and since when nothing can be committed."""
        return self._proven_at, self._held_at

    def restore(self, proven_at: float | None, held_at: float | None, head: int) -> None:
        """Go on from what a process of the same boot knew of the same store."""
        self._proven_at, self._held_at, self.head = proven_at, held_at, head

    def age(self, now: float) -> float:
        """Seconds since the store was certainly up to date; `NEVER` before it ever was."""
        return age_of(self._proven_at, self._held_at, self._held_seconds, now)

    def _prove(self, at: float) -> None:
        if self._proven_at is None or at > self._proven_at:
            self._proven_at = at

    def _hold(self, position: int, asked_at: float, applied: int) -> None:
        if self._proven_at is not None and position <= applied:
            self._held_at = asked_at

"""How long to wait before starting a dead child again: doubling, jittered, capped, forgotten in calm."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

_DICE = secrets.SystemRandom()


@dataclass(slots=True)
class Backoff:
    """The delays of one child, in seconds."""

    first: float = 0.25
    most: float = 15.0
    calm: float = 30.0
    _deaths: int = field(default=0, init=False)

    def after(self, lived: float) -> float:
        """The delay after a child that lived so long; at least half of the full one."""
        if lived >= self.calm:
            self._deaths = 0
        full = min(self.most, self.first * 2 ** min(self._deaths, 30))
        self._deaths += 1
        return full * _DICE.uniform(0.5, 1.0)

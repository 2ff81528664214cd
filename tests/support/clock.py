"""A clock that a test moves by hand: both times stand still until they are told to go on."""

from keyledger.clock import SECOND, parse_rfc3339


class ManualClock:
    """Implements `Clock`. Wall time starts at `at` (µs), steady time at 1,000 s."""

    def __init__(self, at: int = parse_rfc3339("2026-01-02T03:04:05Z")) -> None:
        self._now = at
        self._steady = 1_000.0

    def now(self) -> int:
        return self._now

    def steady(self) -> float:
        return self._steady

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._now += round(seconds * SECOND)
        self._steady += seconds

    def set_wall(self, micros: int) -> None:
        """Set the wall clock, as an operator or NTP does; steady time does not notice."""
        self._now = micros

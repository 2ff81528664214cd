"""The leases that a verifier has accepted, and what they let it take of a cell unasked."""

from __future__ import annotations

from keyledger.grants import GRACE, Lease, slice_of, static_share

KEPT = 4


class Leases:
    """Leases of slots, oldest first. `accepted` is the start of the last one of the current term, else 0."""

    def __init__(self) -> None:
        self.accepted = 0
        self._leases: list[Lease] = []

    def begin_term(self) -> None:
        """Another granter: it knows of no lease that was accepted."""
        self.accepted = 0

    @property
    def any(self) -> bool:
        """Whether a lease was ever accepted."""
        return bool(self._leases)

    def accept(self, lease: Lease, second: int) -> bool:
        """Accept a lease, unless its slot has begun: cells of it may have been taken up by another one.

        Who never had one has taken nothing unasked, and may begin in the middle.
        """
        if lease.end <= lease.start or lease.parts < 1 or (lease.start <= second and self._leases):
            return False
        self._leases = [each for each in self._leases if each.start < lease.start][-KEPT:]
        self._leases.append(lease)
        self.accepted = lease.start
        return True

    def until(self) -> int:
        """The end of the last lease, 0 when there never was one."""
        return self._leases[-1].end if self._leases else 0

    def unasked(self, start: int, ends: int, limit: int, *, static: bool) -> int:
        """What may be taken of the cell [`start`, `ends`); `static` allows the static share too."""
        for lease in reversed(self._leases):
            if lease.start > start:
                continue
            if ends <= lease.made:
                return 0
            if start < lease.end:
                return slice_of(limit, lease.parts)
            if static and lease.static and start < lease.end + GRACE:
                return static_share(limit, lease.parts)
            return 0
        return 0

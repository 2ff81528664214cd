"""Who may take which part of a cell without asking: leases, and the static rights that they leave behind.

A lease is an offer until its verifier says that it was accepted in time. So for every cell there are rights
that might be in use, and the worst of them counts. All that may be taken of a cell unasked, by leases and by
static shares, is at most one whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from msgspec import Struct

from keyledger.grants import GRACE, SLOT, Lease, Recalled, most_share, most_slice

LEAD = 1
"""Seconds before its slot in which a lease is offered no more: it could not be accepted in time."""
LIVE = 45
"""Seconds of silence after which a verifier is not counted on any more."""
KEPT = 60
"""Seconds for which a cell may be asked about after its start."""
MOST = 1000
"""Verifiers that are known at once."""
_NOTHING = Fraction(0)


class Right(Struct, frozen=True, array_like=True):
    """The largest part, 1 / `parts`, that a verifier may take statically, of cells before `lapses`.

    This is what is recorded before a lease is offered, for whoever grants next.
    """

    verifier: str
    parts: int
    lapses: int


class Offer(Struct, array_like=True):
    """A lease, what it does not cover, and whether its verifier is known to have accepted it."""

    lease: Lease
    accepted: bool = False
    but: tuple[Recalled, ...] = ()


class Holder(Struct, array_like=True):
    """One incarnation of a verifier: when it was heard, its leases, oldest first, and when it left.

    `inherited` is what an earlier granter may have leased to it.
    """

    heard: int
    offers: list[Offer] = []
    gone: int | None = None
    inherited: Right | None = None


class Shares:
    """The verifiers of one granter. Times are unix seconds."""

    def __init__(self, holders: dict[str, Holder] | None = None) -> None:
        self.holders = {} if holders is None else holders
        self.newcomers = False
        """Whether somebody came that has no lease yet."""

    def inherit(self, rights: Iterable[Right]) -> None:
        """Count on what an earlier granter may have leased."""
        for right in rights:
            self.holders.setdefault(right.verifier, Holder(0, inherited=right))

    def live(self, now: int) -> int:
        """How many verifiers share what is granted, at least 1."""
        alive = [each for each in self.holders.values() if each.gone is None and now - each.heard < LIVE]
        return max(1, len(alive))

    def hear(self, verifier: str, accepted: int, now: int) -> bool:
        """A verifier spoke, which has accepted the lease that starts then. False when there is no room."""
        holder = self.holders.get(verifier)
        if holder is None:
            if len(self.holders) >= MOST:
                return False
            holder = self.holders[verifier] = Holder(now)
            self.newcomers = True
        if holder.gone is not None:
            # it is dead, or said so: what arrives late is not worth a risk
            return False
        holder.heard = max(holder.heard, now)
        for offer in holder.offers:
            if offer.lease.start == accepted:
                offer.accepted = True
        return True

    def leave(self, verifier: str, now: int) -> None:
        """A verifier takes nothing of cells that start after `now`."""
        holder = self.holders.get(verifier)
        if holder is not None and holder.gone is None:
            holder.gone = now

    def offered(self, verifier: str, now: int) -> Offer | None:
        """What a verifier should have by now and has not accepted: first how it begins, then the last."""
        offers = self.holders[verifier].offers
        if not offers or offers[-1].accepted:
            return None
        first = offers[0]
        if first.lease.start <= now < first.lease.end - LEAD and not any(each.accepted for each in offers):
            return first
        return offers[-1] if offers[-1].lease.start - now >= LEAD else None

    def plan(self, now: int, since: int | None = None) -> tuple[dict[str, Lease], list[Right]]:
        """Leases of the slot after the next for who has none yet, and the rights to be recorded before.

        So each message for another lease also says in time that the one before was accepted. Who comes new
        begins with one of the cells that started at `since` or later, if the others leave room for that.
        """
        self.newcomers = False
        self._forget(now)
        start = now - now % SLOT + 2 * SLOT
        alive = [
            (verifier, holder)
            for verifier, holder in sorted(self.holders.items())
            if holder.gone is None and now - holder.heard < LIVE
        ]
        planned: dict[str, Lease] = {}
        worst = {verifier: _worst(holder, now) for verifier, holder in self.holders.items()}
        for verifier, holder in alive:
            if holder.offers and holder.offers[-1].lease.start >= start:
                continue
            room = 1 - sum((share for other, share in worst.items() if other != verifier), _NOTHING)
            if since is not None and not holder.offers and holder.inherited is None:
                lease = Lease(since, start, len(alive), static=False, made=now)
            elif room > 0:
                lease = Lease(start, start + SLOT, max(len(alive), -(-room.denominator // room.numerator)))
            else:
                lease = Lease(start, start + SLOT, len(alive), static=False)
            if not lease.static and not self._leave_room(verifier, lease, planned):
                continue
            planned[verifier] = lease
            worst[verifier] = max(worst[verifier], _part(lease))
        return planned, self._rights(worst, planned) if planned else []

    def _leave_room(self, verifier: str, lease: Lease, planned: dict[str, Lease]) -> bool:
        """Whether all others together leave that much of every cell that the lease covers."""
        others = [(name, holder) for name, holder in self.holders.items() if name != verifier]
        # from one of these moments to the next nobody's part changes
        starts = {lease.start, *(moment for _, holder in others for moment in _changes(holder))}
        starts |= {each.start for each in planned.values()} | {each.end for each in planned.values()}
        for start in starts:
            if lease.start <= start < lease.end:
                shares = (
                    max(_share(holder, start), _share_of(planned.get(name), start)) for name, holder in others
                )
                if _part(lease) + sum(shares, _NOTHING) > 1:
                    return False
        return True

    def offer(self, verifier: str, lease: Lease, but: tuple[Recalled, ...] = ()) -> None:
        """Make a planned lease known to its verifier, now that it is recorded."""
        if verifier in self.holders:
            self.holders[verifier].offers.append(Offer(lease, but=but))

    def unasked(self, limit: int, start: int) -> dict[str, int]:
        """The most that each verifier may have taken unasked of a cell of this limit and start."""
        taken = {verifier: _unasked(holder, limit, start) for verifier, holder in self.holders.items()}
        return {verifier: most for verifier, most in taken.items() if most}

    def _rights(self, worst: dict[str, Fraction], planned: dict[str, Lease]) -> list[Right]:
        rights: list[Right] = []
        for verifier, share in worst.items():
            if share:
                # a part may be kept longer than it was given for: that costs tokens, and is safe
                parts = share.denominator // share.numerator
                lapses = _lapses(self.holders[verifier])
                if verifier in planned:
                    lapses = max(lapses, _end(planned[verifier]))
                rights.append(Right(verifier, parts, lapses))
        return rights

    def _forget(self, now: int) -> None:
        """Drop what can matter to no cell any more."""
        for verifier, holder in list(self.holders.items()):
            while len(holder.offers) > 1 and _superseded(holder.offers, now - KEPT):
                del holder.offers[0]
            quiet = now - holder.heard >= LIVE
            lapsed = _lapses(holder) <= now - KEPT
            if (holder.gone is not None and holder.gone < now - KEPT) or (quiet and lapsed):
                del self.holders[verifier]


def _superseded(offers: list[Offer], since: int) -> bool:
    """Whether the first lease says nothing about cells that start at `since` or later."""
    return any(offer.accepted and offer.lease.start <= since for offer in offers[1:])


def _lapses(holder: Holder) -> int:
    """When the last of a verifier's rights is over."""
    inherited = holder.inherited
    ends = [_end(offer.lease) for offer in holder.offers]
    return max([*ends, 0 if inherited is None else inherited.lapses])


def _end(lease: Lease) -> int:
    """Up to which start of a cell a lease gives anything."""
    return lease.end + GRACE if lease.static else lease.end


def _part(lease: Lease) -> Fraction:
    """The largest part that a lease ever gives of a cell. See `most_slice`."""
    return Fraction(1, lease.parts) if lease.static else Fraction(1, 2 * lease.parts)


def _changes(holder: Holder) -> list[int]:
    """The starts of cells from which on a verifier's part may be another."""
    moments = [0 if holder.gone is None else holder.gone + 1]
    for offer in holder.offers:
        moments += [offer.lease.start, offer.lease.end, _end(offer.lease)]
    return moments if holder.inherited is None else [*moments, holder.inherited.lapses]


def _share_of(lease: Lease | None, start: int) -> Fraction:
    """The largest part that a lease gives of a cell that starts then."""
    if lease is None or not lease.start <= start < _end(lease):
        return _NOTHING
    return Fraction(1, 2 * lease.parts) if start < lease.end else Fraction(1, lease.parts)


def _share(holder: Holder, start: int) -> Fraction:
    """The largest part that a verifier may take unasked of a cell that starts then; see `_unasked`."""
    if holder.gone is not None and holder.gone < start:
        return _NOTHING
    leases, inherited = _candidates(holder, start)
    shares = [_share_of(lease, start) for lease in leases]
    if inherited is not None and start < inherited.lapses:
        shares.append(Fraction(1, inherited.parts))
    return max(shares, default=_NOTHING)


def _candidates(holder: Holder, start: int) -> tuple[list[Lease], Right | None]:
    """What might be a verifier's latest lease for cells that start then, an earlier granter's included."""
    found: list[Lease] = []
    for offer in reversed(holder.offers):
        if offer.lease.start <= start:
            found.append(offer.lease)
            if offer.accepted:
                return found, None
    return found, holder.inherited


def _unasked(holder: Holder, limit: int, start: int) -> int:
    if holder.gone is not None and holder.gone < start:
        return 0
    leases, inherited = _candidates(holder, start)
    most = 0
    for lease in leases:
        if start < lease.end:
            most = max(most, most_slice(limit, lease.parts))
        elif start < _end(lease):
            most = max(most, most_share(limit, lease.parts))
    if inherited is not None and start < inherited.lapses:
        most = max(most, most_share(limit, inherited.parts))
    return most


def _worst(holder: Holder, now: int) -> Fraction:
    """The largest share that a verifier may have of cells from now on."""
    if holder.gone is not None and holder.gone < now:
        return _NOTHING
    leases, inherited = _candidates(holder, now)
    later = [offer.lease for offer in holder.offers if offer.lease.start > now]
    shares = [_part(lease) for lease in (*leases, *later) if _end(lease) > now]
    if inherited is not None and inherited.lapses > now:
        shares.append(Fraction(1, inherited.parts))
    return max(shares, default=_NOTHING)

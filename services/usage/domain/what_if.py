"""What a changed policy would have refused, replayed from sums of uses by the minute.

A sum does not say when in its minute a use came. So whom a limit would have refused has bounds: `at_least`
and `at_most` hold for every order that the minute's uses may have had, and are equal where the order does not
matter. Both count uses; where a use cost more than one unit they are those units, shared out evenly. A use in
the minute in which its key expires is in doubt, and spends the limit.

Refused uses have no recorded cost; they are replayed at one unit each. A caller that was refused may have
tried again, and one that would have been refused would have: neither is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from math import lcm

from msgspec import Struct

from keyledger.errors import invalid_request
from services.usage.domain.period import MINUTE

SECOND = MINUTE // 60
DAY_SECONDS = 86_400
MOST = 2**53
DEMAND = frozenset({"VALID", "RATE_LIMITED", "QUOTA_EXCEEDED"})
"""Outcomes of uses that nothing but a limit could refuse; all others stay refused whatever is changed."""
EXPIRED, INSUFFICIENT, LIMITED = "EXPIRED", "INSUFFICIENT_PERMISSIONS", "RATE_LIMITED"


class Limit(Struct, frozen=True):
    """So many units in each epoch-aligned cell of so many seconds."""

    limit: int
    window_seconds: int

    @property
    def block(self) -> int:
        """µs of the shortest time that whole cells and whole minutes both fill."""
        return lcm(self.window_seconds, 60) * SECOND

    @property
    def cells(self) -> int:
        """How many cells a block has. One means that minutes never lie across two cells."""
        return self.block // (self.window_seconds * SECOND)


def limit_of(text: str) -> Limit:
    """A limit written as units/seconds, such as 500/60; a refusal names the field."""
    units, _, seconds = text.partition("/")
    if not (units.isascii() and units.isdecimal() and seconds.isascii() and seconds.isdecimal()):
        raise invalid_request("A limit is written units/seconds, 500/60.", field="limit")
    limit = Limit(int(units), int(seconds))
    if not 1 <= limit.limit <= MOST:
        raise invalid_request("A limit is at least 1.", field="limit")
    if not limit.window_seconds or DAY_SECONDS % limit.window_seconds:
        raise invalid_request("A limit's seconds divide 86,400.", field="limit")
    return limit


class Sum(Struct, frozen=True):
    """How often a key met an outcome in a minute (µs of its start), and what that cost."""

    minute: int
    key: str
    outcome: str
    count: int
    cost: int


class Policy(Struct, frozen=True):
    """What would have been otherwise. Absent is as it was, but for `limit`: then nothing is limited.

    `each_key`: the limit holds for every key by itself, not for all of the workspace together. `ends` is when
    (µs) keys would have expired, `lacking` the keys without scopes that would have been required.
    """

    limit: Limit | None = None
    each_key: bool = False
    ends: Mapping[str, int] = {}
    lacking: frozenset[str] = frozenset()


class Bounds(Struct):
    """How many of a key's uses one reason would have refused, when first and last, and how often.

    `first` and `last` (µs) start the stretches of time that could have had such a refusal, `stretches` counts
    them: minutes, or whole blocks of cells and minutes for a limit.
    """

    at_least: int = 0
    at_most: int = 0
    first: int = 0
    last: int = 0
    stretches: int = 0

    def add(self, at_least: int, at_most: int, start: int) -> None:
        """In the stretch that starts then, so many; stretches come in order of time."""
        self.at_least += at_least
        self.at_most += at_most
        if not at_most:
            return
        if not self.stretches or start != self.last:
            self.stretches += 1
        self.first = self.first if self.stretches > 1 else start
        self.last = start


class Outlook(Struct):
    """What came of a replay: uses that could have been let in, that were refused, and that would be."""

    asked: int = 0
    was_refused: int = 0
    would: dict[tuple[str, str], Bounds] = {}
    """By key and code."""
    totals: dict[str, Bounds] = {}
    """By code: narrower than the keys' bounds together, since one key's luck is another's loss."""
    costly: bool = False
    """Whether some uses cost more than one unit: how many of them a limit refuses is told from units then."""
    times: dict[int, int] = {}
    """At most refused, by the start (µs) of the stretch; a block's are told at its start."""


def replay(sums: Iterable[Sum], policy: Policy) -> Outlook:
    """Replay sums, which come in the order of their minutes, against the policy."""
    seen = Outlook()
    limit = policy.limit
    block = MINUTE if limit is None else limit.block
    for start, group in groupby(sums, key=lambda each: each.minute - each.minute % block):
        minutes: dict[int, dict[str, _Demand]] = {}
        for each in group:
            if each.outcome not in DEMAND:
                continue
            seen.asked += each.count
            seen.was_refused += each.count if each.outcome != "VALID" else 0
            if not _ends(each, policy, seen):
                demand = minutes.setdefault(each.minute, {}).setdefault(each.key, _Demand())
                demand.count += each.count
                units = each.cost if each.outcome == "VALID" else each.count
                demand.units += units
                seen.costly = seen.costly or units != each.count
        if limit is not None:
            for holder in _holders(minutes, each_key=policy.each_key):
                _limit(holder, limit, start, seen)
    return seen


class _Demand(Struct):
    count: int = 0
    units: int = 0

    def uses(self, units: int, *, up: bool) -> int:
        """So many of the units, as uses."""
        if not self.units:
            return 0
        return -(-units * self.count // self.units) if up else units * self.count // self.units


_Minutes = dict[int, dict[str, _Demand]]


def _ends(each: Sum, policy: Policy, seen: Outlook) -> bool:
    """Whether all of these uses are refused before any limit is asked."""
    ends = policy.ends.get(each.key)
    if ends is not None and ends < each.minute + MINUTE:
        whole = ends <= each.minute
        sure = each.count if whole else 0
        _note(seen, each.key, EXPIRED, at_least=sure, at_most=each.count, start=each.minute)
        if whole:
            return True
    if each.key in policy.lacking:
        _note(seen, each.key, INSUFFICIENT, at_least=each.count, at_most=each.count, start=each.minute)
        return True
    return False


def _note(seen: Outlook, key: str, code: str, *, at_least: int, at_most: int, start: int) -> None:
    seen.would.setdefault((key, code), Bounds()).add(at_least, at_most, start)
    seen.times[start] = seen.times.get(start, 0) + at_most
    seen.totals.setdefault(code, Bounds()).add(at_least, at_most, start)


def _holders(minutes: _Minutes, *, each_key: bool) -> Iterator[_Minutes]:
    """The demand on each limit there is: one of them all, or one of each key."""
    if not each_key:
        yield minutes
        return
    for key in dict.fromkeys(key for keys in minutes.values() for key in keys):
        yield {minute: {key: keys[key]} for minute, keys in minutes.items() if key in keys}


def _limit(minutes: _Minutes, limit: Limit, start: int, seen: Outlook) -> None:
    """Spend one holder's limit in one block."""
    if limit.cells > 1:
        # a minute lies across cells: the block's uses may have been spread evenly, or have met in one cell
        merged: dict[str, _Demand] = {}
        for keys in minutes.values():
            for key, demand in keys.items():
                known = merged.setdefault(key, _Demand())
                known.count += demand.count
                known.units += demand.units
        total = sum(demand.units for demand in merged.values())
        least, most = max(0, total - limit.limit * limit.cells), max(0, total - limit.limit)
        _share(merged, seen, total=total, least=least, most=most, start=start)
        return
    spent = 0
    for minute, keys in sorted(minutes.items()):
        total = sum(demand.units for demand in keys.values())
        refused = max(0, spent + total - limit.limit) - max(0, spent - limit.limit)
        _share(keys, seen, total=total, least=refused, most=refused, start=minute)
        spent += total


def _share(
    keys: Mapping[str, _Demand], seen: Outlook, *, total: int, least: int, most: int, start: int
) -> None:
    """Of all units between `least` and `most` were refused: what that means for each key."""
    if not most:
        return
    whole = _Demand(sum(demand.count for demand in keys.values()), total)
    at_most = whole.uses(most, up=True)
    seen.times[start] = seen.times.get(start, 0) + at_most
    seen.totals.setdefault(LIMITED, Bounds()).add(whole.uses(least, up=False), at_most, start)
    for key, demand in keys.items():
        at_least = demand.uses(max(0, least - (total - demand.units)), up=False)
        at_most = demand.uses(min(demand.units, most), up=True)
        seen.would.setdefault((key, LIMITED), Bounds()).add(at_least, at_most, start)

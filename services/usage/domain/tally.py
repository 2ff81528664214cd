"""Uses become totals per bucket: the same answer in whatever order, and in however many parts, they come."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from keyledger.verification.verdict import MALFORMED, NOT_FOUND
from keyledger.wire import Use
from services.usage.domain.period import SIZES, Granularity, bucket_of


class Bucket(Struct, frozen=True, order=True):
    """What is counted apart: the sort order is the order in which rows are locked.

    `external_id` is the key's at the time of use, so that what was used for one owner stays with it; empty
    for a key without one. A workspace as a whole is the bucket of no key.
    """

    workspace_id: str
    start: int
    key_id: str
    environment: str
    outcome: str
    external_id: str = ""


class Count(Struct, frozen=True):
    """How many uses, and how many limit units they cost."""

    count: int = 0
    cost: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.count + other.count, self.cost + other.cost)


NOTHING = Count()
UNPROVEN = (MALFORMED, NOT_FOUND)
"""Outcomes of whoever held no secret of the key: anyone who knows its id can make them."""


class Tally(Struct, frozen=True):
    """Totals of uses per granularity and bucket, and each key's last use in µs by who proved its secret."""

    buckets: dict[Granularity, dict[Bucket, Count]]
    last_used: dict[tuple[str, str], int]

    def sorted_buckets(self, granularity: Granularity) -> list[tuple[Bucket, Count]]:
        """The totals of one granularity in the one order that every writer locks rows in."""
        return sorted(self.buckets[granularity].items(), key=lambda item: item[0])

    def sorted_totals(self, granularity: Granularity) -> list[tuple[Bucket, Count]]:
        """The totals of whole workspaces, in the one order that every writer locks rows in."""
        totals: dict[Bucket, Count] = {}
        for each, added in self.buckets[granularity].items():
            whole = Bucket(each.workspace_id, each.start, "", each.environment, each.outcome)
            totals[whole] = totals.get(whole, NOTHING) + added
        return sorted(totals.items(), key=lambda item: item[0])

    def sorted_last_used(self) -> list[tuple[tuple[str, str], int]]:
        """Each (workspace, key) with its last use, in the order that every writer locks rows in."""
        return sorted(self.last_used.items())


def tally(uses: Iterable[Use]) -> Tally:
    """Count these uses, each as often as it is given."""
    totals = Tally({granularity: {} for granularity in SIZES}, {})
    for use in uses:
        added = Count(use.count, use.cost)
        for granularity, counts in totals.buckets.items():
            start = bucket_of(use.minute, granularity)
            bucket = Bucket(
                use.workspace_id, start, use.key_id, use.environment, use.outcome, use.external_id
            )
            counts[bucket] = counts.get(bucket, NOTHING) + added
        if use.outcome in UNPROVEN:
            continue
        key = (use.workspace_id, use.key_id)
        totals.last_used[key] = max(totals.last_used.get(key, use.last_at), use.last_at)
    return totals

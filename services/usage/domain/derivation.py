"""What the use log adds up to, held against the counters."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec import Struct

from keyledger.errors import invalid_request
from services.usage.domain.period import MINUTE, Granularity
from services.usage.domain.tally import Bucket, Count

SECOND = MINUTE // 60


class Difference(Struct, frozen=True):
    """A counter that is not what the log says; nought where one of them has no such counter.

    A bucket without a key is the whole workspace's.
    """

    granularity: Granularity
    bucket: Bucket
    derived: Count
    kept: Count


class Compared(Struct, frozen=True):
    """One granularity: how many counters were derived, how many differ, and the first of these.

    None were compared before `since` (µs), where the counters were dropped.
    """

    granularity: Granularity
    counters: int
    differing: int
    first: Difference | None
    since: int | None = None


class LastUses(Struct, frozen=True):
    """The workspace's last uses, each (µs) the latest of all the log; None where one of them has none."""

    keys: int
    differing: int
    key_id: str = ""
    derived: int | None = None
    kept: int | None = None


class Derivation(Struct, frozen=True):
    """A whole comparison at one state: the batch up to which everything is folded.

    `uses` is what the period adds up to; `carried` of them from sums of days of the log that are gone.
    `parked` sums of uses more stand in batches that cannot be counted, and are in neither.
    """

    position: int
    uses: int
    carried: int
    compared: tuple[Compared, ...]
    last_uses: LastUses
    parked: int = 0

    @property
    def nothing(self) -> bool:
        """Whether the period has neither uses nor counters, so that they agree on nothing."""
        return not (
            self.uses or self.parked or any(each.counters or each.differing for each in self.compared)
        )

    @property
    def first(self) -> Difference | None:
        """The first difference of the coarsest granularity that has one; None when all is as it should be."""
        found = [each.first for each in reversed(self.compared) if each.first is not None]
        return found[0] if found else None


def month_of(text: str) -> tuple[int, int]:
    """The start and end (µs, exclusive) of a month such as 2026-11; a refusal names the field."""
    try:
        start = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
        end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    except ValueError:
        raise invalid_request("A month is written 2026-11.", field="month") from None
    return int(start.timestamp()) * SECOND, int(end.timestamp()) * SECOND

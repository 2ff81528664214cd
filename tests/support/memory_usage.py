"""The usage service's ports in memory: a store, a feed, limits, and one who lets callers in."""

from collections.abc import Collection, Sequence

import msgspec

from keyledger.errors import Refusal
from keyledger.events import Epoch
from keyledger.verification.ports import FeedUnavailable
from keyledger.wire import Page, RecordedUses
from services.usage.domain.parking import Parked, Unfoldable
from services.usage.domain.period import SIZES, Granularity
from services.usage.domain.pool import Pool
from services.usage.domain.series import Mark, Point, Question, Reading
from services.usage.domain.tally import NOTHING, Bucket, Count, Tally
from services.usage.ports import Credential, Limited, StoreUnavailable

MOST = 2**63 - 1


class MemoryUsageStore:
    """`UsageStore` in dictionaries; `away` makes every call fail, `broken` every fold, for no good reason."""

    def __init__(self) -> None:
        self.away = self.broken = False
        self.lines: dict[bytes, tuple[int, int]] = {}
        self.buckets: dict[Granularity, dict[Bucket, Count]] = {granularity: {} for granularity in SIZES}
        self.last: dict[tuple[str, str], int] = {}
        self.to_erase: list[str] = []
        self.passed_over: dict[int, Parked] = {}
        self.kept_from: dict[Granularity, int] = {}

    async def position(self, line: bytes) -> int:
        self._check()
        return self.lines.get(line, (0, 0))[1]

    async def begin(self, epoch: Epoch, head: int) -> int:
        self._check()
        left = max((each for each in self.lines.values() if each[0] < epoch.number), default=(0, 0))[1]
        if epoch.line not in self.lines:
            begins = min(left, head)
            self.lines[epoch.line] = (epoch.number, begins)
            self.passed_over = {at: each for at, each in self.passed_over.items() if at <= begins}
        return self.lines[epoch.line][1]

    async def fold(
        self,
        epoch: Epoch,
        after: int,
        last: int,
        tally: Tally,
        erased: Collection[str] = (),
        *,
        parked: Sequence[Parked] = (),
    ) -> bool:
        self._check()
        if self.lines.get(epoch.line) != (epoch.number, after):
            return False
        if self.broken:
            raise RuntimeError
        if any(
            "\0" in text for bucket in tally.buckets["day"] for text in (bucket.workspace_id, bucket.key_id)
        ):
            raise Unfoldable("no text")
        self.lines[epoch.line] = (epoch.number, last)
        for granularity in SIZES:
            counts = self.buckets[granularity]
            for bucket, added in tally.sorted_buckets(granularity):
                counts[bucket] = _bounded(counts.get(bucket, NOTHING) + added)
        for key, at in tally.sorted_last_used():
            self.last[key] = max(self.last.get(key, at), at)
        self.to_erase += sorted(erased)
        self.passed_over |= {each.position: each for each in parked}
        return True

    async def parked(self) -> int:
        self._check()
        return len(self.passed_over)

    async def erase_some(self) -> bool:
        self._check()
        if not self.to_erase:
            return False
        gone = self.to_erase.pop()
        for counts in self.buckets.values():
            for bucket in [bucket for bucket in counts if bucket.workspace_id == gone]:
                del counts[bucket]
        self.last = {key: at for key, at in self.last.items() if key[0] != gone}
        return True

    async def read(self, question: Question, after: Mark | None, limit: int) -> Reading:
        self._check()
        points: dict[Mark, Count] = {}
        period = question.period
        whole = period.granularity == "total"
        # a total is what all its minutes add up to
        for bucket, count in self.buckets[
            "minute" if period.granularity == "total" else period.granularity
        ].items():
            if _asked(bucket, question):
                mark = _mark(bucket, period.start if whole else bucket.start, question.groups)
                points[mark] = points.get(mark, NOTHING) + count
        points = {mark: _bounded(count) for mark, count in points.items()}
        totals = _bounded(sum(points.values(), NOTHING))
        page = [Point(mark, points[mark]) for mark in sorted(points) if after is None or mark > after]
        last = self.last.get((question.workspace_id, question.key_id or ""))
        return Reading(page[:limit], totals, self._seen(), last, dict(self.kept_from))

    async def last_used(self, workspace_id: str, key_ids: Sequence[str]) -> tuple[dict[str, int], int]:
        self._check()
        found = {key: self.last[workspace_id, key] for key in key_ids if (workspace_id, key) in self.last}
        return found, self._seen()

    async def ping(self) -> None:
        self._check()

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    def _seen(self) -> int:
        return max(self.lines.values(), default=(0, 0))[1]


class MemoryFeed:
    """`Feed` over a list of recorded batches, at most `page_size` a page."""

    def __init__(self, epoch: Epoch, *, page_size: int = 100) -> None:
        self.epoch = epoch
        self.page_size = page_size
        self.batches: list[RecordedUses] = []
        self.away = False
        self.asked: list[int] = []

    async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
        self.asked.append(after)
        if self.away:
            raise FeedUnavailable("away")
        told = [batch for batch in self.batches if batch.position > after][: min(limit, self.page_size)]
        head = self.batches[-1].position if self.batches else 0
        last = told[-1].position if told else after
        page = Page(self.epoch.number, self.epoch.line, head, b"", last)
        return page, [memoryview(msgspec.msgpack.encode(batch)) for batch in told]


class OpenAccess:
    """`Access` that lets everybody in, unless `refusal` is set; remembers who asked for what."""

    def __init__(self) -> None:
        self.refusal: Refusal | None = None
        self.asked: list[tuple[Credential, str, str | None]] = []
        self.limited: dict[str, Limited] = {}

    async def authorize(self, credential: Credential, workspace_id: str, key_id: str | None) -> Limited:
        self.asked.append((credential, workspace_id, key_id))
        if self.refusal is not None:
            raise self.refusal
        return self.limited.get(key_id or workspace_id, Limited())


class MemoryLimits:
    """`LimitCells` over a list of pools; `away` is a process that does not grant."""

    def __init__(self) -> None:
        self.pools: list[Pool] = []
        self.away = False

    async def cells(self, holder: str) -> list[Pool]:
        if self.away:
            raise StoreUnavailable("another process grants")
        return [pool for pool in self.pools if pool.holder == holder]


def _bounded(count: Count) -> Count:
    return Count(min(count.count, MOST), min(count.cost, MOST))


def _asked(bucket: Bucket, question: Question) -> bool:
    return (
        bucket.workspace_id == question.workspace_id
        and question.key_id in (None, bucket.key_id)
        and question.period.start <= bucket.start < question.period.end
    )


def _mark(bucket: Bucket, start: int, groups: Sequence[str]) -> Mark:
    return Mark(
        start,
        bucket.key_id if "key" in groups else "",
        bucket.outcome if "outcome" in groups else "",
        bucket.environment if "environment" in groups else "",
        bucket.external_id if "external_id" in groups else "",
    )

"""Usage in figures: the period that was asked for, series for the chart, the same as a table, and totals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from keyledger.client.records import UsagePoint
from services.dashboard.backend import Granularity
from services.dashboard.pages.forms import when
from services.dashboard.pages.moments import Moment, grouped, moment
from services.dashboard.pages.words import GOOD, OUTCOMES, outcome

SIZES: Mapping[Granularity, timedelta] = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}
MAX_BUCKETS = 1_500
"""More than a chart has pixels; a range that would have more is shown by a larger bucket."""
MAX_ROWS = 200
MAX_BARS = 240
"""More than this are hairlines: what nobody has chosen a bucket for is shown by a larger one."""
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
"""Bounds of one's own are kept within these, so that there is room to round them."""
TITLES: Mapping[Granularity, str] = {"minute": "Minutes", "hour": "Hours", "day": "Days"}


class Range(Struct, frozen=True):
    """A range to choose; `best` is how it is shown unless something else is asked for."""

    name: str
    title: str
    length: timedelta
    best: Granularity


RANGES = (
    Range("1h", "Hour", timedelta(hours=1), "minute"),
    Range("24h", "Day", timedelta(days=1), "hour"),
    Range("7d", "Week", timedelta(days=7), "hour"),
    Range("30d", "Month", timedelta(days=30), "day"),
    Range("90d", "Quarter", timedelta(days=90), "day"),
)
_DEFAULT = RANGES[1]


class Period(Struct, frozen=True, kw_only=True):
    """What is shown: [`start`, `end`), both on bounds of buckets; `name` is empty for bounds of one's own."""

    name: str
    start: datetime
    end: datetime
    granularity: Granularity
    allowed: tuple[Granularity, ...]

    @property
    def days(self) -> tuple[str, str] | None:
        """Its first and its last day by name, where it is shown by days, which are UTC's."""
        if self.granularity != "day":
            return None
        return day(self.start), day(self.end - SIZES["day"])

    @property
    def query(self) -> str:
        """The query that shows the same again: moving for a range by name, fixed for bounds of one's own."""
        if self.name:
            return f"range={self.name}&granularity={self.granularity}"
        bounds = (each.strftime("%Y-%m-%dT%H:%M:%SZ") for each in (self.start, self.end))
        return "from={}&to={}&granularity={}".format(*bounds, self.granularity)


def period(
    *, range_: str = "", start: str = "", end: str = "", granularity: str = "", now: datetime
) -> Period:
    """The period of a query; what cannot be read falls back to the last day, by the hour."""
    first, last = _within(when(start)), _within(when(end))
    best: Granularity | None = None
    name = ""
    if first is None or last is None or first >= last:
        chosen = next((each for each in RANGES if each.name == range_), _DEFAULT)
        name, best = chosen.name, chosen.best
        first, last = now - chosen.length, now
    length = last - first
    allowed: tuple[Granularity, ...] = tuple(
        each for each, size in SIZES.items() if size <= length and length / size <= MAX_BUCKETS
    )
    if not allowed:
        allowed = ("minute",) if length < SIZES["minute"] else ("day",)
        first = max(first, last - SIZES[allowed[0]] * MAX_BUCKETS)
    wanted: Granularity | None = next((each for each in allowed if each == granularity), None)
    fine: list[Granularity] = [each for each in allowed if length / SIZES[each] <= MAX_BARS]
    size_name: Granularity = wanted or best or (fine or allowed[-1:])[0]
    size = SIZES[size_name]
    begin = _floor(first, size)
    finish = _floor(last, size)
    if finish < last:
        finish += size
    return Period(name=name, start=begin, end=finish, granularity=size_name, allowed=allowed)


class Line(Struct, frozen=True):
    """One outcome's counts, bucket by bucket; `tone` names its colour."""

    code: str
    label: str
    tone: str
    counts: tuple[int, ...]


class Chart(Struct, frozen=True):
    """Buckets in unix seconds, and a line for each outcome that occurs, in the order they are stacked.

    `running` says that the last bucket is still being counted.
    """

    starts: tuple[int, ...]
    lines: tuple[Line, ...]
    seconds: int
    running: bool


class Total(Struct, frozen=True):
    """How often an outcome was met, and its part of all in whole percent."""

    code: str
    label: str
    tone: str
    count: str
    percent: str


class Row(Struct, frozen=True):
    """One bucket of the table; `day` is its name where it is a whole day."""

    at: Moment
    day: str
    running: bool
    counts: tuple[str, ...]
    sum: str


def chart(points: Sequence[UsagePoint], shown: Period, *, now: datetime) -> Chart:
    """The series with its gaps filled: a bucket without uses is zero."""
    size = SIZES[shown.granularity]
    buckets = round((shown.end - shown.start) / size)
    starts = [shown.start + size * place for place in range(buckets)]
    place_of = {start: place for place, start in enumerate(starts)}
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * buckets)
    for point in points:
        place = place_of.get(point.start.astimezone(UTC))
        if place is not None:
            counts[point.outcome or GOOD][place] += point.count
    lines = tuple(Line(code, outcome(code), tone(code), tuple(counts[code])) for code in _in_order(counts))
    running = starts[-1] <= now < shown.end
    return Chart(tuple(int(start.timestamp()) for start in starts), lines, int(size.total_seconds()), running)


def totals(points: Iterable[UsagePoint]) -> tuple[str, tuple[Total, ...]]:
    """How many uses in all, and by outcome."""
    counts: dict[str, int] = defaultdict(int)
    for point in points:
        counts[point.outcome or GOOD] += point.count
    whole = sum(counts.values())
    told = tuple(
        Total(code, outcome(code), tone(code), grouped(counts[code]), percent(counts[code], whole))
        for code in _in_order(counts)
    )
    return grouped(whole), told


def table(shown: Chart) -> tuple[Row, ...]:
    """The chart's buckets that have uses, newest first, at most `MAX_ROWS`."""
    rows: list[Row] = []
    for place in range(len(shown.starts) - 1, -1, -1):
        counts = [line.counts[place] for line in shown.lines]
        if not any(counts):
            continue
        at = datetime.fromtimestamp(shown.starts[place], UTC)
        name = day(at) if shown.seconds == 86_400 else ""
        running = shown.running and place == len(shown.starts) - 1
        rows.append(Row(moment(at), name, running, tuple(map(grouped, counts)), grouped(sum(counts))))
        if len(rows) == MAX_ROWS:
            break
    return tuple(rows)


class Top(Struct, frozen=True):
    """One of the busiest keys; `bar` (0–100) is against the busiest, `share` of all uses there are."""

    key_id: str
    count: str
    refused: str
    bar: int
    share: str


def top(points: Iterable[UsagePoint], *, most: int = 10) -> tuple[Top, ...]:
    """The keys with the most uses, the busiest first."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for point in points:
        if point.key:
            counts[point.key][0] += point.count
            counts[point.key][1] += point.count if point.outcome != GOOD else 0
    whole = sum(count for count, _ in counts.values())
    first = sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))[:most]
    highest = max(1, first[0][1][0]) if first else 1
    return tuple(
        Top(
            key_id,
            grouped(count),
            grouped(refused),
            max(1, round(100 * count / highest)),
            percent(count, whole),
        )
        for key_id, (count, refused) in first
    )


def tone(code: str) -> str:
    """The colour an outcome has everywhere."""
    if code == GOOD:
        return "good"
    if code in ("RATE_LIMITED", "QUOTA_EXCEEDED"):
        return "limit"
    if code in ("REVOKED", "DISABLED", "EXPIRED", "WORKSPACE_SUSPENDED"):
        return "ended"
    return "denied"


def percent(part: int, whole: int) -> str:
    """A part in whole percent; what is there is never told as nothing, nor what lacks as all."""
    if not part or not whole:
        return "0 %"
    share = round(100 * part / whole)
    if share == 0:
        return "< 1 %"
    return "> 99 %" if share == 100 and part < whole else f"{share} %"


def day(at: datetime) -> str:
    """A day of UTC by its name; no reader's time zone moves it."""
    return moment(at).text.partition(",")[0]


def _within(at: datetime | None) -> datetime | None:
    return None if at is None else min(max(at, EARLIEST), LATEST)


def _in_order(codes: Iterable[str]) -> list[str]:
    order = {code: place for place, code in enumerate(OUTCOMES)}
    return sorted(codes, key=lambda code: (order.get(code, len(order)), code))


def _floor(at: datetime, size: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (at.astimezone(UTC) - epoch) // size * size

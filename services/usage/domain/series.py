"""What a caller asks of the counters, the points that answer it, and the cursor between two pages.

A series is sparse: a bucket without uses has no point. Points are ordered by start, then key, outcome,
environment and external id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from keyledger.errors import invalid_request
from services.usage.domain.period import STEPS, Granularity, Period, Resolution
from services.usage.domain.tally import Count

MAX_POINTS = 10_000
MAX_CURSOR = 1024
GROUPS = ("key", "outcome", "environment", "external_id")
"""What a series may be grouped by, in the order in which points are sorted and CSV columns stand."""
_LATEST = 2**62


class Question(Struct, frozen=True):
    """Whose uses, of which buckets, told apart by what; `key_id` None means every key of the workspace."""

    workspace_id: str
    key_id: str | None
    period: Period
    groups: tuple[str, ...]

    @property
    def of_whole_workspace(self) -> bool:
        """Whether no key has to be told from another to answer it."""
        return self.key_id is None and not {"key", "external_id"} & set(self.groups)


class Mark(Struct, frozen=True, order=True, array_like=True):
    """Where a point stands in its series; what the question does not tell apart is empty."""

    start: int
    key: str = ""
    outcome: str = ""
    environment: str = ""
    external_id: str = ""


class Point(Struct, frozen=True):
    """The uses of one bucket and group."""

    mark: Mark
    count: Count


class Reading(Struct, frozen=True):
    """One page of a series, the totals of the whole period, and the state they were all read at.

    `position` is the use log's, of the epoch that was folded last; `last_used_at` is there when the
    question is about one key that was ever used. Buckets before their granularity's `kept_from` were dropped.
    """

    points: list[Point]
    totals: Count
    position: int
    last_used_at: int | None = None
    kept_from: Mapping[Granularity, int] = {}


class _Cursor(Struct, frozen=True, array_like=True):
    """The period is in here because its default moves with the clock, and pages must not."""

    asked: bytes
    start: int
    end: int
    granularity: Resolution
    after: Mark


def groups_of(text: str | None) -> tuple[str, ...]:
    """The groups a caller listed, comma separated, in the series' own order; a refusal names the field."""
    asked = set() if text is None else {part.strip() for part in text.split(",")}
    if not asked <= set(GROUPS):
        raise invalid_request(f"group_by lists any of {', '.join(GROUPS)}.", field="group_by")
    return tuple(group for group in GROUPS if group in asked)


def fingerprint(*asked: str | None) -> bytes:
    """What binds a cursor to the workspace and every parameter as it was given, absent ones included."""
    return hashlib.sha256(msgspec.json.encode(asked)).digest()[:16]


def write_cursor(asked: bytes, period: Period, after: Mark) -> str:
    """An opaque, URL-safe text that continues this period's series behind `after`."""
    content = msgspec.msgpack.encode(_Cursor(asked, period.start, period.end, period.granularity, after))
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def read_cursor(text: str, asked: bytes) -> tuple[Period, Mark]:
    """The period and the mark a cursor holds; a refusal when it is none, or another question's."""
    refusal = invalid_request("The cursor does not belong to this request.", field="cursor")
    if len(text) > MAX_CURSOR:
        raise refusal
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = msgspec.msgpack.decode(content, type=_Cursor)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise refusal from None
    if cursor.asked != asked or not _plausible(cursor):
        raise refusal
    return Period(cursor.start, cursor.end, cursor.granularity), cursor.after


def _plausible(cursor: _Cursor) -> bool:
    times = (cursor.start, cursor.end, cursor.after.start)
    texts = msgspec.structs.astuple(cursor.after)[1:]
    # Postgres knows no NUL and no number beyond 64 bits
    return (
        all(-_LATEST < time < _LATEST for time in times)
        and cursor.start % STEPS[cursor.granularity] == 0
        and not any("\0" in text for text in texts)
    )

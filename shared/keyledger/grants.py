"""What verifiers and the granter say to each other about limits, and which cell a moment lies in.

A *meter* is one limit of one holder: (holder, window). Its *cells* follow each other without a gap, and each
has tokens of its own. Cells are named by the unix second at which they start, and are the granter's clock.

All of it is msgpack of arrays: a new field goes to the end and gets a default.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from msgspec import Struct

GRANT_SUBJECT = "kl.grant"
"""Request with a msgpack `Ask`, answered by a msgpack `Grants`."""
COMMITTED_SUBJECT = "kl.grant.committed"
"""As `GRANT_SUBJECT`, for cells whose grants are committed before they are told."""
CELLS_SUBJECT = "kl.grant.cells"
"""Request with a holder, answered by who grants: its running cells, as usage services know them."""
RECALL_SUBJECT = "kl.recall"
"""Published by the granter: a msgpack `Recall`."""

Window: TypeAlias = "int | Literal['day', 'month']"
"""Seconds of a rate limit's cell, or the calendar period (UTC) of a quota's."""
Meter: TypeAlias = "tuple[str, Window]"

LONGEST_QUICK = 60
"""Seconds of the longest cell whose grants live in the granter's memory; longer ones are committed."""
SHARED = 5
"""One part in so many of each limit is split beforehand among the leased verifiers."""
FEW = 4
"""Tokens that each verifier has of a small limit, while that is no more than half of it in all."""
SLOT = 20
"""Seconds of one lease: it covers the cells that start in them."""
GRACE = 120
"""Seconds of cells, after those of its last lease, that a verifier may take its static share of."""

MORE, EXHAUSTED, NOBODY, SCARCE = 0, 1, 2, 3
"""What stands behind a grant: there may be more; the cell is spent; nobody grants for this cell; there is
some, but too little for any of those who wait.
"""


class Want(Struct, frozen=True, array_like=True, gc=False):
    """One cell as its verifier stands: what it has spent and holds there, and what it needs besides.

    It is an absolute statement: whatever was granted and is in neither figure is destroyed. `since` (µs) is
    when the limit became that, of a quota that may be raised while its cell runs. `least` is the smallest
    grant that helps anybody who waits: any less would only be kept from others.
    """

    holder: str
    window: int | str
    start: int
    limit: int
    spent: int
    held: int
    need: int = 0
    since: int = 0
    least: int = 0


class Ask(Struct, frozen=True, array_like=True):
    """A verifier's message. `seq` counts up for each subject; `term` is the granter it believes in.

    `lease` is the start of the last slot whose lease it has accepted under that term, 0 for none. `leaving`:
    it holds nothing and takes nothing from now on. `replaces` is a verifier that is known to be dead.
    """

    verifier: str
    term: int
    seq: int
    wants: tuple[Want, ...] = ()
    lease: int = 0
    leaving: bool = False
    replaces: str = ""


class Grant(Struct, frozen=True, array_like=True, gc=False):
    """So many tokens of a cell. `left` is what the pool has besides, `state` MORE, EXHAUSTED or NOBODY."""

    holder: str
    window: int | str
    start: int
    amount: int
    left: int
    state: int


class Lease(Struct, frozen=True, array_like=True, gc=False):
    """A verifier's part, 1 / `parts`, of all quick cells that start in [`start`, `end`), unix seconds.

    It may take `slice_of` the limit of each of them unasked. From `end` on, for `GRACE` seconds without
    another lease, it may take 1 / `parts`: the static share, unless the lease is not `static`. Cells that
    have ended at `made` are not covered, however slow its clock is.
    """

    start: int
    end: int
    parts: int
    static: bool = True
    made: int = 0


class Recalled(Struct, frozen=True, array_like=True, gc=False):
    """A cell of which a verifier is to give back what it holds, or is to take nothing unasked."""

    holder: str
    window: int | str
    start: int
    limit: int


class Grants(Struct, frozen=True, array_like=True):
    """The answer to an `Ask`; `now` is the granter's clock in µs. Another term has looked at nothing else.

    `but` are cells of which a lease that has begun gives nothing: they are granted already.
    """

    term: int
    seq: int
    now: int
    grants: tuple[Grant, ...] = ()
    lease: Lease | None = None
    but: tuple[Recalled, ...] = ()


class Recall(Struct, frozen=True, array_like=True):
    """Give back: each verifier answers with an `Ask` that holds nothing of these cells.

    Without cells it says that this term has begun, or asks what was spent of a holder's cells: `tell`.
    """

    term: int
    now: int
    cells: tuple[Recalled, ...]
    tell: str = ""


def span(window: int | str, second: int) -> tuple[int, int]:
    """The start and end (exclusive) of the cell that this unix second lies in; UTC for calendar periods."""
    if isinstance(window, int):
        start = second - second % window
        return start, start + window
    if window == "day":
        return span(86_400, second)
    first = datetime.fromtimestamp(second, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = (first + timedelta(days=31)).replace(day=1)
    return int(first.timestamp()), int(after.timestamp())


def is_window(window: int | str) -> bool:
    """Whether there are such cells."""
    return window in {"day", "month"} if isinstance(window, str) else 1 <= window <= 86_400


def is_quick(window: int | str) -> bool:
    """Whether grants of such cells live in memory alone."""
    return isinstance(window, int) and window <= LONGEST_QUICK


def slice_of(limit: int, parts: int) -> int:
    """What a leased verifier takes of a cell unasked: all of them together no more than half of it."""
    return max(limit // (SHARED * parts), min(limit // (2 * parts), FEW))


def static_share(limit: int, parts: int) -> int:
    """What a verifier without a lease for a cell takes of it while its static right lasts."""
    return limit // parts


def most_slice(limit: int, parts: int) -> int:
    """What a granter counts for `slice_of`: rounded up, it stays enough while some know another limit.

    Who knows a larger one takes more by less than the limits differ, but for the rounding.
    """
    return max(-(-limit // (SHARED * parts)), min(-(-limit // (2 * parts)), FEW))


def most_share(limit: int, parts: int) -> int:
    """What a granter counts for `static_share`, rounded up as `most_slice`."""
    return -(-limit // parts)

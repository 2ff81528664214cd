"""What the usage service needs from outside: its counters, the use log's feed, and a word on who may read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

from keyledger.events import Epoch, Quota, RateLimit
from keyledger.grants import Want
from services.usage.domain.granting import Legacy
from services.usage.domain.parking import Parked
from services.usage.domain.pool import Pool
from services.usage.domain.series import Mark, Question, Reading
from services.usage.domain.shares import Right
from services.usage.domain.tally import Tally

SCOPE = "keyledger:usage:read"


class StoreUnavailable(Exception):
    """The counters cannot be reached just now; nothing of the call has happened, or all of it has."""


class UsageStore(Protocol):
    """The counters and how far each epoch line is folded into them. Any call may raise `StoreUnavailable`."""

    async def position(self, line: bytes) -> int:
        """The last position of this line that is folded; 0 for one that has not begun."""
        ...

    async def begin(self, epoch: Epoch, head: int) -> int:
        """How far this epoch's line is folded; the first call for a line says where it begins.

        Positions go on from one line to the next. So a new line begins where the one before it was left, or
        at `head` when Postgres went back further than that: what was counted stays counted, and once. What
        is passed over behind that belongs to no log any more, and is forgotten.
        """
        ...

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
        """Add the tally of the positions after `after` up to `last` and move on to `last`, both or neither.

        What these positions say is erased is remembered in the same step, for `erase_some`, and which of them
        are passed over. False, and nothing added, when `after` is not how far this line is folded: another
        process was here. `Unfoldable` when the tally holds what can never be added; a counter that would
        grow beyond 2^63 - 1 stays there.
        """
        ...

    async def parked(self) -> int:
        """How many batches are passed over."""
        ...

    async def erase_some(self) -> bool:
        """Remove some counters of a workspace that was said to be erased; False when there are none left."""
        ...

    async def read(self, question: Question, after: Mark | None, limit: int) -> Reading:
        """At most `limit` points behind `after`, and the totals, all of one state."""
        ...

    async def last_used(self, workspace_id: str, key_ids: Sequence[str]) -> tuple[dict[str, int], int]:
        """The last use (µs) of each of these keys that ever was used, and the position read."""
        ...

    async def ping(self) -> None:
        """Return when the store answers."""
        ...


class Credential(Struct, frozen=True):
    """A caller's X-API-Key and Authorization headers as they came; the repr shows nothing."""

    headers: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return "Credential(***)"


class Limited(Struct, frozen=True):
    """The rate limit and the quota of a workspace or key; None without one.

    `position` is that of the log they were read at; None when the key service did not tell it.
    """

    rate_limit: RateLimit | None = None
    quota: Quota | None = None
    position: int | None = None


class Access(Protocol):
    """Who may read the usage of a workspace, or of one key of it."""

    async def authorize(self, credential: Credential, workspace_id: str, key_id: str | None) -> Limited:
        """The limits of what is named, when `SCOPE` on the workspace is covered and the key belongs to it.

        Else a `Refusal` with the contract's code: 401, 404, 403 in this order; `unavailable` when nobody
        can say.
        """
        ...


class Claim(Struct, frozen=True):
    """Whose term it is, and up to where (µs) it has claimed the starts of cells."""

    term: int
    owner: str
    until: int
    left_over: bool = False
    """Its granter has stopped in order, and what it left behind is there to be gone on with."""


class GrantStore(Protocol):
    """What outlives a granter. Any call may raise `StoreUnavailable`; one of another term changes nothing."""

    async def claim(self) -> Claim | None:
        """The present claim; None before the first."""
        ...

    async def take(
        self, seen: Claim | None, term: int, owner: str, until: int
    ) -> tuple[Legacy | None, list[Right]] | None:
        """Begin `term`, unless the claim is not what was seen any more, then None.

        Answers what the granter before left behind, which nobody gets twice, and the rights recorded.
        """
        ...

    async def extend(self, term: int, until: int) -> bool:
        """Claim the starts of cells up to `until`; False when the term is over."""
        ...

    async def release(self, term: int, until: int, legacy: Legacy) -> None:
        """End the term in order: nothing is claimed beyond `until`, and the next may go on with `legacy`."""
        ...

    async def record(self, term: int, rights: Sequence[Right]) -> bool:
        """Put these rights in the place of all others; False when the term is over."""
        ...

    async def cells(self, wants: Sequence[Want]) -> list[Pool]:
        """Those of the wanted cells that were ever committed."""
        ...

    async def of_holder(self, holder: str, second: int) -> list[Pool]:
        """The holder's committed cells that run at this unix second."""
        ...

    async def commit(self, term: int, cells: Sequence[Pool]) -> bool:
        """Write these cells as they stand, all or none; False when the term is over."""
        ...

    async def forget(self, before: int) -> None:
        """Drop cells that ended before this unix second."""
        ...


class LimitCells(Protocol):
    """The running cells of a holder's limits and quotas, as its granter knows them."""

    async def cells(self, holder: str) -> list[Pool]:
        """A workspace's or key's cells of which anything was asked for; `StoreUnavailable` when this process
        does not grant and cannot know.
        """
        ...

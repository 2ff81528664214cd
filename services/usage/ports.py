"""What the usage service needs from outside: its counters, the use log's feed, and a word on who may read."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

from keyledger.events import Epoch
from services.usage.domain.series import Mark, Question, Reading
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
        at `head` when Postgres went back further than that: what was counted stays counted, and once.
        """
        ...

    async def fold(
        self, epoch: Epoch, after: int, last: int, tally: Tally, erased: Collection[str] = ()
    ) -> bool:
        """Add the tally of the positions after `after` up to `last` and move on to `last`, both or neither.

        What these positions say is erased is remembered in the same step, for `erase_some`. False, and
        nothing added, when `after` is not how far this line is folded: another process was here.
        """
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


class Access(Protocol):
    """Who may read the usage of a workspace, or of one key of it."""

    async def authorize(self, credential: Credential, workspace_id: str, key_id: str | None) -> None:
        """Return when `SCOPE` on the workspace is covered and the key belongs to it.

        Else a `Refusal` with the contract's code: 401, 404, 403 in this order; `unavailable` when nobody
        can say.
        """
        ...

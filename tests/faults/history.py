"""What was done to the system as its clients saw it, and the log as Postgres holds it afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import asyncpg
from msgspec import Struct

from keyledger.events import GENESIS, Recorded

Kind: TypeAlias = Literal["create", "patch", "rotate", "revoke", "verify"]
Outcome: TypeAlias = Literal["acked", "refused", "unknown"]
"""`refused`: an answer that promises that nothing was written. `unknown`: no answer, or one that says so."""


class Operation(Struct, frozen=True, kw_only=True):
    """One operation, all its attempts together; the times are monotonic seconds.

    `name` is its request id, which every event that it causes carries into the log. `token` is the one that
    was told (create, rotate) or presented (verify); `ended_tokens` must be refused once this is acknowledged.
    """

    kind: Kind
    name: str
    started: float
    ended: float
    outcome: Outcome
    key_id: str = ""
    token: str = ""
    ended_tokens: tuple[str, ...] = ()
    position: int = 0
    version: int = 0
    code: str = ""
    cost: int = 0

    def __repr__(self) -> str:
        when = f"{self.started:.3f}–{self.ended:.3f}"
        return f"{self.kind} {self.name} {self.outcome} {self.code} at {when}, position {self.position}"


class History:
    """Everything that was done, in the order in which it ended."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self.operations = list(operations)

    def add(self, operation: Operation) -> Operation:
        """Record it."""
        self.operations.append(operation)
        return operation

    def commands(self) -> list[Operation]:
        """What was to change something."""
        return [each for each in self.operations if each.kind != "verify"]

    def verifies(self) -> list[Operation]:
        """What was asked of a verifier."""
        return [each for each in self.operations if each.kind == "verify"]

    def tokens(self) -> dict[str, Operation]:
        """Every token ever told, with the operation that made it."""
        return {each.token: each for each in self.commands() if each.outcome == "acked" and each.token}

    def count(self, outcome: Outcome, *kinds: Kind) -> int:
        """How many operations (of these kinds) ended so."""
        return sum(each.outcome == outcome and (not kinds or each.kind in kinds) for each in self.operations)


class Line(Struct, frozen=True):
    """One telling of the log: the events after `base` were hashed under it."""

    base: int
    line: bytes


class Log(Struct, frozen=True):
    """The log in one snapshot."""

    events: tuple[Recorded, ...]
    lines: tuple[Line, ...]
    head_position: int
    head_hash: bytes

    def line_at(self, position: int) -> bytes:
        """The line under which this position was hashed."""
        return next(each.line for each in reversed(self.lines) if each.base < position)


async def read_log(dsn: str) -> Log:
    """The whole log as an administrator reads it."""
    connection = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = await connection.fetch("SELECT * FROM ledger.event ORDER BY position")
            lines = await connection.fetch("SELECT base_position, line FROM ledger.epoch ORDER BY number")
            head = await connection.fetchrow("SELECT position, hash FROM ledger.log_head")
    finally:
        await connection.close()
    events: list[Recorded] = []
    previous = GENESIS
    for row in rows:
        fields = {name: row[name] for name in Recorded.__struct_fields__ if name != "previous_hash"}
        events.append(Recorded(**fields, previous_hash=previous))
        previous = row["hash"]
    assert head is not None
    return Log(tuple(events), tuple(Line(row[0], row[1]) for row in lines), head["position"], head["hash"])

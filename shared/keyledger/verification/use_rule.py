"""What a sum of uses may hold, whoever tells it: the recorder refuses any other, a fold counts no other.

One number without a bound adds up past what a counter holds, and then nothing is counted any more.
"""

from __future__ import annotations

import re

from keyledger.token import ENVIRONMENTS, is_id
from keyledger.wire import Use

MINUTE = 60_000_000
MAX_COUNT = 1_000_000_000
"""Uses of one sum; some 16 million a second of one key at one verifier."""
MAX_COST = 1_000_000_000_000
"""Limit units of one sum; a limit has a thousand million at most, and is there anew each second at most."""
AHEAD = 2 * 366 * 86_400_000_000
"""How far (µs) a verifier's clock may be ahead: both clocks may be a year wrong, and the uses still count."""
LATEST = 253_402_300_800_000_000
"""The year 10000 in µs, which no date is written beyond."""
MAX_EXTERNAL_ID = 255
# a newer verifier may tell of outcomes that nobody here knows yet
_OUTCOME = re.compile(r"[A-Z][A-Z_]{0,39}", re.ASCII)


def uncountable(use: Use) -> str | None:
    """The name of the number that no counter may take, None when all of them are sound."""
    if not 1 <= use.count <= MAX_COUNT:
        return "count"
    if not 0 <= use.cost <= MAX_COST:
        return "cost"
    if not 0 <= use.minute < LATEST:
        return "minute"
    if not 0 <= use.last_at < LATEST:
        return "last_at"
    return None


def fault_of(use: Use, *, now: int) -> str | None:
    """The name of the field that makes a use unfit to be recorded at `now` (µs), None for a sound one."""
    if (number := uncountable(use)) is not None:
        return number
    if use.minute % MINUTE or use.minute > now + AHEAD:
        return "minute"
    if not use.minute <= use.last_at < use.minute + MINUTE:
        return "last_at"
    return _odd_text(use)


def _odd_text(use: Use) -> str | None:
    """The name of the text that is not written as such a text is."""
    if not is_id(use.workspace_id, "ws"):
        return "workspace_id"
    if not is_id(use.key_id, "key"):
        return "key_id"
    if use.environment not in ENVIRONMENTS:
        return "environment"
    if _OUTCOME.fullmatch(use.outcome) is None:
        return "outcome"
    return "external_id" if len(use.external_id) > MAX_EXTERNAL_ID or "\0" in use.external_id else None

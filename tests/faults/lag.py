"""How long a revocation takes: from its answer to the beginning of the first check that refuses."""

from __future__ import annotations

import time
from typing import Any

import httpx2

from tests.faults.rig import Rig
from tests.support.waiting import until

LONGEST = 10.0


async def revocation_lag(rig: Rig, workspace: str, *, at: int = 0) -> float:
    """Make a key, have it accepted, revoke it, and ask until it is refused; in seconds."""
    made = await rig.key(workspace, at=at)
    await accepted(rig, made["key"])
    await rig.revoke(workspace, made["id"], at=at)
    answered = time.monotonic()
    return await refused_after(rig, made["key"], answered)


async def accepted(rig: Rig, token: str, *, within: float = LONGEST) -> None:
    """Return once the verifier accepts the token."""

    async def valid() -> bool:
        return await _code(rig, token) == "VALID"

    await until(valid, within=within, describe="the verifier accepts the new key")


async def refused_after(rig: Rig, token: str, answered: float) -> float:
    """Ask until the token is refused; the first refused check began so many seconds after `answered`."""
    asked = 0.0

    async def refused() -> bool:
        nonlocal asked
        asked = time.monotonic()
        return await _code(rig, token) == "REVOKED"

    await until(refused, within=LONGEST, describe="the verifier refuses the revoked key")
    return asked - answered


async def _code(rig: Rig, token: str) -> Any:
    try:
        return await rig.code(token)
    except httpx2.HTTPError:
        return None


def percentile(values: list[float], share: float) -> float:
    """The smallest value that so large a share does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

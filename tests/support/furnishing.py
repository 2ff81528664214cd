"""A workspace as it looks after some weeks: keys with names, uses by night and day, what was done to them."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from typing import Any

from keyledger.clock import SECOND, SystemClock, parse_rfc3339
from keyledger.server.postgres import open_pool
from keyledger.wire import Use, UseBatch
from services.keys.adapters.uses import PostgresUseLog
from tests.support.system import System
from tests.support.waiting import until

MINUTE, HOUR = 60 * SECOND, 3600 * SECOND
WEEKS = 14 * 24
"""Hours of uses."""
KEYS: Sequence[dict[str, Any]] = (
    {
        "name": "Checkout, Germany",
        "scopes": ["orders:read", "orders:write"],
        "metadata": {"team": "checkout"},
    },
    {"name": "Mobile app, Android", "scopes": ["*"], "rate_limit": {"limit": 600, "window_seconds": 60}},
    {"name": "Mobile app, iOS", "scopes": ["*"], "rate_limit": {"limit": 600, "window_seconds": 60}},
    {"name": "Nightly export", "scopes": ["orders:read", "customers:read", "invoices:read"]},
    {"name": "Partner: Nordwind", "scopes": ["catalogue:read"], "external_id": "partner-118"},
    {"name": "Continuous integration", "environment": "test", "scopes": ["*"]},
    {"name": "Staging", "environment": "test", "scopes": ["orders:read"], "allowed_ips": ["192.0.2.0/24"]},
)
_BUSY = (900, 620, 480, 60, 140, 30, 8)
_OUTCOMES = (
    ("VALID", 0.962),
    ("RATE_LIMITED", 0.026),
    ("INSUFFICIENT_PERMISSIONS", 0.009),
    ("EXPIRED", 0.003),
)


async def furnish(system: System, workspace: str, jwt: str) -> list[dict[str, Any]]:
    """Keys, one of them rotated and one more revoked, and two weeks of uses; the keys, tokens included.

    Done by whose session it is; the uses are counted when it returns.
    """
    address, headers = system.url("keys", f"/v1/workspaces/{workspace}"), {"Authorization": f"Bearer {jwt}"}

    async def call(path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await system.http.post(address + path, json=body, headers=headers)
        assert answer.is_success, (path, answer.status_code)
        return answer.json()

    keys = [await call("/keys", {"environment": "live", **fields}) for fields in KEYS]
    await call(f"/keys/{keys[0]['id']}/rotate", {"overlap_seconds": 86_400})
    old = await call("/keys", {"name": "Old website", "environment": "live"})
    await call(f"/keys/{old['id']}/revoke", {"reason": "replaced"})
    now = SystemClock().now()
    await record(system, _two_weeks(workspace, keys, now))

    async def counted() -> bool:
        address = system.url("usage", f"/v1/workspaces/{workspace}/last-used")
        answer = await system.http.get(address, headers=headers, params={"keys": keys[-1]["id"]})
        told = answer.json()["last_used"][keys[-1]["id"]]
        return told is not None and parse_rfc3339(told) > now - HOUR

    await until(counted, within=20)
    return keys


async def record(system: System, uses: Sequence[Use]) -> None:
    """Put uses into the use log, as a verifier's batches are."""
    _, environment = system.started_as("keys")
    pool = await open_pool(environment["KEYLEDGER_POSTGRES"], name="furnishing")
    try:
        log, boot = PostgresUseLog(pool), secrets.token_hex(8)
        for seq, start in enumerate(range(0, len(uses), 2_000)):
            batch = UseBatch(boot, seq, tuple(uses[start : start + 2_000]))
            await log.record(batch, now=SystemClock().now())
    finally:
        await pool.close()


async def import_keys(system: System, workspace: str, count: int) -> None:
    """So many keys that nobody has the tokens of, a hundred a call: each is hashed for its proof."""
    salt = secrets.token_hex(8)
    for start in range(0, count, 100):
        keys = [
            {
                "name": f"device {number:05}", "environment": ("live", "test")[number % 5 == 0],
                "sha256": hashlib.sha256(f"{salt} {number}".encode()).hexdigest(),
            }
            for number in range(start, min(start + 100, count))
        ]  # fmt: skip
        answer = await system.call("POST", f"/v1/workspaces/{workspace}/keys/import", {"keys": keys})
        assert answer.status_code == 201, answer.text


def _two_weeks(workspace: str, keys: Sequence[dict[str, Any]], now: int) -> list[Use]:
    """By the hour, busier by day, growing a little; the same each time but for where now is."""
    uses: list[Use] = []
    for ago in range(WEEKS, 0, -1):
        minute = (now - ago * HOUR) // MINUTE * MINUTE
        hour = minute // HOUR % 24
        by_day = 0.35 + 0.65 * math.exp(-(((hour - 13) / 5) ** 2))
        weekend = 0.55 if minute // (24 * HOUR) % 7 in {2, 3} else 1.0
        for place, (key, busy) in enumerate(zip(keys, _BUSY, strict=True)):
            wave = 1 + 0.18 * math.sin(ago * (place + 2) * 1.7) + 0.25 * (WEEKS - ago) / WEEKS
            total = busy * by_day * weekend * wave
            for outcome, share in _OUTCOMES:
                if count := round(total * share):
                    cost = count if outcome == "VALID" else 0
                    uses.append(
                        Use(workspace, key["id"], key["environment"], minute, outcome, count, cost, minute)
                    )
    for place, key in enumerate(keys):
        at = now - place**2 * 70 * SECOND
        uses.append(Use(workspace, key["id"], key["environment"], at // MINUTE * MINUTE, "VALID", 1, 1, at))
    return uses

"""How long the dashboard takes to answer with each page, over a workspace of ten thousand keys."""

from __future__ import annotations

import asyncio
import os
import re
import time
from typing import Any

import asyncpg
import httpx2

from bench.plot import Bar
from bench.report import machine, report
from bench.seeding import GROUP, append, key_command
from bench.stage import say
from keyledger.server.seal import Sealer
from tests.support import tokens
from tests.support.browsing import SESSION
from tests.support.furnishing import furnish
from tests.support.system import System, running, temporary_home

KEYS = 10_000
ROUNDS = 20
TARGET = 150.0
"""Milliseconds of the server's own time, which a page may take."""
_WRAPPED = "SELECT wrapped FROM ledger.workspace_key WHERE workspace_id = $1"
PAGES = {
    "API keys": "/settings/api-keys",
    "API keys, a search": "/settings/api-keys?search=billing+999",
    "API keys, active test keys": "/settings/api-keys?environment=test&status=active",
    "create a key": "/settings/api-keys/new",
    "a key": "/settings/api-keys/{key}",
    "a key's usage": "/settings/api-keys/{key}/usage",
    "usage, a week": "/settings/usage?range=7d",
    "rate limit": "/settings/rate-limit",
    "activity": "/settings/activity",
    "workspace": "/settings/workspace",
    "members": "/settings/members",
}


class Visitor:
    """Somebody signed in by a one-time link, without a browser: what is measured is the server."""

    def __init__(self, home: str) -> None:
        self.http = httpx2.AsyncClient(base_url=home, timeout=30)
        self.cookies: dict[str, str] = {}

    async def get(self, path: str) -> httpx2.Response:
        """A page as the browser that signed in is answered."""
        sent = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = await self.http.get(path, headers={"Cookie": sent} if sent else {})
        # a cookie of https is sent to loopback by browsers, and not by this client
        for header in answer.headers.get_list("set-cookie"):
            name, value = header.split(";", 1)[0].split("=", 1)
            self.cookies[name] = value
        return answer


async def signed_in(system: System) -> Visitor:
    """By the link that `make up` prints."""
    found = re.search(r"http://\S+/sign-in/link\?token=\S+", system.output)
    assert found is not None, "the supervisor printed no link"
    visitor = Visitor(system.url("dashboard"))
    answer = await visitor.get(found[0].removeprefix(system.url("dashboard")))
    assert answer.status_code in {302, 303}, answer.text
    return visitor


async def main() -> None:
    """Measure every page, print it, keep it."""
    began, load = time.perf_counter(), os.getloadavg()
    with temporary_home() as home:
        async with running(home) as system:
            visitor = await signed_in(system)
            jwt = visitor.cookies[SESSION]
            workspace = tokens.claims(jwt)["ws"]
            say(f"{KEYS:,} keys")
            keys = await furnish(system, workspace, jwt)
            await seed(system, workspace, KEYS - len(keys) - 1)
            say("every page")
            bars = [
                await measured(visitor, name, path.format(key=keys[0]["id"])) for name, path in PAGES.items()
            ]
            await visitor.http.aclose()
    facts: dict[str, Any] = {
        "keys in the workspace": KEYS,
        "seconds": round(time.perf_counter() - began),
        "machine": machine(),
        "load before and after": [round(load[0], 1), round(os.getloadavg()[0], 1)],
    }
    report("dashboard", bars, facts)


async def seed(system: System, workspace: str, count: int) -> None:
    """Append so many keys of the workspace to the log."""
    _, environment = system.started_as("keys")
    sealer = Sealer(bytes.fromhex((system.home / "seal.secret").read_text().strip()))
    connection = await asyncpg.connect(environment["KEYLEDGER_POSTGRES"])
    try:
        wrapped = await connection.fetchval(_WRAPPED, workspace)
        data_key = sealer.unwrap(workspace, wrapped)
        for start in range(0, count, GROUP):
            numbers = range(start, min(start + GROUP, count))
            await append(connection, [key_command(workspace, data_key, number) for number in numbers])
    finally:
        await connection.close()


async def measured(visitor: Visitor, name: str, path: str) -> Bar:
    """Milliseconds from the request to the whole answer, one request after the other."""
    found: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        answer = await visitor.get(path)
        found.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, (path, answer.status_code)
    return Bar(name, "ms", tuple(found), TARGET, more_is_better=False)


if __name__ == "__main__":
    asyncio.run(main())

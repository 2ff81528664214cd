"""The dashboard's application on stores of a test's choice, and a browser that keeps its cookies by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http.cookies import SimpleCookie
from typing import Any

import httpx2

from keyledger.clock import Clock
from keyledger.server.telemetry import new_registry
from keyledger.token import Secret
from services.dashboard.adapters.openid import OpenIdProvider
from services.dashboard.adapters.people import PostgresInvitations, PostgresPeople
from services.dashboard.adapters.services import Services
from services.dashboard.adapters.sessions import PostgresSessions, PostgresSigningKeys, PostgresSpent
from services.dashboard.adapters.store import Database
from services.dashboard.app import Parts, assemble
from services.dashboard.backend import Backend
from services.dashboard.settings import OpenId, Settings
from tests.support.memory_accounts import (
    FakeMemberships,
    MemoryAccounts,
    MemoryInvitations,
    MemoryPeople,
    MemorySessions,
    MemorySigningKeys,
    MemorySpent,
)
from tests.support.openid import CLIENT_ID, CLIENT_SECRET

LOCAL, PUBLIC = "http://127.0.0.1:8400", "https://keys.example"
SECRET = Secret("7e" * 32)
JWT, REFRESH, ATTEMPT = "__Host-keyledger", "__Host-keyledger-refresh", "__Host-keyledger-sign-in"
SIGNED_OUT = "__Host-keyledger-signed-out"
OWN = {"X-Keyledger-Request": "1", "Sec-Fetch-Site": "same-origin"}
PAGE = {"Accept": "text/html", "Sec-Fetch-Dest": "document"}
NOWHERE = "http://127.0.0.1:9"


@dataclass
class Dashboard:
    """An application that runs, and who is a member where."""

    app: Any
    memberships: FakeMemberships
    origin: str

    def browser(self, *, peer: str = "127.0.0.1") -> Browser:
        """A new one, without a cookie."""
        return Browser(self, peer)


class Browser:
    """Keeps cookies as they are set, follows nothing, and says what a test has it say."""

    def __init__(self, dashboard: Dashboard, peer: str) -> None:
        transport = httpx2.ASGITransport(app=dashboard.app, client=(peer, 50_000))
        self._http = httpx2.AsyncClient(transport=transport, base_url=dashboard.origin)
        self.cookies: dict[str, str] = {}
        self.set: dict[str, str] = {}
        """The last Set-Cookie header of each cookie."""

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        """Ask for a page as a browser does."""
        return await self.send("GET", path, {**PAGE, **headers})

    async def post(self, path: str, data: dict[str, str] | None = None, **headers: str) -> httpx2.Response:
        """Write as our own pages do."""
        return await self.send("POST", path, {**OWN, **headers}, data)

    async def send(
        self, method: str, path: str, headers: dict[str, str], data: dict[str, str] | None = None
    ) -> httpx2.Response:
        """One request with the cookies of now, and what it sets kept."""
        sent = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = await self._http.request(
            method, path, headers={**headers, **({"Cookie": sent} if sent else {})}, data=data
        )
        for line in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                self.set[name] = line
                if morsel["max-age"] == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value
        self._http.cookies.clear()
        return answer


@asynccontextmanager
async def in_memory(
    clock: Clock, accounts: MemoryAccounts | None = None, backend: Backend | None = None
) -> AsyncGenerator[Dashboard]:
    """Without a provider, for this machine alone, on stores in memory; without a `backend` that is away."""
    kept = accounts or MemoryAccounts()
    parts = Parts(
        MemoryPeople(kept), MemorySessions(kept), MemorySpent(), MemorySigningKeys(), MemoryInvitations(kept),
        FakeMemberships(), backend or Services(NOWHERE, NOWHERE), None, clock, kept.open,
    )  # fmt: skip
    async with _running(_settings(LOCAL), parts) as dashboard:
        yield dashboard


@asynccontextmanager
async def on_postgres(
    dsn: str, clock: Clock, *, issuer: str, hosted_domain: str | None = None, public: bool = True
) -> AsyncGenerator[Dashboard]:
    """With a provider, on Postgres."""
    database = Database(dsn)
    openid = OpenId(issuer, CLIENT_ID, Secret(CLIENT_SECRET), hosted_domain)
    async with httpx2.AsyncClient(trust_env=False) as http:
        provider = OpenIdProvider(
            http, clock, issuer=issuer, client_id=CLIENT_ID, client_secret=openid.client_secret,
            hosted_domain=hosted_domain,
        )  # fmt: skip
        parts = Parts(
            PostgresPeople(database), PostgresSessions(database), PostgresSpent(database),
            PostgresSigningKeys(database), PostgresInvitations(database), FakeMemberships(),
            Services(NOWHERE, NOWHERE), provider, clock, database.open,
        )  # fmt: skip
        settings = replace(_settings(PUBLIC if public else LOCAL), openid=openid)
        async with _running(settings, parts) as dashboard:
            yield dashboard


def _settings(public_url: str) -> Settings:
    return Settings("127.0.0.1", 8400, public_url, NOWHERE, NOWHERE, NOWHERE, "", SECRET)


@asynccontextmanager
async def _running(settings: Settings, parts: Parts) -> AsyncGenerator[Dashboard]:
    app: Callable[..., Any] = assemble(settings, parts, new_registry())
    asked: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    told: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan", "state": {}, "asgi": {}}, asked.get, told.put))
    await asked.put({"type": "lifespan.startup"})
    started = await told.get()
    assert started["type"] == "lifespan.startup.complete", started
    assert isinstance(parts.memberships, FakeMemberships)
    try:
        yield Dashboard(app, parts.memberships, settings.public_url)
    finally:
        await asked.put({"type": "lifespan.shutdown"})
        await life

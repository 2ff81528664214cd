"""The composition root: opens what the dashboard needs, wires it, and closes in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx2
from litestar import Litestar
from litestar.middleware import DefineMiddleware
from litestar.types import ASGIApp
from prometheus_client import CollectorRegistry

from keyledger.client.http import KeyledgerClient
from keyledger.clock import Clock, SystemClock
from keyledger.server.edge import Edge
from keyledger.server.health import Readiness, health_routes
from keyledger.server.ids import new_id, new_secret
from keyledger.server.jwt import KeyRing, SessionTokens
from keyledger.server.seal import Sealer
from keyledger.server.telemetry import new_registry
from services.dashboard.adapters.memberships import ATTEMPTS, TIMEOUT, KeyServiceMemberships
from services.dashboard.adapters.openid import OpenIdProvider
from services.dashboard.adapters.people import PostgresInvitations, PostgresPeople
from services.dashboard.adapters.services import Services
from services.dashboard.adapters.sessions import PostgresSessions, PostgresSigningKeys, PostgresSpent
from services.dashboard.adapters.store import Database
from services.dashboard.backend import Backend
from services.dashboard.handlers.accounts import AccountsOf
from services.dashboard.handlers.housekeeping import Housekeeping
from services.dashboard.handlers.sessions import SessionKeeper
from services.dashboard.handlers.sign_in import LinkSignIn, SignIn
from services.dashboard.handlers.signing import Signer
from services.dashboard.ports import (
    IdentityProvider,
    Invitations,
    Memberships,
    People,
    Sessions,
    SigningKeys,
    Spent,
    StoreUnavailable,
)
from services.dashboard.routes import failures, invitations, session, sign_in, well_known
from services.dashboard.routes.guard import Guard
from services.dashboard.routes.headers import Browsers
from services.dashboard.routes.pages_registry import page_handlers
from services.dashboard.routes.rendering import environment
from services.dashboard.routes.showing import Places
from services.dashboard.routes.static import Assets
from services.dashboard.settings import Settings

CALLBACK = "/sign-in/callback"


@dataclass(frozen=True)
class Parts:
    """What the dashboard stands on. Without a provider people come in by a link.

    `opened` opens what has to be, for as long as the dashboard runs.
    """

    people: People
    sessions: Sessions
    spent: Spent
    signing_keys: SigningKeys
    invitations: Invitations
    memberships: Memberships
    backend: Backend
    provider: IdentityProvider | None
    clock: Clock
    opened: Callable[[], AbstractAsyncContextManager[None]]


def build_app(settings: Settings) -> ASGIApp:
    """The dashboard on Postgres and the other services; nothing is opened before it starts."""
    return assemble(settings, _parts(settings), new_registry())


def assemble(settings: Settings, parts: Parts, registry: CollectorRegistry) -> ASGIApp:
    """The dashboard on whatever parts; raises `AssetsMissing` when the pages' files are not built."""
    assets = Assets()
    sealer = Sealer(bytes.fromhex(settings.seal_secret.reveal()))
    signer = Signer(parts.signing_keys, sealer, parts.clock, lambda: new_id("jwk"))
    keeper = SessionKeeper(
        parts.sessions,
        parts.memberships,
        signer,
        SessionTokens(settings.public_url, KeyRing(signer, parts.clock), parts.clock),
        parts.clock,
        issuer=settings.public_url,
        new_id=new_id,
        new_secret=new_secret,
    )
    accounts = AccountsOf(
        parts.people,
        parts.invitations,
        parts.memberships,
        keeper,
        parts.clock,
        public_url=settings.public_url,
        new_id=new_id,
        new_secret=new_secret,
    )
    housekeeping = Housekeeping(keeper, signer, parts.invitations, parts.spent, parts.clock)

    @asynccontextmanager
    async def running(app: Litestar) -> AsyncGenerator[None]:
        del app
        async with parts.opened():
            await signer.refresh()
            tasks = [
                asyncio.create_task(housekeeping.tell(), name="tell of ended sessions"),
                asyncio.create_task(housekeeping.tidy(), name="tidy"),
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def readiness() -> Readiness:
        try:
            await parts.people.ping()
        except StoreUnavailable:
            return Readiness("postgres_away")
        return Readiness("ready" if signer.ready else "starting")

    app = Litestar(
        [
            *health_routes(registry, readiness),
            *assets.handlers(),
            *well_known.handlers(),
            *sign_in.handlers(),
            *session.handlers(),
            *invitations.handlers(),
            *page_handlers(
                parts.backend, accounts, parts.clock, Places(settings.keys_url, settings.verifier_url)
            ),
        ],
        lifespan=[running],
        middleware=[DefineMiddleware(Guard, origin=settings.public_url)],
        exception_handlers=failures.exception_handlers,
        openapi_config=None,
        logging_config=None,
    )
    app.state.update({
        "public_url": settings.public_url,
        "templates": environment(assets),
        "keeper": keeper,
        "signer": signer,
        "accounts": accounts,
        "sign_in": _sign_in(settings, parts, keeper, sealer),
        "link_sign_in": _link_sign_in(settings, parts, keeper),
        "provider_name": None if settings.openid is None else settings.openid.called,
    })  # fmt: skip
    return Browsers(Edge(app), origin=settings.public_url)


def _sign_in(settings: Settings, parts: Parts, keeper: SessionKeeper, sealer: Sealer) -> SignIn | None:
    if parts.provider is None:
        return None
    return SignIn(
        parts.provider,
        parts.people,
        parts.spent,
        keeper,
        sealer,
        clock=parts.clock,
        redirect_uri=settings.public_url + CALLBACK,
        new_id=new_id,
        new_secret=new_secret,
    )


def _link_sign_in(settings: Settings, parts: Parts, keeper: SessionKeeper) -> LinkSignIn | None:
    """Only where nobody but this machine is served, and there is no provider."""
    if settings.openid is not None or not settings.is_local:
        return None
    return LinkSignIn(
        parts.people, parts.spent, keeper, parts.clock, secret=settings.seal_secret, new_id=new_id
    )


def _parts(settings: Settings) -> Parts:
    clock = SystemClock()
    database = Database(settings.postgres)
    own = KeyledgerClient(settings.keys_url, timeout=TIMEOUT, attempts=ATTEMPTS)
    backend = Services(settings.keys_url, settings.usage_url)
    outside = httpx2.AsyncClient(trust_env=True, follow_redirects=False)

    @asynccontextmanager
    async def opened() -> AsyncGenerator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(own)
            await stack.enter_async_context(outside)
            stack.push_async_callback(backend.close)
            await stack.enter_async_context(database.open())
            yield

    openid = settings.openid
    provider = (
        None
        if openid is None
        else OpenIdProvider(
            outside,
            clock,
            issuer=openid.issuer,
            client_id=openid.client_id,
            client_secret=openid.client_secret,
            hosted_domain=openid.hosted_domain,
        )
    )
    return Parts(
        PostgresPeople(database),
        PostgresSessions(database),
        PostgresSpent(database),
        PostgresSigningKeys(database),
        PostgresInvitations(database),
        KeyServiceMemberships(own),
        backend,
        provider,
        clock,
        opened,
    )

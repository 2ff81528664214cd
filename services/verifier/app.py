"""The composition root: opens what the verifier needs, wires, and closes in reverse."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx2
from litestar.types import ASGIApp
from prometheus_client import CollectorRegistry

from keyledger.clock import Clock, SystemClock
from keyledger.digest import load_peppers
from keyledger.server.edge import Edge
from keyledger.server.health import Readiness
from keyledger.server.telemetry import new_registry
from keyledger.token import Secret
from keyledger.verification.bus import NatsBus
from keyledger.verification.feed import HttpFeed
from keyledger.verification.freshness import NEVER
from keyledger.verification.judge import Judge
from keyledger.verification.limits import FixedWindow
from keyledger.verification.opening import open_store
from keyledger.verification.pepper_watch import PepperWatch
from keyledger.verification.projector import Projector
from keyledger.verification.spool import spool_of
from keyledger.verification.verifier import STORE, Verifier
from services.verifier.adapters.key_service import TIMEOUT, HttpKeyService
from services.verifier.handlers.explain import Explain
from services.verifier.handlers.gateway import ClientAddress, Gateway
from services.verifier.handlers.projection import Projection
from services.verifier.handlers.tally import Tally
from services.verifier.handlers.verify import Checks
from services.verifier.ports import KeyService
from services.verifier.routes.explain import explain_route
from services.verifier.routes.framework import framework
from services.verifier.routes.hot import Endpoints, Hot
from services.verifier.routes.projection import projection_route
from services.verifier.settings import Settings


class Service:
    """The application on a verifier that somebody else starts and stops."""

    def __init__(
        self,
        verifier: Judge,
        clock: Clock,
        *,
        address: ClientAddress | None = None,
        token: Secret | None = None,
        registry: CollectorRegistry | None = None,
        keys: KeyService | None = None,
    ) -> None:
        """`token` is what callers must send as X-Verifier-Token; None asks for nothing. `keys` is who tells
        operators from others; without it nothing is explained to anybody.
        """
        registry = registry or CollectorRegistry()
        tally = Tally(verifier)
        registry.register(tally)
        checks = Checks(verifier, tally)
        endpoints = Endpoints(checks, Gateway(checks, clock, address or ClientAddress()), token=token)
        digest = projection_route(Projection(verifier.store), endpoints.admit)
        explain = explain_route(Explain(verifier, keys, clock), endpoints.admit)
        self.endpoints = endpoints
        self.stopping = False
        self.documented: ASGIApp = Edge(framework(endpoints, registry, self.readiness, digest, explain))
        self.app: ASGIApp = Hot(endpoints, self.documented)
        self._verifier = verifier

    async def readiness(self) -> Readiness:
        """Ready while verdicts can be given; `degraded` when they can, and something behind is away."""
        verifier, follower = self._verifier, self._verifier.follower
        epoch, age = verifier.store.epoch, follower.age()
        status = "stopping" if self.stopping else verifier.state
        if status == "held":
            status = "degraded"
        return Readiness(
            status,
            verifier.store.position,
            follower.freshness.head,
            epoch.text if epoch else None,
            None if age == NEVER else round(age * 1000),
        )


def build_app(verifier: Judge, clock: Clock) -> ASGIApp:
    """The whole application on a verifier, for tests and for serving it beside something else."""
    return Service(verifier, clock).app


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncGenerator[Service]:
    """The service on NATS and the key service, following while the context is open.

    One of several workers only reads what their projector follows.
    """
    clock = SystemClock()
    index = None if settings.worker is None else settings.worker.index
    following = Verifier(
        keys_url=settings.keys_url,
        service_key=settings.service_key,
        nats=settings.nats,
        peppers=settings.peppers,
        folder=settings.folder,
        spool=spool_of(settings.spool, index or 0),
        clock=clock,
        prefixes=settings.prefixes,
        max_staleness=settings.max_staleness,
        held_seconds=settings.held_seconds,
        prove_key=settings.prove_key,
        follows=index is None,
        limits=FixedWindow() if settings.limits == "local" else None,
        index=index or 0,
    )
    header = settings.client_ip_header
    asking = httpx2.AsyncClient(base_url=settings.keys_url, timeout=TIMEOUT, trust_env=False)
    async with asking as http, following as verifier:
        yield Service(
            verifier,
            clock,
            address=ClientAddress(header.encode() if header else None, settings.trusted_hops),
            token=settings.verifier_token,
            registry=new_registry(),
            keys=HttpKeyService(http),
        )


@asynccontextmanager
async def open_projector(settings: Settings) -> AsyncGenerator[Projector]:
    """What follows for several workers and serves nobody; following while the context is open."""
    clock, peppers = SystemClock(), load_peppers(settings.peppers)
    feed = HttpFeed(settings.keys_url, settings.service_key)
    bus = NatsBus(settings.nats, name="verifier", inbox_prefix="_INBOX_verifier")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(feed.close)
        projector = Projector(
            open_store(settings.folder / STORE, follows=settings.keys_url, steady=clock.steady),
            feed,
            bus,
            clock,
            name=f"verifier-{secrets.token_hex(6)}",
            held_seconds=settings.held_seconds,
            peppers=lambda: peppers.names,
            snapshots=feed,
            max_staleness=settings.max_staleness,
        )
        stack.push_async_callback(bus.close)
        stack.push_async_callback(projector.leave)
        await bus.open()
        watch = PepperWatch(settings.peppers, peppers, lambda: projector.pepper)
        stack.callback(asyncio.create_task(watch.run(), name="watch the peppers").cancel)
        stack.push_async_callback(projector.stop)
        await projector.start()
        yield projector

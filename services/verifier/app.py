"""The composition root: opens what the verifier needs, wires, and closes in reverse."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from litestar.types import ASGIApp
from prometheus_client import CollectorRegistry

from keyledger.clock import Clock, SystemClock
from keyledger.digest import load_peppers
from keyledger.server.edge import Edge
from keyledger.server.health import Readiness
from keyledger.server.telemetry import new_registry
from keyledger.token import Secret
from keyledger.verification.embedded import open_verifier
from keyledger.verification.freshness import NEVER
from keyledger.verification.verifier import Verifier
from services.verifier.handlers.gateway import ClientAddress, Gateway
from services.verifier.handlers.projection import Projection
from services.verifier.handlers.tally import Tally
from services.verifier.handlers.verify import Checks
from services.verifier.routes.framework import framework
from services.verifier.routes.hot import Endpoints, Hot
from services.verifier.routes.projection import projection_route
from services.verifier.settings import Settings


class Service:
    """The application on a verifier that somebody else starts and stops."""

    def __init__(
        self,
        verifier: Verifier,
        clock: Clock,
        *,
        address: ClientAddress | None = None,
        token: Secret | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """`token` is what callers must send as X-Verifier-Token; None asks for nothing."""
        registry = registry or CollectorRegistry()
        tally = Tally(verifier)
        registry.register(tally)
        checks = Checks(verifier, clock, tally)
        endpoints = Endpoints(checks, Gateway(checks, clock, address or ClientAddress()), token=token)
        digest = projection_route(Projection(verifier.store), endpoints.admit)
        self.stopping = False
        self.documented: ASGIApp = Edge(framework(endpoints, registry, self.readiness, digest))
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


def build_app(verifier: Verifier, clock: Clock) -> ASGIApp:
    """The whole application on a verifier, for tests and for serving it beside something else."""
    return Service(verifier, clock).app


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncGenerator[Service]:
    """The service on NATS and the key service, following while the context is open."""
    clock = SystemClock()
    following = open_verifier(
        keys_url=settings.keys_url,
        service_key=settings.service_key,
        nats=settings.nats,
        peppers=load_peppers(settings.peppers),
        spool=settings.spool,
        boot=secrets.token_hex(16),
        clock=clock,
        prefixes=settings.prefixes,
        max_staleness=settings.max_staleness,
        held_seconds=settings.held_seconds,
        prove_key=settings.prove_key,
        pepper_folder=settings.peppers,
    )
    header = settings.client_ip_header
    async with following as verifier:
        yield Service(
            verifier,
            clock,
            address=ClientAddress(header.encode() if header else None, settings.trusted_hops),
            token=settings.verifier_token,
            registry=new_registry(),
        )

"""The composition root: opens what the verifier needs, wires, and closes in reverse."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2
from litestar.types import ASGIApp
from prometheus_client import CollectorRegistry, PlatformCollector

from keyledger.clock import Clock, SystemClock
from keyledger.server.edge import Edge
from keyledger.server.health import Readiness
from keyledger.server.telemetry import new_registry
from keyledger.token import Secret
from keyledger.verification.freshness import NEVER
from keyledger.verification.judge import Judge
from keyledger.verification.limits import FixedWindow
from keyledger.verification.spool import spool_of
from keyledger.verification.verifier import Verifier
from services.verifier.adapters.key_service import TIMEOUT, HttpKeyService
from services.verifier.handlers.counts import Counts
from services.verifier.handlers.explain import Explain
from services.verifier.handlers.gateway import ClientAddress, Gateway
from services.verifier.handlers.projection import Projection
from services.verifier.handlers.tally import Tally
from services.verifier.handlers.verify import Checks
from services.verifier.handlers.vitals import Vitals
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
        counts: Counts | None = None,
    ) -> None:
        """`token` is what callers must send as X-Verifier-Token; None asks for nothing. `keys` is who tells
        operators from others; without it nothing is explained to anybody. `counts` is where it counts.
        """
        registry = registry or CollectorRegistry()
        tally = Tally(verifier, counts)
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
    counts, registry = _counting(settings)
    header = settings.client_ip_header
    asking = httpx2.AsyncClient(base_url=settings.keys_url, timeout=TIMEOUT, trust_env=False)
    async with asking as http, following as verifier:
        yield Service(
            verifier,
            clock,
            address=ClientAddress(header.encode() if header else None, settings.trusted_hops),
            token=settings.verifier_token,
            registry=registry,
            counts=counts,
            keys=HttpKeyService(http),
        )


def _counting(settings: Settings) -> tuple[Counts, CollectorRegistry]:
    """Where this process counts, and the registry with the vital signs of all who count there."""
    worker = settings.worker
    if worker is None or worker.index is None:
        return Counts.private(), new_registry()
    counts, registry = Counts.shared(worker.counts, worker.index), CollectorRegistry()
    registry.register(Vitals(os.getppid(), counts))
    PlatformCollector(registry=registry)
    return counts, registry

"""The composition root: opens what the service needs, starts following, wires, and closes in reverse."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx2
import structlog
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from prometheus_client import CollectorRegistry

from keyledger.clock import Clock, SystemClock
from keyledger.server.health import Readiness, health_routes
from keyledger.server.openapi import openapi_config
from keyledger.server.postgres import AWAY, Pool, open_pool
from keyledger.server.problems import exception_handlers
from keyledger.server.telemetry import new_registry
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import Bus, Feed
from services.usage.adapters.access import KeyServiceAccess
from services.usage.adapters.feed import UseFeed
from services.usage.adapters.grants import PostgresGrants
from services.usage.adapters.postgres import PostgresUsage
from services.usage.consumer import Metrics, UseConsumer
from services.usage.granter import GrantMetrics, GrantServer
from services.usage.handlers import Usage
from services.usage.ports import Access, GrantStore, StoreUnavailable, UsageStore
from services.usage.routes.addresses import ROUTES
from services.usage.settings import Settings

MAX_AGE_SECONDS = 15.0
"""Beyond this age of the counters the service is not ready."""
HTTP_TIMEOUT = 3.0
FEED_TIMEOUT = 10.0
CONNECT_SECONDS = 30.0
CLOSE_SECONDS = 1.0
_log = structlog.get_logger("keyledger.usage")


@dataclass(frozen=True)
class Parts:
    """What is open while the service runs."""

    store: UsageStore
    feed: Feed
    bus: Bus
    access: Access
    clock: Clock
    grants: GrantStore


OpenParts = Callable[[], AbstractAsyncContextManager[Parts]]


def build_app(settings: Settings) -> Litestar:
    """The service on Postgres, NATS and the key service; nothing is opened before it starts."""
    return assemble(lambda: _open(settings), new_registry())


def assemble(open_parts: OpenParts, registry: CollectorRegistry) -> Litestar:
    """The service on whatever parts are opened when it starts; they are closed when it stops."""

    @asynccontextmanager
    async def running(app: Litestar) -> AsyncGenerator[None]:
        async with open_parts() as parts:
            consumer = UseConsumer(parts.store, parts.feed, parts.bus, parts.clock, Metrics(registry))
            granter = GrantServer(
                parts.grants, parts.bus, parts.clock, GrantMetrics(registry), owner=secrets.token_hex(8)
            )
            app.state.update({
                "usage": Usage(parts.store, parts.access, parts.clock, granter),
                "consumer": consumer,
                "granter": granter,
                "parts": parts,
            })  # fmt: skip
            tasks = [
                asyncio.create_task(consumer.run(), name="follow the use log"),
                asyncio.create_task(granter.run(), name="grant"),
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def readiness() -> Readiness:
        return await _readiness(app.state)

    app = Litestar(
        [*ROUTES, *health_routes(registry, readiness)],
        lifespan=[running],
        dependencies={"usage": Provide(_usage, sync_to_thread=False)},
        exception_handlers=exception_handlers,
        openapi_config=openapi_config(
            "Keyledger usage", "How often keys were used, by time and by outcome.", users=True
        ),
        logging_config=None,
    )
    return app


def _usage(state: State) -> Usage:
    return state["usage"]


async def _readiness(state: State) -> Readiness:
    """Ready when the counters are at most `MAX_AGE_SECONDS` old and can be read; degraded with any parked."""
    consumer: UseConsumer = state["consumer"]
    parts: Parts = state["parts"]
    age = consumer.age()
    if consumer.epoch is None:
        return Readiness("starting")
    status = "ready" if parts.bus.connected and not consumer.parked else "degraded"
    if age is None or age > MAX_AGE_SECONDS:
        status = "behind"
    try:
        await parts.store.ping()
    except StoreUnavailable:
        status = "postgres_away"
    return Readiness(
        status,
        consumer.position,
        consumer.head,
        consumer.epoch.text,
        None if age is None else round(age * 1000),
        consumer.parked or None,
    )


@asynccontextmanager
async def _open(settings: Settings) -> AsyncGenerator[Parts]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        pool = await _pool(settings.postgres)
        stack.push_async_callback(_close, pool)
        # callers' credentials and our own never share a client
        asking = httpx2.AsyncClient(base_url=settings.keys_url, timeout=HTTP_TIMEOUT, trust_env=False)
        access = await stack.enter_async_context(asking)
        own = {"X-API-Key": settings.service_key.reveal()}
        paging = httpx2.AsyncClient(
            base_url=settings.keys_url, timeout=FEED_TIMEOUT, trust_env=False, headers=own
        )
        feed = await stack.enter_async_context(paging)
        bus = await NatsBus.connect(settings.nats, name="usage", inbox_prefix="_INBOX_usage")
        stack.push_async_callback(bus.close)
        yield Parts(
            PostgresUsage(pool),
            UseFeed(feed),
            bus,
            KeyServiceAccess(access, clock),
            clock,
            PostgresGrants(pool),
        )


async def _pool(dsn: str) -> Pool:
    """The pool, as soon as Postgres answers."""
    async with asyncio.timeout(CONNECT_SECONDS):
        while True:
            try:
                return await open_pool(dsn, name="usage")
            except AWAY as error:
                _log.warning("postgres_away", error=type(error).__name__)
                await asyncio.sleep(0.2)


async def _close(pool: Pool) -> None:
    """Close when what is running has ended, or without it after a second."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await pool.close()
    except TimeoutError:
        pool.terminate()

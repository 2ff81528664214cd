"""The key service's composition root: opens what it needs, wires it, starts it, closes it in reverse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import structlog
from litestar import Litestar
from prometheus_client import CollectorRegistry, Counter, Gauge

from keyledger.clock import Clock, SystemClock
from keyledger.digest import Peppers, load_peppers
from keyledger.errors import Refusal
from keyledger.server.edge import Edge
from keyledger.server.health import Readiness, health_routes
from keyledger.server.ids import new_id
from keyledger.server.jwt import HttpPublishedKeys, KeyRing, SessionTokens
from keyledger.server.log_stream import KEY_LOG, USE_LOG, StreamLimits
from keyledger.server.openapi import openapi_config
from keyledger.server.postgres import AWAY, Pool, close_pool, open_pool
from keyledger.server.problems import exception_handlers
from keyledger.server.proof import Prover
from keyledger.server.relay import Relay, RelaySettings
from keyledger.server.seal import Sealer
from keyledger.server.settings import read_secret
from keyledger.server.telemetry import new_registry
from keyledger.server.ticker import Ticker
from keyledger.verification.bus import NatsBus
from keyledger.verification.pepper_watch import PepperWatch
from keyledger.wire import HeadQuestion
from services.keys.adapters.epochs import PostgresEpochs
from services.keys.adapters.erasure import Eraser
from services.keys.adapters.feed import KeyLogSource, UseLogSource
from services.keys.adapters.followers import PostgresFollowers
from services.keys.adapters.housekeeping import Housekeeping
from services.keys.adapters.imports import PostgresImports
from services.keys.adapters.log import PostgresLog
from services.keys.adapters.memberships import PostgresMemberships
from services.keys.adapters.oldest_transaction import OldestTransaction
from services.keys.adapters.snapshot import PostgresSnapshots
from services.keys.adapters.states import PostgresStates
from services.keys.adapters.uses import PostgresUseLog
from services.keys.consumer import Consumer
from services.keys.handlers.credentials import Credentials
from services.keys.handlers.first_uses import FirstUses
from services.keys.handlers.history import History
from services.keys.handlers.importing import Importer
from services.keys.handlers.keys import Keys
from services.keys.handlers.peppers import PepperRotation
from services.keys.handlers.proofs import Proofs
from services.keys.handlers.receipts import Receipts
from services.keys.handlers.sessions import Sessions
from services.keys.handlers.time_travel import TimeTravel
from services.keys.handlers.workspaces import Workspaces
from services.keys.handlers.writing import Writer
from services.keys.routes import shapes
from services.keys.routes.asking import Asking
from services.keys.routes.cursors import Cursors
from services.keys.routes.epochs import epoch_routes
from services.keys.routes.history import history_routes
from services.keys.routes.imports import body_limit, import_routes
from services.keys.routes.internal import internal_routes
from services.keys.routes.keys import key_routes
from services.keys.routes.members import member_routes
from services.keys.routes.peppers import pepper_routes
from services.keys.routes.workspaces import workspace_routes
from services.keys.settings import Settings

_CONNECT_SECONDS = 30.0
_log = structlog.get_logger("keyledger.keys")


async def build(settings: Settings, stack: AsyncExitStack) -> Edge:
    """The service, running: its tasks live until `stack` is closed. Waits for Postgres, not for NATS."""
    clock = SystemClock()
    peppers = load_peppers(settings.peppers)
    sealer = Sealer(bytes.fromhex(read_secret(settings.seal_secret_file)))
    pool = await _pool(settings.postgres)
    stack.push_async_callback(close_pool, pool)
    bus = await NatsBus.connect(settings.nats, name="keys", inbox_prefix="_INBOX_keys")
    stack.push_async_callback(bus.close)
    prover = Prover()
    stack.callback(prover.close)

    states = PostgresStates(pool)
    source, use_source = KeyLogSource(pool, sealer), UseLogSource(pool)
    housekeeping = Housekeeping(pool, clock)
    oldest = OldestTransaction(pool, clock, longest=settings.longest_transaction)
    relaying = RelaySettings(limits=StreamLimits(num_replicas=settings.nats_replicas))
    epochs = PostgresEpochs(pool, bus, source, use_source, clock, limits=relaying.limits)
    relay = Relay(bus, source, KEY_LOG, on_regression=epochs.begin, settings=relaying)
    use_relay = Relay(bus, use_source, USE_LOG, on_regression=epochs.begin, settings=relaying)
    log = await stack.enter_async_context(PostgresLog(pool, on_commit=relay.kick))
    uses = PostgresUseLog(pool, on_commit=use_relay.kick)
    receipts = Receipts(clock, PostgresFollowers(pool))
    writer = Writer(log, states, sealer, clock)
    secrets = _secrets(
        settings,
        stack,
        writer=writer,
        states=states,
        imports=PostgresImports(pool, on_commit=relay.kick),
        peppers=peppers,
        prover=prover,
        sealer=sealer,
        clock=clock,
    )
    rotation = secrets.rotation
    first_uses = FirstUses(states, writer)
    registry = new_registry()
    unsound = Counter(
        "keyledger_uses_refused", "Sums of uses that were not recorded.", ["field"], registry=registry
    )
    consumer = Consumer(
        bus,
        states,
        uses,
        receipts,
        clock,
        rotation=rotation,
        first_use=first_uses.used,
        writer=new_id("writer"),
        committed=lambda: log.committed,
        refused=lambda field, count: unsound.labels(field).inc(count),
    )
    ticker = Ticker(bus, lambda: consumer.head(HeadQuestion("", "")))

    eraser = Eraser(pool, bus, clock, forget=[writer.forget, source.forget])
    memberships = PostgresMemberships(pool)
    sessions = Sessions(_tokens(settings, stack, clock), memberships, clock)
    asking = Asking(Credentials(secrets.proofs, clock, epochs), sessions, sealer)
    cursors, workspaces = Cursors(sealer), Workspaces(writer, on_deleted=eraser.kick)
    keys = Keys(writer, peppers, prover, settings.prefix)
    history = History(states, sealer)
    time_travel = TimeTravel(states, history, clock)
    _export(registry, relay, use_relay, consumer, oldest)

    async def readiness() -> Readiness:
        try:
            head = await states.head()
        except Refusal:
            return Readiness("postgres is away")
        status = "ready" if bus.connected and not oldest.late else "degraded"
        return Readiness(status, head.position, head.position, head.epoch.text, 0)

    app = Litestar(
        [
            *key_routes(asking, keys, states, time_travel, cursors, receipts, clock),
            *workspace_routes(asking, workspaces, states, memberships, cursors),
            *member_routes(asking, workspaces, sessions, states, cursors),
            *history_routes(asking, states, history, cursors),
            *import_routes(asking, secrets.importer, secrets.proofs, states, settings.prefixes),
            *pepper_routes(asking, rotation),
            *internal_routes(
                asking, states, source, use_source, PostgresSnapshots(pool), consumer.head_for_http
            ),
            *epoch_routes(asking, epochs, states),
            *health_routes(registry, readiness),
        ],
        exception_handlers=exception_handlers,
        openapi_config=openapi_config(
            "Keyledger: key service",
            "Workspaces, their members and keys, and everything that ever happened to them.",
            users=True,
        ),
        logging_config=None,
    )

    await rotation.start(secrets.watch)
    await consumer.start()
    stop = asyncio.Event()
    _run(
        stack,
        stop,
        {
            "relay": relay.run(stop),
            "use-relay": use_relay.run(stop),
            "ticker": ticker.run(stop),
            "housekeeping": housekeeping.run(stop),
            "oldest-transaction": oldest.run(stop),
            "receipts": receipts.run(stop),
            "peppers": rotation.run(stop, secrets.watch),
            "eraser": eraser.run(stop),
        },
    )
    return Edge(app, limit_of=body_limit)


def _run(stack: AsyncExitStack, stop: asyncio.Event, works: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Let these work until the stack is closed, which waits three seconds for them."""
    running = [asyncio.create_task(work, name=name) for name, work in works.items()]

    async def finish() -> None:
        stop.set()
        _, late = await asyncio.wait(running, timeout=3)
        for task in late:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    stack.push_async_callback(finish)


def _tokens(settings: Settings, stack: AsyncExitStack, clock: Clock) -> SessionTokens | None:
    """The reader of session tokens, None when no issuer is configured: then there are no users."""
    if not settings.jwt_issuer:
        return None
    published = HttpPublishedKeys(settings.jwks_url)
    stack.push_async_callback(published.close)
    return SessionTokens(settings.jwt_issuer, KeyRing(published, clock), clock)


class _Secrets(NamedTuple):
    """What proves, imports and re-digests secrets."""

    proofs: Proofs
    importer: Importer
    rotation: PepperRotation
    watch: PepperWatch


def _secrets(
    settings: Settings,
    stack: AsyncExitStack,
    *,
    writer: Writer,
    states: PostgresStates,
    imports: PostgresImports,
    peppers: Peppers,
    prover: Prover,
    sealer: Sealer,
    clock: Clock,
) -> _Secrets:
    proofs = Proofs(
        states,
        imports,
        writer=writer,
        peppers=peppers,
        prover=prover,
        sealer=sealer,
        prefixes=settings.prefixes,
    )
    stack.push_async_callback(proofs.close)
    # threads of their own: a thousand tokens of unknown strength take half a minute
    import_prover = Prover(queue=2 * shapes.MAX_IMPORTED)
    stack.callback(import_prover.close)
    importer = Importer(
        writer,
        states,
        tokens=imports,
        proofs=proofs,
        peppers=peppers,
        prover=import_prover,
        sealer=sealer,
        clock=clock,
    )
    rotation = PepperRotation(
        writer,
        states,
        counts=imports,
        peppers=peppers,
        system_workspace=states.system_workspace,
        clock=clock,
    )
    return _Secrets(proofs, importer, rotation, PepperWatch(settings.peppers, peppers, rotation.active))


class Service:
    """The ASGI application: builds the service when it starts, closes it when it stops."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inner: Edge | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection, or the server's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif self._inner is not None:
            await self._inner(scope, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                self._inner = await build(self._settings, stack)
            except Exception as error:
                _log.error("cannot_start", error=type(error).__name__, why=str(error)[:200])
                await send({"type": "lifespan.startup.failed", "message": "cannot start"})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


async def _pool(dsn: str) -> Pool:
    """The pool, as soon as Postgres answers."""
    async with asyncio.timeout(_CONNECT_SECONDS):
        while True:
            try:
                return await open_pool(dsn, name="keys", least=2)
            except AWAY:
                await asyncio.sleep(0.1)


def _export(
    registry: CollectorRegistry,
    relay: Relay,
    use_relay: Relay,
    consumer: Consumer,
    oldest: OldestTransaction,
) -> None:
    """Let the registry read the parts' own counters."""
    for name, help_text, read in (
        ("keyledger_relay_published_events", "Key events published on the bus.", lambda: relay.published),
        ("keyledger_relay_backlog", "Key events not known to be on the bus.", lambda: relay.backlog),
        ("keyledger_relay_position", "Last position on the bus.", lambda: relay.last_position),
        ("keyledger_relay_published_uses", "Use batches published on the bus.", lambda: use_relay.published),
        ("keyledger_use_batches_recorded", "Use batches acknowledged.", lambda: consumer.recorded),
        (
            "keyledger_postgres_oldest_transaction_seconds",
            "For how long the oldest transaction has been open.",
            lambda: oldest.seconds,
        ),
    ):
        Gauge(name, help_text, registry=registry).set_function(read)


@asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[Edge, None]:
    """The service as a context, without a server around it."""
    async with AsyncExitStack() as stack:
        yield await build(settings, stack)

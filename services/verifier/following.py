"""The process that follows for several workers: it serves nobody, so it needs little of what others do."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from keyledger.clock import SystemClock
from keyledger.digest import load_peppers
from keyledger.verification.bus import NatsBus
from keyledger.verification.feed import HttpFeed
from keyledger.verification.opening import open_store
from keyledger.verification.pepper_watch import PepperWatch
from keyledger.verification.projector import Projector
from keyledger.verification.store_folder import STORE
from services.verifier.settings import Settings


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

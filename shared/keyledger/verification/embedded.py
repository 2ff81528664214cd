"""A whole verifier in one's own process: the key service, the broker and the peppers in, verdicts out.

The verifier service stands on the same function. It needs the extra `embedded`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from keyledger.clock import Clock, SystemClock
from keyledger.digest import Peppers
from keyledger.token import DEFAULT_PREFIX, Secret
from keyledger.verification.bus import NatsBus
from keyledger.verification.feed import HttpFeed
from keyledger.verification.follower import Follower
from keyledger.verification.http_prover import HttpProver
from keyledger.verification.limits import FixedWindow
from keyledger.verification.pepper_watch import PepperWatch
from keyledger.verification.spool import Spool
from keyledger.verification.store import MemoryStore
from keyledger.verification.uses import Uses
from keyledger.verification.verifier import MAX_STALENESS, Verifier


@asynccontextmanager
async def open_verifier(
    *,
    keys_url: str,
    service_key: Secret,
    nats: str,
    peppers: Peppers,
    spool: Path,
    boot: str,
    clock: Clock | None = None,
    prefixes: Sequence[str] = (DEFAULT_PREFIX,),
    max_staleness: float = MAX_STALENESS,
    held_seconds: float = 900.0,
    prove_key: Secret | None = None,
    pepper_folder: Path | None = None,
) -> AsyncGenerator[Verifier]:
    """A verifier that follows while the context is open; it answers as soon as the log is read.

    `boot` are 32 fresh hex characters from a CSPRNG, `service_key` has the scope `keyledger:feed:read`,
    `spool` is a folder of this host for uses that are not recorded yet. With a `prove_key` (scope
    `keyledger:prove`) the key service proves what no pepper here can tell; a `pepper_folder` is looked at
    each second. Neither the key service nor the broker needs to be there yet. Raises `OSError` when the
    spool cannot be used.
    """
    clock = clock or SystemClock()
    kept = Spool(spool)
    async with AsyncExitStack() as stack:
        feed = HttpFeed(keys_url, service_key)
        stack.push_async_callback(feed.close)
        bus = await NatsBus.connect(nats, name="verifier", inbox_prefix="_INBOX_verifier")
        stack.push_async_callback(bus.close)
        store = MemoryStore()
        follower = Follower(
            store,
            feed,
            bus,
            clock,
            name=f"verifier-{boot[:12]}",
            held_seconds=held_seconds,
            peppers=lambda: peppers.names,
            snapshots=feed,
            max_staleness=max_staleness,
        )
        prover = None if prove_key is None else HttpProver(keys_url, prove_key)
        if prover is not None:
            stack.push_async_callback(prover.close)
        if pepper_folder is not None:
            watch = PepperWatch(pepper_folder, peppers, lambda: follower.pepper)
            watching = asyncio.create_task(watch.run(), name="watch the peppers")
            stack.callback(watching.cancel)
        verifier = Verifier(
            store,
            follower,
            peppers=peppers,
            limits=FixedWindow(),
            uses=Uses(kept, bus, boot=boot),
            clock=clock,
            prefixes=prefixes,
            max_staleness=max_staleness,
            prover=prover,
        )
        yield await stack.enter_async_context(verifier)

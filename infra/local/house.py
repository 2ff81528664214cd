"""All children of one run: started and awaited, and stopped in reverse order within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Never

from infra.local.child import Child, ChildSpec
from infra.local.console import Console
from infra.local.home import Home
from infra.local.log_file import LOG_BYTES, shorten

READY_SECONDS = 60.0
SERVICES_GRACE = 5.0
"""Seconds the services have to end, all together; the rest of the ten is for NATS and Postgres."""
ALL_GRACE = 9.0
SERVER_GRACE = 1.8
"""Seconds each server has at least; what the others left of the nine goes to Postgres's last checkpoint."""
LOOK_AT_LOGS = 5.0
"""Seconds between two looks at how long the logs are."""
NEXT_AFTER = 1.2
"""Seconds after which a slow child no longer holds up the next one's stop signal."""


class House:
    """The children that run, in the order in which they were started."""

    def __init__(self, home: Home, console: Console) -> None:
        self._home = home
        self._console = console
        self._children: list[Child] = []

    async def start(self, spec: ChildSpec) -> Child:
        """Start one child, without waiting until it is ready."""
        child = Child(
            spec,
            log=self._home.logs / f"{spec.name}.log",
            pid_file=self._home.run / f"{spec.name}.pid",
            say=self._console.say,
        )
        self._children.append(child)
        await child.start()
        return child

    async def ready(self, children: Sequence[Child]) -> None:
        """Wait until all are ready, saying so for each. The first failure ends the wait."""
        waiting = {child.spec.name for child in children}

        async def one(child: Child) -> None:
            await child.until_ready(READY_SECONDS)
            waiting.discard(child.spec.name)
            self._console.say(f"{child.spec.name} is ready (port {child.spec.port})")
            if waiting:
                self._console.waiting(f"waiting for {', '.join(sorted(waiting))}")

        self._console.waiting(f"waiting for {', '.join(sorted(waiting))}")
        try:
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(one(child))
        except* Exception as failures:  # a group of one cause is that cause
            raise failures.exceptions[0] from None
        self._console.done_waiting()

    async def bound_logs(self, *, longest: int = LOG_BYTES, every: float = LOOK_AT_LOGS) -> Never:
        """Keep every child's log within so many bytes and what is written in `every` seconds, for ever."""
        while True:
            for child in self._children:
                await asyncio.to_thread(shorten, child.log, longest=longest)
            await asyncio.sleep(every)

    async def stop(self, servers: Sequence[str]) -> None:
        """Stop the services in reverse order, then the servers as named; within about nine seconds."""
        deadline = asyncio.get_running_loop().time() + ALL_GRACE
        services = [child for child in reversed(self._children) if child.spec.name not in servers]
        await self._stop_in_order(services, grace=SERVICES_GRACE)
        for name in servers:
            server = [child for child in self._children if child.spec.name == name]
            left = deadline - asyncio.get_running_loop().time()
            await self._stop_in_order(
                server, grace=max(SERVER_GRACE, left) if name == servers[-1] else SERVER_GRACE
            )

    def kill(self) -> None:
        """End everything at once: somebody is in a hurry."""
        for child in self._children:
            child.kill()

    async def _stop_in_order(self, children: Sequence[Child], *, grace: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        slow: list[Child] = []
        for child in children:
            child.ask_to_stop()
            if not await child.gone(min(NEXT_AFTER, deadline - loop.time()) if len(children) > 1 else grace):
                slow.append(child)
        for child in slow:
            if not await child.gone(max(0.0, deadline - loop.time())):
                self._console.say(f"{child.spec.name} did not stop in time and was killed")
                child.kill()
                await child.gone(1.0)

"""Rotating peppers: a new one becomes active once every live verifier holds it; an old one is retired."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from msgspec import Struct

from keyledger.clock import Clock
from keyledger.digest import Peppers, age
from keyledger.errors import Refusal, not_found
from keyledger.events import SYSTEM_ACTOR
from keyledger.verification.pepper_watch import PepperWatch
from keyledger.wire import HeadQuestion
from services.keys.domain.peppers import (
    STREAM,
    ActivatePepper,
    PepperCommand,
    PepperState,
    RetirePepper,
    decide,
    evolve,
)
from services.keys.handlers.keys import Asked
from services.keys.handlers.writing import Plan, Writer, Written
from services.keys.ports import DigestCounts, States

INTERVAL = 1.0
LIVE = 10.0
"""Seconds since a verifier last asked for the head; they ask each second."""
SETTLE = 3.0
"""Seconds for which a pepper must be held here: by then every live verifier has said what it holds."""
MAX_VERIFIERS = 1000
_log = structlog.get_logger("keyledger.keys")


class Standing(Struct, frozen=True):
    """How things stand with the peppers; `left` keys have no digest under the active one."""

    active: str
    held: tuple[str, ...]
    retired: tuple[str, ...]
    verifiers: tuple[tuple[str, tuple[str, ...]], ...]
    left: int


class PepperRotation:
    """Keeps this process's peppers as the folder and the log say, and moves the log on."""

    def __init__(
        self,
        writer: Writer,
        states: States,
        *,
        counts: DigestCounts,
        peppers: Peppers,
        system_workspace: Callable[[], Awaitable[str | None]],
        clock: Clock,
    ) -> None:
        self._writer = writer
        self._states = states
        self._counts = counts
        self._peppers = peppers
        self._system_workspace = system_workspace
        self._clock = clock
        self._recorded = PepperState()
        self._first = min(peppers.names, key=age)
        self._since: dict[str, float] = {}
        self._heard: dict[str, tuple[tuple[str, ...], float]] = {}

    def active(self) -> str:
        """The pepper of the log; before any was recorded, the oldest that was there at the start."""
        return self._recorded.active or self._first

    def now_active(self) -> str:
        """The pepper under which this process makes new digests: that of the log, if it is held."""
        return self._peppers.active

    def note(self, question: HeadQuestion) -> None:
        """A verifier told which peppers it holds."""
        now = self._clock.steady()
        self._heard[question.verifier] = (question.peppers, now)
        for name in [name for name, (_, seen) in self._heard.items() if now - seen > LIVE]:
            del self._heard[name]
        while len(self._heard) > MAX_VERIFIERS:
            del self._heard[min(self._heard, key=lambda name: self._heard[name][1])]

    async def refresh(self) -> None:
        """Read what the log says, from its state; `Refusal` when that cannot be."""
        stored, _ = await self._states.get(STREAM)
        if stored is not None:
            self._recorded = msgspec.json.decode(stored.body, type=PepperState)

    async def start(self, watch: PepperWatch) -> None:
        """Take up the active pepper before anything is minted; without Postgres, the one to be expected."""
        with contextlib.suppress(Refusal):
            await self.refresh()
        watch.look()

    async def run(self, stop: asyncio.Event, watch: PepperWatch) -> None:
        """Look at folder and log each second until `stop` is set."""
        while not stop.is_set():
            watch.look()
            try:
                await self.refresh()
                await self.step()
            except Refusal as refusal:
                _log.warning("peppers_not_looked_at", why=refusal.code)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await stop.wait()

    async def step(self) -> None:
        """Make the newest pepper active if every live verifier holds it."""
        now = self._clock.steady()
        self._since = {name: self._since.get(name, now) for name in self._peppers.names}
        newest = max(self._peppers.names, key=age)
        active = self.active()
        if newest == active or (active in self._peppers.names and age(newest) < age(active)):
            return
        held = all(newest in peppers for peppers, seen in self._heard.values() if now - seen <= LIVE)
        if now - self._since[newest] < SETTLE or not held or newest in self._recorded.retired:
            return
        workspace_id = await self._system_workspace()
        if workspace_id is None:
            return
        done = await self._run(ActivatePepper(newest), workspace_id, SYSTEM_ACTOR, "")
        _log.info("pepper_activated", pepper=newest, position=done.position)

    async def retire(self, asked: Asked, pepper: str, *, force: bool) -> tuple[Written[PepperState], int]:
        """Be done with a pepper; refuses with `conflict` while keys are left, unless `force`."""
        await self.refresh()
        workspace_id = await self._system_workspace()
        if workspace_id is None or pepper not in {*self._peppers.names, *self._recorded.retired}:
            raise not_found()
        left = await self._left()
        # before anything was recorded the log does not know which one is active
        command = RetirePepper(pepper, self.active(), left, force)
        return await self._run(command, workspace_id, asked.by.actor, asked.request_id), left

    async def standing(self) -> Standing:
        """How things stand now."""
        await self.refresh()
        now = self._clock.steady()
        verifiers = tuple(
            (name, tuple(sorted(peppers, key=age)))
            for name, (peppers, seen) in sorted(self._heard.items())
            if now - seen <= LIVE
        )
        held = tuple(sorted(self._peppers.names, key=age))
        return Standing(self.now_active(), held, self._recorded.retired, verifiers, await self._left())

    async def _left(self) -> int:
        return await self._counts.without_digest(self.now_active(), now=self._clock.now())

    async def _run(
        self, command: PepperCommand, workspace_id: str, actor: str, request_id: str
    ) -> Written[PepperState]:
        done = await self._writer.run(
            Plan(
                stream_id=STREAM,
                kind="peppers",
                workspace_id=workspace_id,
                actor=actor,
                request_id=request_id,
                state=PepperState,
                decide=lambda peppers, _now: decide(command, peppers),
                evolve=evolve,
            )
        )
        self._recorded = done.state
        return done

"""What is done beside the requests: telling of ended sessions, new signing keys, dropping what is over."""

from __future__ import annotations

import asyncio
import random

import structlog

from keyledger.clock import Clock
from keyledger.errors import Refusal
from keyledger.server.seal import SealBroken
from services.dashboard.handlers.sessions import SessionKeeper
from services.dashboard.handlers.signing import Signer
from services.dashboard.ports import Invitations, Spent, StoreUnavailable

TELL_EVERY, REFRESH_EVERY = 2.0, 60.0
"""Seconds between two rounds."""
AT_A_TIME = 100
SLOWEST = 30.0
_log = structlog.get_logger("keyledger.dashboard")


class Housekeeping:
    """Rounds that go on for as long as they are run; one that failed is tried again, ever more slowly."""

    def __init__(
        self, keeper: SessionKeeper, signer: Signer, invitations: Invitations, spent: Spent, clock: Clock
    ) -> None:
        self._keeper = keeper
        self._signer = signer
        self._invitations = invitations
        self._spent = spent
        self._clock = clock

    async def tell(self) -> None:
        """Have the key service told of ended sessions for which nobody has told it yet."""
        wait = TELL_EVERY
        while True:
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 (spread, not secrecy)
            try:
                told = await self._keeper.tell(AT_A_TIME)
            except (StoreUnavailable, Refusal):
                told = False
            wait = TELL_EVERY if told else min(wait * 2, SLOWEST)

    async def tidy(self) -> None:
        """Read and make signing keys, and drop what is over."""
        trouble = ""
        while True:
            await asyncio.sleep(REFRESH_EVERY)
            try:
                await self.once()
                trouble = ""
            except (StoreUnavailable, SealBroken) as error:
                if trouble != type(error).__name__:
                    trouble = type(error).__name__
                    _log.warning("housekeeping_failed", error=trouble)

    async def once(self) -> None:
        """One round of `tidy`."""
        await self._signer.refresh()
        now = self._clock.now()
        await self._spent.clear(now)
        await self._invitations.clear(now)
        await self._keeper.forget(AT_A_TIME)

"""Secrets that no digest here can tell: the key service proves them, and records a digest that we hold.

That happens when a pepper was lost, and in the background while keys move to a new one. A verifier can never
assert a digest. Failed tokens are remembered by hash for a minute, and there is no per-key back-off: ids are
public, so it would lock out the holder.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from msgspec import Struct

from keyledger.clock import Clock
from keyledger.errors import Refusal
from keyledger.token import Secret

REMEMBERED = 60.0
MAX_REMEMBERED = 10_000
AT_ONCE = 32
MAX_WAITING = 512
PATIENCE = 5.0
"""Seconds until whoever waits for a proof is told `busy`."""
MAX_LATER = 256
LATER_INTERVAL = 0.02
"""Seconds between two keys that move to the active pepper: it must not hold up anybody's proof."""
LATER_PAUSE = 1.0
Key = TypeVar("Key", bytes, tuple[str, int])
_log = logging.getLogger(__name__)


class Unproven(Refusal):
    """Only the key service can tell about this token; asked without waiting for it, the answer is `busy`."""

    def __init__(self, text: str) -> None:
        super().__init__("busy", "The key has to be proven; ask again.", retry_after=1)
        self.presented = Secret(text)


class Proven(Struct, frozen=True):
    """Whose secret it is, and the position at which a digest of it is recorded."""

    key_id: str
    position: int
    epoch: str


class ProverUnavailable(Exception):
    """The key service cannot be asked for a proof, or has too many to make."""


class Prover(Protocol):
    """The key service, as far as it proves secrets."""

    async def prove(self, text: str) -> Proven | None:
        """Whose secret this is, None when nobody's; or `ProverUnavailable`."""
        ...


class Proofs:
    """Asks for proofs, few at once and the same one once; everything it keeps is bounded."""

    def __init__(self, prover: Prover, reached: Callable[[int, str], Awaitable[bool]], clock: Clock) -> None:
        """`reached` waits until the store has a position, and answers whether it has."""
        self._prover = prover
        self._reached = reached
        self._steady = clock.steady
        self._room = asyncio.Semaphore(AT_ONCE)
        self._asking: dict[bytes, asyncio.Task[None]] = {}
        self._refuted: OrderedDict[bytes, float] = OrderedDict()
        self._moved: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._later: asyncio.Queue[Secret] = asyncio.Queue(MAX_LATER)
        self._mover: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to move keys to the active pepper."""
        self._mover = asyncio.create_task(self._move_on(), name="move to the active pepper")

    async def stop(self) -> None:
        """Give up what is asked."""
        tasks = [*self._asking.values(), *([self._mover] if self._mover else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def refuted(self, text: str) -> bool:
        """Whether the key service said within the last minute that this is nobody's secret."""
        until = self._refuted.get(_hash(text))
        return until is not None and until > self._steady()

    async def prove(self, text: str) -> None:
        """Have the token proven or refuted; afterwards the store can tell. Refuses with `busy`."""
        name = _hash(text)
        task = self._asking.get(name)
        if task is None:
            if len(self._asking) >= MAX_WAITING:
                raise Unproven(text)
            task = self._asking[name] = asyncio.create_task(self._ask(name, text), name="prove")
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        try:
            async with asyncio.timeout(PATIENCE):
                # others may wait for the same one
                await asyncio.shield(task)
        except (ProverUnavailable, TimeoutError):
            raise Unproven(text) from None

    def later(self, text: str, secret: tuple[str, int]) -> None:
        """Have a digest of this token recorded under the active pepper some time soon, or never; never waits.

        `secret` names it: the key's id and the version.
        """
        now = self._steady()
        if self._later.full() or self._moved.get(secret, 0.0) > now:
            return
        _remember(self._moved, secret, now + REMEMBERED)
        self._later.put_nowait(Secret(text))

    async def _ask(self, name: bytes, text: str) -> None:
        async with self._room:
            proven = await self._prover.prove(text)
        if proven is None:
            _remember(self._refuted, name, self._steady() + REMEMBERED)
        elif not await self._reached(proven.position, proven.epoch):
            raise ProverUnavailable("the proof is not applied here yet")

    async def _move_on(self) -> None:
        while True:
            text = await self._later.get()
            pause = LATER_INTERVAL
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._prover.prove(text.reveal())
            except (ProverUnavailable, TimeoutError):
                # it is asked for again when the key is used after a minute
                pause = LATER_PAUSE
            except Exception as error:
                _log.error("a key cannot move to the active pepper: %s", type(error).__name__)
                pause = LATER_PAUSE
            await asyncio.sleep(pause)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _remember(kept: OrderedDict[Key, float], name: Key, until: float) -> None:
    kept[name] = until
    kept.move_to_end(name)
    while len(kept) > MAX_REMEMBERED:
        kept.popitem(last=False)

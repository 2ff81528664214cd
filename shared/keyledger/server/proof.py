"""Proofs: Argon2id (RFC 9106) PHC strings of secrets, made in threads so that the event loop never waits.

Generated secrets carry 190 bits, so their cost is small on purpose; imported ones, of unknown strength, get
OWASP's parameters. Work is bounded: beyond `queue` waiting callers the answer is `busy`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from keyledger.errors import unavailable

GENERATED = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1, type=Type.ID)
IMPORTED = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)


class Prover:
    """Makes and checks proofs with at most `threads` at work and `queue` waiting."""

    def __init__(self, *, threads: int = 2, queue: int = 256) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="argon2")
        self._places = threads + queue

    async def prove(self, secret: str | bytes, *, imported: bool = False) -> str:
        """The PHC string of `secret`; `busy` when too many wait."""
        hasher = IMPORTED if imported else GENERATED
        with self._place():
            return await asyncio.get_running_loop().run_in_executor(self._pool, hasher.hash, secret)

    async def check(self, proof: str, secret: str | bytes) -> bool:
        """Whether `secret` has this proof; `busy` when too many wait."""
        with self._place():
            return await asyncio.get_running_loop().run_in_executor(self._pool, _matches, proof, secret)

    def close(self) -> None:
        """Let the threads end; what runs is finished."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def _place(self) -> Generator[None, None, None]:
        if self._places == 0:
            raise unavailable("busy", "Too many secrets are being proven just now.")
        self._places -= 1
        try:
            yield
        finally:
            self._places += 1


def _matches(proof: str, secret: str | bytes) -> bool:
    try:
        return GENERATED.verify(proof, secret)
    except (VerificationError, InvalidHashError):
        return False

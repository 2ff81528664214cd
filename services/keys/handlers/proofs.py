"""Whose secret a token is: by a digest under a pepper held, which is definitive, else by its Argon2id proof.

A secret that was proven gets a digest under the active pepper, so that it is proven the slow way once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from keyledger.digest import Peppers, foreign
from keyledger.errors import Refusal
from keyledger.events import Epoch
from keyledger.server.proof import Prover
from keyledger.server.seal import Sealer
from keyledger.token import Token, Unparsed, parse
from services.keys.domain.key import Key, RecordDigests, decide, evolve
from services.keys.domain.secrets import Secret
from services.keys.handlers.writing import Plan, Writer
from services.keys.ports import ImportedTokens, States

FOREIGN_NAME = "foreign token"
MAX_RECORDING = 64


class Holder(Struct, frozen=True):
    """A key, the secret of it that was presented, and what stands for the token in digests."""

    key: Key
    secret: Secret
    shown: str | bytes

    def __repr__(self) -> str:
        return f"Holder({self.key.id})"


class Recorded(Struct, frozen=True):
    """Whose secret it is, and the position at which its digest under the active pepper stands."""

    key_id: str
    position: int
    epoch: Epoch


class Proofs:
    """Finds holders. `prefixes` are the token prefixes that are accepted."""

    def __init__(
        self,
        states: States,
        tokens: ImportedTokens,
        *,
        writer: Writer,
        peppers: Peppers,
        prover: Prover,
        sealer: Sealer,
        prefixes: Sequence[str],
    ) -> None:
        self._states = states
        self._tokens = tokens
        self._writer = writer
        self._peppers = peppers
        self._prover = prover
        self._sealer = sealer
        self._prefixes = tuple(prefixes)
        self._recording: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def holder(self, text: str) -> Holder | None:
        """Whose secret this is, None when nobody's; `busy` when too many are being proven."""
        presented = parse(text, self._prefixes)
        if presented is Unparsed.MALFORMED:
            return None
        shown: str | bytes = text
        key_id: str | None
        if isinstance(presented, Token):
            key_id = presented.key_id
        else:
            shown = foreign(text)
            key_id = await self._tokens.key_of(self.name(shown))
        found = None if key_id is None else await self._states.credential(key_id)
        if found is None:
            # the same work as for a key that is there
            self._peppers.proves(shown, {})
            return None
        key = msgspec.json.decode(found[0].body, type=Key)
        secret = await self._secret(key, shown)
        return None if secret is None else Holder(key, secret, shown)

    async def prove(self, text: str, *, actor: str, request_id: str) -> Recorded | None:
        """Whose secret this is, once a digest of it under the active pepper is recorded."""
        holder = await self.holder(text)
        if holder is None:
            return None
        return await self._record(holder, actor, request_id)

    def settle(self, holder: Holder, request_id: str) -> None:
        """Record the digest that is missing, if one is, some time soon or the next time."""
        name = (holder.key.id, holder.secret.version)
        if self._peppers.active in holder.secret.digests or name in self._recording:
            return
        if len(self._recording) < MAX_RECORDING:
            work = self._record_quietly(holder, request_id)
            task = self._recording[name] = asyncio.create_task(work, name="record a digest")
            task.add_done_callback(lambda _: self._recording.pop(name, None))

    async def close(self) -> None:
        """Give up what is being recorded."""
        tasks = list(self._recording.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def name(self, shown: bytes) -> bytes:
        """The keyed name of an imported token, the same under every pepper."""
        return self._sealer.name(FOREIGN_NAME, shown)

    async def _secret(self, key: Key, shown: str | bytes) -> Secret | None:
        """The secret, newest first. A digest under a pepper held is definitive and never reaches Argon2id."""
        is_foreign = isinstance(shown, bytes)
        candidates = [secret for secret in reversed(key.secrets) if secret.foreign == is_foreign]
        found: Secret | None = None
        for secret in candidates:
            if self._peppers.proves(shown, secret.digests) and found is None:
                found = secret
        for secret in candidates:
            if found is None and secret.proof is not None and not self._peppers.holds_any(secret.digests):
                found = secret if await self._prover.check(secret.proof, shown) else None
        return found

    async def _record(self, holder: Holder, actor: str, request_id: str) -> Recorded:
        digests = {self._peppers.active: self._peppers.digest(holder.shown)}
        command = RecordDigests(holder.secret.version, digests)
        done = await self._writer.run(
            Plan(
                stream_id=holder.key.id,
                kind="key",
                workspace_id=holder.key.workspace_id,
                actor=actor,
                request_id=request_id,
                state=Key,
                decide=lambda key, now: decide(command, key, now=now),
                evolve=evolve,
            )
        )
        return Recorded(holder.key.id, done.position, done.epoch)

    async def _record_quietly(self, holder: Holder, request_id: str) -> None:
        with contextlib.suppress(Refusal):
            await self._record(holder, holder.key.id, request_id)

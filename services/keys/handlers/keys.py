"""What can be done with keys: create, change, rotate, revoke, each as one plan for the writer."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from keyledger.digest import Peppers
from keyledger.events import Environment, NewSecret, Retire
from keyledger.server.ids import new_id, new_secret
from keyledger.server.proof import Prover
from keyledger.token import Secret, hint, mint
from services.keys.domain.key import (
    ChangeKey,
    CreateKey,
    Key,
    KeyCommand,
    RevokeKey,
    RotateKey,
    decide,
    evolve,
)
from services.keys.domain.principal import Principal
from services.keys.handlers.writing import Idempotency, Plan, Writer, Written


class Asked(Struct, frozen=True):
    """What every command carries besides its own fields."""

    by: Principal
    workspace_id: str
    request_id: str
    idempotency: Idempotency | None = None
    if_match: int | None = None


class Minted(Struct, frozen=True):
    """A fresh secret: the token for its holder, and what is recorded of it."""

    token: Secret
    recorded: NewSecret
    proof: str


class Keys:
    """Runs the commands on keys; mints what `decide` must not."""

    def __init__(self, writer: Writer, peppers: Peppers, prover: Prover, prefix: str) -> None:
        self._writer = writer
        self._peppers = peppers
        self._prover = prover
        self._prefix = prefix

    async def create(
        self, asked: Asked, environment: Environment, command: Callable[[Minted], CreateKey]
    ) -> Written[Key]:
        """A new key of this environment, its secret told this once."""
        key_id = new_id("key")
        minted = await self.mint(key_id, environment)
        return await self._run(asked, key_id, command(minted), minted.token)

    async def change(self, asked: Asked, key_id: str, command: ChangeKey) -> Written[Key]:
        """The key with some fields changed."""
        return await self._run(asked, key_id, command)

    async def rotate(
        self, asked: Asked, key_id: str, environment: Environment, overlap_seconds: int, retire: Retire
    ) -> Written[Key]:
        """The key with a new secret, told this once."""
        minted = await self.mint(key_id, environment)
        command = RotateKey(
            by=asked.by,
            secret=minted.recorded,
            proof=minted.proof,
            overlap_seconds=overlap_seconds,
            retire=retire,
            if_match=asked.if_match,
        )
        return await self._run(asked, key_id, command, minted.token)

    async def revoke(self, asked: Asked, key_id: str, command: RevokeKey) -> Written[Key]:
        """The key, revoked; the same when it already was."""
        return await self._run(asked, key_id, command)

    async def mint(self, key_id: str, environment: Environment) -> Minted:
        """A secret for this key, with its digest and its proof; `busy` when too many are being proven."""
        token = mint(self._prefix, environment, key_id, new_secret())
        proof = await self._prover.prove(token.reveal())
        digests = {self._peppers.active: self._peppers.digest(token.reveal())}
        return Minted(token, NewSecret(hint(token), digests), proof)

    async def _run(
        self, asked: Asked, key_id: str, command: KeyCommand, token: Secret | None = None
    ) -> Written[Key]:
        return await self._writer.run(
            Plan(
                stream_id=key_id,
                kind="key",
                workspace_id=asked.workspace_id,
                actor=asked.by.actor,
                request_id=asked.request_id,
                state=Key,
                decide=lambda key, now: decide(command, key, now=now),
                evolve=evolve,
                token=None if token is None else token.reveal(),
                idempotency=asked.idempotency,
            )
        )

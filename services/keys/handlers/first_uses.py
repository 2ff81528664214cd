"""What a key's first use of a new secret leads to: the secret before it ends, if the key was rotated so."""

from __future__ import annotations

from keyledger.errors import Refusal
from services.keys.domain.key import Key, RetirePrevious, decide, evolve
from services.keys.handlers.writing import Plan, Writer
from services.keys.ports import States


class FirstUses:
    """Takes what verifiers tell of first uses; the same one may be told again."""

    def __init__(self, states: States, writer: Writer) -> None:
        self._states = states
        self._writer = writer

    async def used(self, key_id: str, secret: int) -> None:
        """The key's secret of this version was used. Raises a `Refusal` when it has to be told again."""
        stored, _ = await self._states.get(key_id)
        if stored is None:
            return
        command = RetirePrevious(secret)
        plan = Plan(
            stream_id=key_id,
            kind="key",
            workspace_id=stored.workspace_id,
            actor=key_id,
            request_id="",
            state=Key,
            decide=lambda key, now: decide(command, key, now=now),
            evolve=evolve,
        )
        try:
            await self._writer.run(plan)
        except Refusal as refusal:
            # gone meanwhile, or changed by others thrice: a verifier tells it again if it still matters
            if refusal.code not in ("not_found", "conflict"):
                raise

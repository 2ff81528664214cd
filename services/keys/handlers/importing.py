"""Keys that another system made: all of a call's are taken over, or none.

Everything is checked before the slow part begins, which is an Argon2id of unknown strength for each token. It
has threads of its own, so that other callers' secrets do not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from keyledger.clock import Clock
from keyledger.digest import Peppers
from keyledger.errors import Refusal, unavailable
from keyledger.events import Epoch, KeyEvent, KeyImported, KeyText, NewSecret
from keyledger.server.ids import new_id
from keyledger.server.proof import Prover
from keyledger.server.seal import Sealer
from services.keys.domain.key import CreateKey, Key, decide, evolve
from services.keys.handlers.keys import Asked
from services.keys.handlers.proofs import Proofs
from services.keys.handlers.writing import (
    ANSWERS_KEPT,
    Idempotency,
    Plan,
    Writer,
    in_progress,
    restored,
)
from services.keys.ports import (
    AlreadyAnswered,
    AnswerInProgress,
    ImportedTokens,
    NewAnswer,
    States,
    TokensTaken,
    VersionConflict,
)

HINT = "imported"
AT_ONCE = 2
"""Calls that are worked on at once; each may hold a thousand tokens for some seconds."""


class Foreign(Struct, frozen=True):
    """One key to take over: the SHA-256 of its token, and which field of the request held it."""

    command: CreateKey
    sha256: bytes
    field: str

    def __repr__(self) -> str:
        return "Foreign(***)"


class Imported(Struct, frozen=True):
    """The keys as they are from now on, in the order they were asked for, and the last one's place."""

    keys: tuple[Key, ...]
    at: int
    position: int
    epoch: Epoch


class _Kept(Struct, frozen=True):
    bodies: tuple[msgspec.Raw, ...]


class Importer:
    """Takes keys over. `prover` is for nothing else."""

    def __init__(
        self,
        writer: Writer,
        states: States,
        *,
        tokens: ImportedTokens,
        proofs: Proofs,
        peppers: Peppers,
        prover: Prover,
        sealer: Sealer,
        clock: Clock,
    ) -> None:
        self._writer = writer
        self._states = states
        self._tokens = tokens
        self._proofs = proofs
        self._peppers = peppers
        self._prover = prover
        self._sealer = sealer
        self._clock = clock
        self._running: set[bytes] = set()
        self._places = AT_ONCE

    async def run(self, asked: Asked, wanted: Sequence[Foreign]) -> Imported:
        """The imported keys.

        Refuses with what is wrong with the first bad one (`field` is `keys[3].name`), with `conflict` for a
        token that a key has already, in whichever workspace, and with `busy`.
        """
        idempotency = asked.idempotency
        if idempotency is None:
            return await self._placed(asked, wanted)
        if idempotency.id in self._running:
            raise in_progress()
        self._running.add(idempotency.id)
        try:
            return await self._repeated(idempotency) or await self._placed(asked, wanted)
        finally:
            self._running.discard(idempotency.id)

    async def _placed(self, asked: Asked, wanted: Sequence[Foreign]) -> Imported:
        if self._places == 0:
            raise unavailable("busy", "Other imports are under way.", retry_after=5)
        self._places -= 1
        try:
            return await self._import(asked, wanted)
        finally:
            self._places += 1

    async def _import(self, asked: Asked, wanted: Sequence[Foreign]) -> Imported:
        now = self._clock.now()
        events = [_decided(place, foreign, now) for place, foreign in enumerate(wanted)]
        names = [self._proofs.name(foreign.sha256) for foreign in wanted]
        taken = _repeats(names) or await self._tokens.taken(names)
        if taken:
            raise _taken(taken, wanted)
        proofs = await asyncio.gather(*(self._prover.prove(each.sha256, imported=True) for each in wanted))
        plans = [_plan(asked) for _ in wanted]
        now = self._clock.now()
        commands = [
            await self._writer.creation(plan, [self._complete(event, foreign, proof)], now)
            for plan, event, foreign, proof in zip(plans, events, wanted, proofs, strict=True)
        ]
        bodies = tuple(command.body for command in commands)
        answer = self._answer(asked.idempotency, bodies, now)
        commands[0] = msgspec.structs.replace(commands[0], answer=answer)
        try:
            appended = await self._tokens.append(names, commands)
        except TokensTaken as taken:
            raise _taken(taken.places, wanted) from None
        except AnswerInProgress:
            raise in_progress() from None
        except (AlreadyAnswered, VersionConflict):
            found = asked.idempotency and await self._repeated(asked.idempotency)
            if found:
                return found
            raise unavailable("unavailable", "Others wrote the same at this time; retry.") from None
        at = appended[0].at
        keys = tuple(restored(body, Key, at) for body in bodies)
        return Imported(keys, at, appended[-1].position, appended[-1].epoch)

    def _complete(self, event: KeyImported, foreign: Foreign, proof: str) -> KeyImported:
        text = event.private if isinstance(event.private, KeyText) else KeyText("")
        secret = NewSecret(HINT, {self._peppers.active: self._peppers.digest(foreign.sha256)})
        return msgspec.structs.replace(
            event, secret=secret, private=msgspec.structs.replace(text, proof=proof)
        )

    def _answer(self, asked: Idempotency | None, bodies: Sequence[bytes], now: int) -> NewAnswer | None:
        if asked is None:
            return None
        kept = msgspec.json.encode(_Kept(tuple(msgspec.Raw(body) for body in bodies)))
        sealed = self._sealer.seal_answer(asked.key, kept, asked.id)
        return NewAnswer(asked.id, asked.request_hash, sealed, now + ANSWERS_KEPT)

    async def _repeated(self, asked: Idempotency) -> Imported | None:
        """The answer given before, word for word; None when there is none."""
        found = await self._states.answer(asked.id, now=self._clock.now())
        if found is None:
            return None
        if found.request_hash != asked.request_hash:
            raise Refusal(
                "idempotency_key_reused",
                "This Idempotency-Key was used with another body.",
                field="Idempotency-Key",
            )
        kept = msgspec.json.decode(self._sealer.open_answer(asked.key, found.sealed, asked.id), type=_Kept)
        keys = tuple(restored(bytes(body), Key, found.at) for body in kept.bodies)
        head = await self._states.head()
        # the answer is kept with the first key, and the others follow it without a gap
        return Imported(keys, found.at, found.position + len(keys) - 1, head.epoch)


def _decided(place: int, foreign: Foreign, now: int) -> KeyImported:
    try:
        events: Sequence[KeyEvent] = decide(foreign.command, None, now=now)
    except Refusal as refusal:
        field = f"keys[{place}]" if refusal.field is None else f"keys[{place}].{refusal.field}"
        raise Refusal(refusal.code, refusal.message, field=field) from None
    return next(event for event in events if isinstance(event, KeyImported))


def _repeats(names: Sequence[bytes]) -> list[int]:
    """The places of names that stand earlier in the list, too."""
    seen = set[bytes]()
    return [place for place, name in enumerate(names) if name in seen or seen.add(name)]


def _taken(places: Sequence[int], wanted: Sequence[Foreign]) -> Refusal:
    place = places[0] if places else 0
    return Refusal("conflict", "A key has this token already.", field=f"keys[{place}].{wanted[place].field}")


def _plan(asked: Asked) -> Plan[Key]:
    return Plan(
        stream_id=new_id("key"),
        kind="key",
        workspace_id=asked.workspace_id,
        actor=asked.by.actor,
        request_id=asked.request_id,
        state=Key,
        decide=lambda _key, _now: [],
        evolve=evolve,
    )

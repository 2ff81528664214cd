"""One command from the state it is decided on to the answer that is kept: load, fold, decide, append.

A conflict means that someone else was first: the state is loaded and the command decided again, three times
at most. With an Idempotency-Key the answer is sealed and kept for a day in the append's own transaction.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
import uuid_utils
from msgspec import Struct

from keyledger import events
from keyledger.clock import SECOND, Clock
from keyledger.errors import Refusal, conflict, not_found
from keyledger.events import Epoch, Event
from keyledger.server.seal import Sealer, seal_text
from services.keys.domain.key import PENDING, Context
from services.keys.ports import (
    AlreadyAnswered,
    AnswerInProgress,
    Appended,
    Command,
    EventLog,
    Kind,
    NewAnswer,
    NewEvent,
    States,
    Stored,
    VersionConflict,
)

ATTEMPTS = 3
ANSWERS_KEPT = 24 * 3600 * SECOND
_CACHED_DATA_KEYS = 10_000
_STAMPED = frozenset({"created_at", "revoked_at", "dropped_at", "since"})
S = TypeVar("S", bound=Struct)


class Idempotency(Struct, frozen=True):
    """One Idempotency-Key of one principal at one address: its name in the store, and what was asked."""

    key: str
    id: bytes
    request_hash: bytes

    def __repr__(self) -> str:
        return "Idempotency(***)"


class Plan(Struct, Generic[S], frozen=True):
    """A command ready to run: on which stream, how it is decided and folded, what is told only once."""

    stream_id: str
    kind: Kind
    workspace_id: str
    actor: str
    request_id: str
    state: type[S]
    decide: Callable[[S | None, int], Sequence[Event]]
    evolve: Callable[[S | None, Any, Context], S]
    token: str | None = None
    idempotency: Idempotency | None = None

    def __repr__(self) -> str:
        return f"Plan({self.stream_id})"


class Written(Struct, Generic[S], frozen=True):
    """What a command led to, as of `at` (µs); `changed` is False when there was nothing to do."""

    state: S
    at: int
    position: int
    epoch: Epoch
    changed: bool
    token: str | None = None

    def __repr__(self) -> str:
        return f"Written({self.position})"


class _Kept(Struct, frozen=True):
    body: msgspec.Raw
    changed: bool
    token: str | None = None

    def __repr__(self) -> str:
        return "_Kept(***)"


class Writer:
    """Runs plans. One per process."""

    def __init__(self, log: EventLog, states: States, sealer: Sealer, clock: Clock) -> None:
        self._log = log
        self._states = states
        self._sealer = sealer
        self._clock = clock
        self._running: set[bytes] = set()
        self._data_keys: OrderedDict[str, bytes] = OrderedDict()

    async def run(self, plan: Plan[S]) -> Written[S]:
        """Decide and append; raises the decision's `Refusal`, or one of the idempotency rules'."""
        asked = plan.idempotency
        if asked is None:
            return await self._attempts(plan)
        if asked.id in self._running:
            raise in_progress()
        self._running.add(asked.id)
        try:
            return await self._repeated(plan, asked) or await self._attempts(plan)
        finally:
            self._running.discard(asked.id)

    def forget(self, workspace_id: str) -> None:
        """Drop the data key of a workspace that was deleted."""
        self._data_keys.pop(workspace_id, None)

    async def _attempts(self, plan: Plan[S]) -> Written[S]:
        for _ in range(ATTEMPTS):
            try:
                return await self._attempt(plan)
            except VersionConflict:
                continue
            except AnswerInProgress:
                raise in_progress() from None
            except AlreadyAnswered:
                repeated = plan.idempotency and await self._repeated(plan, plan.idempotency)
                if repeated:
                    return repeated
        raise conflict("Others changed this at the same time; read it again and retry.")

    async def _attempt(self, plan: Plan[S]) -> Written[S]:
        stored, _ = await self._states.get(plan.stream_id)
        if stored is not None and stored.workspace_id != plan.workspace_id:
            raise not_found()
        now = self._clock.now()
        before = None if stored is None else msgspec.json.decode(stored.body, type=plan.state)
        decided = plan.decide(before, now)
        appended = await self._append(plan, stored, before, decided, now)
        after = _fold(plan, before, decided, appended.at)
        if after is None:
            raise not_found()
        return Written(after, appended.at, appended.position, appended.epoch, bool(decided), plan.token)

    async def _append(
        self, plan: Plan[S], stored: Stored | None, before: S | None, decided: Sequence[Event], now: int
    ) -> Appended:
        version = 0 if stored is None else stored.version
        if stored is not None and not decided and plan.idempotency is None:
            head = await self._states.head()
            return Appended(version, stored.position, now, head.epoch)
        data_key, wrapped = await self._data_key(plan, new=stored is None)
        command = msgspec.structs.replace(
            _command(plan, before, decided, version=version, data_key=data_key, now=now), data_key=wrapped
        )
        answer = self._answer(plan, command.body, changed=bool(decided), now=now)
        appended = await self._log.append(msgspec.structs.replace(command, answer=answer))
        if wrapped is not None:
            self._remember(plan.workspace_id, data_key)
        return appended

    async def creation(self, plan: Plan[S], decided: Sequence[Event], now: int) -> Command:
        """The command that creates a stream with these events, for whoever appends several at once."""
        data_key, _ = await self._data_key(plan, new=False)
        return _command(plan, None, decided, version=0, data_key=data_key, now=now)

    async def _data_key(self, plan: Plan[S], *, new: bool) -> tuple[bytes, bytes | None]:
        if new and plan.kind == "workspace":
            return self._sealer.new_data_key(plan.workspace_id)
        known = self._data_keys.get(plan.workspace_id)
        if known is None:
            wrapped = await self._states.data_key(plan.workspace_id)
            if wrapped is None:
                raise not_found()
            known = self._sealer.unwrap(plan.workspace_id, wrapped)
            self._remember(plan.workspace_id, known)
        return known, None

    def _remember(self, workspace_id: str, data_key: bytes) -> None:
        self._data_keys[workspace_id] = data_key
        while len(self._data_keys) > _CACHED_DATA_KEYS:
            self._data_keys.popitem(last=False)

    def _answer(self, plan: Plan[S], body: bytes, *, changed: bool, now: int) -> NewAnswer | None:
        asked = plan.idempotency
        if asked is None:
            return None
        kept = msgspec.json.encode(_Kept(msgspec.Raw(body), changed, plan.token))
        sealed = self._sealer.seal_answer(asked.key, kept, asked.id)
        return NewAnswer(asked.id, asked.request_hash, sealed, now + ANSWERS_KEPT)

    async def _repeated(self, plan: Plan[S], asked: Idempotency) -> Written[S] | None:
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
        plain = self._sealer.open_answer(asked.key, found.sealed, asked.id)
        kept = msgspec.json.decode(plain, type=_Kept)
        state = restored(bytes(kept.body), plan.state, found.at)
        head = await self._states.head()
        return Written(state, found.at, found.position, head.epoch, kept.changed, kept.token)


def restored(body: bytes, state: type[S], at: int) -> S:
    """The state of a kept body, with the moment of its commit in place."""
    content = msgspec.json.decode(body)
    for path in pending_paths(content):
        _put(content, path, at)
    return msgspec.convert(content, state)


def _command(
    plan: Plan[S], before: S | None, decided: Sequence[Event], *, version: int, data_key: bytes, now: int
) -> Command:
    body = msgspec.json.encode(_fold(plan, before, decided, PENDING))
    return Command(
        command_id=UUID(int=uuid_utils.uuid7().int),
        stream_id=plan.stream_id,
        kind=plan.kind,
        workspace_id=plan.workspace_id,
        expected_version=version,
        now=now,
        events=tuple(
            _sealed(plan, event, number, data_key) for number, event in enumerate(decided, version + 1)
        ),
        body=body,
        stamps=pending_paths(msgspec.json.decode(body)),
    )


def in_progress() -> Refusal:
    """The same Idempotency-Key is being answered."""
    return Refusal(
        "idempotency_in_progress",
        "A request with this Idempotency-Key is being answered.",
        field="Idempotency-Key",
        retry_after=1,
    )


def _fold(plan: Plan[S], state: S | None, decided: Sequence[Event], at: int) -> S | None:
    context = Context(plan.stream_id, plan.workspace_id, plan.actor, at)
    for event in decided:
        state = plan.evolve(state, event, context)
    return state


def _sealed(plan: Plan[S], event: Event, version: int, data_key: bytes) -> NewEvent:
    tag = events.tag_of(event)
    private = getattr(event, "private", None)
    if private is not None:
        place = events.private_place(plan.stream_id, version, tag)
        sealed = seal_text(data_key, msgspec.json.encode(private), place)
        event = msgspec.structs.replace(event, private=sealed)
    return NewEvent(tag, events.schema_version_of(event), plan.actor, plan.request_id, events.encode(event))


def pending_paths(body: Any, path: tuple[str, ...] = ()) -> tuple[tuple[str, ...], ...]:
    """The paths in a state that wait for the moment of the commit."""
    found: list[tuple[str, ...]] = []
    pairs = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for step, value in pairs:
        here = (*path, str(step))
        if step in _STAMPED and value == PENDING:
            found.append(here)
        elif isinstance(value, dict | list) and step != "metadata":
            found += pending_paths(value, here)
    return tuple(found)


def _put(body: Any, path: tuple[str, ...], value: int) -> None:
    *steps, last = path
    for step in steps:
        body = body[int(step) if isinstance(body, list) else step]
    body[last] = value

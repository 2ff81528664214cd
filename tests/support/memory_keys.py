"""The key service's ports in memory: the log, the states beside it, kept answers, and the use log."""

import asyncio
import secrets
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from keyledger.errors import conflict, not_found
from keyledger.events import GENESIS, Epoch, Recorded, chain_hash
from keyledger.wire import UseBatch
from services.keys.domain.roles import MAX_WORKSPACES
from services.keys.ports import (
    AlreadyAnswered,
    AnswerInProgress,
    Appended,
    Command,
    HeadNow,
    KeptAnswer,
    KeyFilter,
    Standing,
    Stored,
    VersionConflict,
)


class MemoryKeys:
    """`EventLog`, `States`, `Memberships` and `UseLog`. Each call is one step: nothing comes between."""

    def __init__(self) -> None:
        self.epoch = Epoch(1, secrets.token_bytes(8))
        self.log: list[Recorded] = []
        self.batches: list[UseBatch] = []
        self._streams: dict[str, tuple[str, int]] = {}
        self._states: dict[str, tuple[str, Stored]] = {}
        self._data_keys: dict[str, bytes] = {}
        self._answers: dict[bytes, tuple[KeptAnswer, int]] = {}
        self._answering: set[bytes] = set()
        self._deleted: set[str] = set()
        self._next_seq: dict[str, int] = {}
        self.ended: dict[str, int] = {}

    # --- EventLog ---

    async def append(self, command: Command) -> Appended:
        answer = command.answer
        if answer is not None:
            if answer.id in self._answering:
                raise AnswerInProgress
            if await self.answer(answer.id, now=command.now) is not None:
                raise AlreadyAnswered
            self._answering.add(answer.id)
        try:
            # so that two of the same that run at once do meet
            await asyncio.sleep(0)
            return self._commit(command)
        finally:
            if answer is not None:
                self._answering.discard(answer.id)

    def _commit(self, command: Command) -> Appended:
        workspace_id, version = self._streams.get(command.stream_id, (command.workspace_id, 0))
        if (workspace_id, version) != (command.workspace_id, command.expected_version):
            raise VersionConflict
        if command.events and command.workspace_id in self._deleted:
            raise not_found()
        if self._makes_too_many(command):
            raise conflict(f"A user makes at most {MAX_WORKSPACES} workspaces.")
        at = max(command.now, self._head().at)
        for event in command.events:
            version += 1
            self._record(command, event, version, at)
        self._streams[command.stream_id] = (workspace_id, version)
        if command.events:
            self._fold(command, version, at)
        if command.data_key is not None:
            self._data_keys[command.workspace_id] = command.data_key
        position = self._states[command.stream_id][1].position
        if command.answer is not None:
            kept = KeptAnswer(command.answer.request_hash, command.answer.sealed, position, at)
            self._answers[command.answer.id] = (kept, command.answer.kept_until)
        if any(event.type == "workspace_deleted" for event in command.events):
            self._forget(command.workspace_id)
        return Appended(version, position, at, self.epoch)

    def _makes_too_many(self, command: Command) -> bool:
        made = {
            user
            for user, member in _members(command.body).items()
            if command.expected_version == 0 and member["added_by"] == user
        }
        return any(
            len([each for each in self._own(user) if each["added_by"] == user]) >= MAX_WORKSPACES
            for user in made
        )

    def _own(self, user_id: str) -> list[Any]:
        bodies = [stored.body for kind, stored in self._states.values() if kind == "workspace"]
        return [members[user_id] for body in bodies if user_id in (members := _members(body))]

    def _forget(self, workspace_id: str) -> None:
        self._deleted.add(workspace_id)
        self._data_keys.pop(workspace_id, None)
        gone = {name for name, (_, state) in self._states.items() if state.workspace_id == workspace_id}
        self._states = {name: state for name, state in self._states.items() if name not in gone}

    def _record(self, command: Command, event: Any, version: int, at: int) -> None:
        head = self._head()
        recorded = Recorded(
            head.position + 1, command.stream_id, version, event.type, event.schema_version,
            command.workspace_id, event.actor, event.request_id, at, event.data, b"", head.hash,
        )  # fmt: skip
        digest = chain_hash(head.hash, self.epoch.line, recorded)
        self.log.append(msgspec.structs.replace(recorded, hash=digest))

    def _fold(self, command: Command, version: int, at: int) -> None:
        body = msgspec.json.decode(command.body)
        for *steps, last in command.stamps:
            part = body
            for step in steps:
                part = part[int(step) if isinstance(part, list) else step]
            part[last] = at
        position = len(self.log)
        known = self._states.get(command.stream_id)
        created = position - len(command.events) + 1 if known is None else known[1].created_position
        stored = Stored(
            command.stream_id, command.workspace_id, version, position, created, msgspec.json.encode(body)
        )
        self._states[command.stream_id] = (command.kind, stored)

    # --- States ---

    def _head(self) -> HeadNow:
        if not self.log:
            return HeadNow(self.epoch, 0, GENESIS, 0)
        return HeadNow(self.epoch, len(self.log), self.log[-1].hash, self.log[-1].at)

    async def head(self) -> HeadNow:
        return self._head()

    async def get(self, stream_id: str) -> tuple[Stored | None, HeadNow]:
        found = self._states.get(stream_id)
        return None if found is None else found[1], self._head()

    async def credential(self, key_id: str) -> tuple[Stored, Stored] | None:
        key = self._states.get(key_id)
        workspace = None if key is None else self._states.get(key[1].workspace_id)
        if key is None or workspace is None or key[0] != "key":
            return None
        return key[1], workspace[1]

    async def keys(
        self, workspace_id: str, wanted: KeyFilter, *, before: int | None, limit: int
    ) -> tuple[Sequence[Stored], HeadNow]:
        found = [
            stored
            for stored in self._newest("key", before)
            if stored.workspace_id == workspace_id and _matches(stored, wanted)
        ]
        return found[:limit], self._head()

    async def workspaces(self, *, before: int | None, limit: int) -> tuple[Sequence[Stored], HeadNow]:
        return self._newest("workspace", before)[:limit], self._head()

    def _newest(self, kind: str, before: int | None) -> list[Stored]:
        found = [
            stored
            for stored_kind, stored in self._states.values()
            if stored_kind == kind and (before is None or stored.created_position < before)
        ]
        return sorted(found, key=lambda stored: -stored.created_position)

    async def events(
        self, workspace_id: str, stream_id: str | None, *, after: int, limit: int
    ) -> tuple[Sequence[Recorded], HeadNow]:
        found = [
            msgspec.structs.replace(event, previous_hash=b"")
            for event in self.log[after:]
            if event.workspace_id == workspace_id and stream_id in (None, event.stream_id)
        ]
        return found[:limit], self._head()

    async def events_before(
        self, workspace_id: str, stream_id: str | None, *, before: int | None, limit: int
    ) -> tuple[Sequence[Recorded], HeadNow]:
        found, head = await self.events(workspace_id, stream_id, after=0, limit=len(self.log))
        earlier = [event for event in found if before is None or event.position < before]
        return earlier[::-1][:limit], head

    async def events_behind(
        self, workspace_id: str, versions: Mapping[str, int], *, until: int, limit: int
    ) -> Sequence[Recorded]:
        found = [
            msgspec.structs.replace(event, previous_hash=b"")
            for event in self.log[:until]
            if event.workspace_id == workspace_id
            and event.stream_id in versions
            and event.version > versions[event.stream_id]
        ]
        return found[:limit]

    async def position_at(self, moment: int) -> int:
        return bisect_right(self.log, moment, key=lambda event: event.at)

    async def moment_of(self, position: int) -> int | None:
        return self.log[position - 1].at if 0 < position <= len(self.log) else None

    async def data_key(self, workspace_id: str) -> bytes | None:
        return self._data_keys.get(workspace_id)

    async def answer(self, answer_id: bytes, *, now: int) -> KeptAnswer | None:
        kept, until = self._answers.get(answer_id, (None, 0))
        return kept if until > now else None

    # --- Memberships ---

    async def standing(self, user_id: str, workspace_id: str, session_id: str) -> Standing:
        kind, stored = self._states.get(workspace_id, ("", None))
        member = _members(stored.body).get(user_id) if stored is not None and kind == "workspace" else None
        return Standing(None if member is None else member["role"], session_id in self.ended)

    async def workspaces_of(
        self, user_id: str, *, before: int | None, limit: int
    ) -> tuple[Sequence[tuple[Stored, str]], HeadNow]:
        found = [
            (stored, str(members[user_id]["role"]))
            for stored in self._newest("workspace", before)
            if user_id in (members := _members(stored.body))
        ]
        return found[:limit], self._head()

    async def end(self, session_id: str, *, until: int) -> None:
        self.ended[session_id] = max(until, self.ended.get(session_id, 0))

    # --- UseLog ---

    async def record(self, batch: UseBatch, *, now: int) -> int:
        del now
        expected = self._next_seq.get(batch.boot, 0)
        if batch.seq < expected:
            return expected
        self.batches.append(batch)
        self._next_seq[batch.boot] = batch.seq + 1
        return batch.seq + 1


def _members(body: bytes) -> dict[str, Any]:
    return msgspec.json.decode(body).get("members", {})


def _matches(stored: Stored, wanted: KeyFilter) -> bool:
    body: dict[str, Any] = msgspec.json.decode(stored.body)
    words = [str(body.get(field) or "").lower() for field in ("name", "external_id")]
    search = wanted.search
    return (
        wanted.environment in (None, body["environment"])
        and wanted.external_id in (None, body.get("external_id"))
        and wanted.status in (None, _status(body, wanted.now))
        and (
            search is None
            or search == stored.stream_id
            or any(search.lower() in word for word in words)
            or any(each["hint"].endswith(wanted.hint_ending or "?") for each in body.get("secrets", ()))
        )
    )


def _status(body: dict[str, Any], now: int) -> str:
    if "revoked_at" in body:
        return "revoked"
    if body.get("enabled") is False:
        return "disabled"
    return "expired" if body.get("expires_at", now + 1) <= now else "active"

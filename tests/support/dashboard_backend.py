"""The key and usage services as the dashboard's pages see them, in memory: small and quick to fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from keyledger.client.records import (
    Applied,
    CreatedKey,
    EventPage,
    Key,
    KeyEvent,
    KeyPage,
    Member,
    MemberPage,
    RateLimitCell,
    Receipt,
    RevokedKey,
    RotatedKey,
    SecretHint,
    UsageCount,
    UsagePoint,
    UsageSeries,
    Workspace,
)
from keyledger.errors import Refusal, insufficient_permissions, invalid_request, key_revoked, not_found
from keyledger.events import RateLimit, Retire
from keyledger.token import ALPHABET, ID_LENGTH, Secret
from services.dashboard.backend import AsOf, Group, KeyFilter, NewKey, Resolution
from services.dashboard.domain.visitor import Visitor

EMPTY = RateLimitCell(limit=None, window_seconds=None, admitted=0, granted=0, remaining=None, reset=None)
T = TypeVar("T", bound=Key)
BEGIN = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
_STRENGTH = ("viewer", "member", "admin", "owner")


def made_id(kind: str, number: int) -> str:
    """The id of this kind with this number."""
    digits = ""
    while number:
        number, place = divmod(number, len(ALPHABET))
        digits = ALPHABET[place] + digits
    return f"{kind}_{digits.rjust(ID_LENGTH, '0')}"


def _with(state: Key, kind: type[T], **more: Any) -> T:
    """The key as an answer that says more."""
    fields: dict[str, Any] = msgspec.structs.asdict(state) | more
    return kind(**fields)


class MemoryBackend:
    """Some workspaces; each write is a minute after the one before. `refuse` ends every call, `fails` one."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.spaces: dict[str, Workspace] = {}
        self.members_of: dict[str, dict[str, Member]] = {}
        self.keys_of: dict[str, list[Key]] = {}
        self.states: dict[str, list[tuple[int, datetime, Key]]] = {}
        self.log: dict[str, list[KeyEvent]] = {}
        self.used: dict[str, datetime] = {}
        self.points: list[UsagePoint] = []
        self.cell = EMPTY
        self.receipt: Receipt | None = Receipt((Applied("verifier-a", 12), Applied("verifier-b", 31)))
        self.answers: dict[str, Any] = {}
        self.refuse: Refusal | None = None
        self.fails: dict[str, Exception] = {}
        self.calls: list[str] = []
        self._position = 0

    def space(self, number: int, name: str, owner: str) -> str:
        """A new workspace of this owner."""
        workspace_id = made_id("ws", number)
        limit = RateLimit(1000, 60)
        self.spaces[workspace_id] = Workspace(
            id=workspace_id, name=name, rate_limit=limit, suspended=False, created_at=self.now, version=1
        )
        self.members_of[workspace_id] = {
            owner: Member(user=owner, role="owner", since=self.now, added_by=owner)
        }
        self.keys_of[workspace_id], self.log[workspace_id] = [], []
        self._write(workspace_id, workspace_id, "workspace_created", owner, {"name": name})
        return workspace_id

    def _write(self, workspace_id: str, stream: str, type_: str, actor: str, data: Mapping[str, Any]) -> int:
        self._position += 1
        self.now += timedelta(minutes=1)
        event = KeyEvent(
            position=self._position, version=1, type=type_, at=self.now, actor=actor,
            request_id=f"req_{self._position}", data=dict(data), stream=stream,
        )  # fmt: skip
        self.log[workspace_id].append(event)
        return self._position

    def _enter(self, visitor: Visitor, call: str, least: str = "viewer") -> str:
        self.calls.append(call)
        if self.refuse is not None:
            raise self.refuse
        if call in self.fails:
            raise self.fails[call]
        workspace_id = visitor.workspace_id or ""
        member = self.members_of.get(workspace_id, {}).get(visitor.user_id)
        if member is None:
            raise not_found()
        if _STRENGTH.index(member.role) < _STRENGTH.index(least):
            raise insufficient_permissions("Your role does not cover this.")
        return workspace_id

    def _find(self, workspace_id: str, key_id: str) -> Key:
        found = next((key for key in self.keys_of[workspace_id] if key.id == key_id), None)
        if found is None:
            raise not_found()
        return found

    def _keep(self, workspace_id: str, key: Key, position: int) -> None:
        keys = self.keys_of[workspace_id]
        self.keys_of[workspace_id] = [key if each.id == key.id else each for each in keys]
        self.states.setdefault(key.id, []).append((position, self.now, key))

    async def keys(
        self, visitor: Visitor, which: KeyFilter, *, cursor: str | None = None, limit: int = 50
    ) -> KeyPage:
        workspace_id = self._enter(visitor, "keys")
        fitting = [
            key
            for key in reversed(self.keys_of[workspace_id])
            if (
                which.search.lower() in f"{key.name.lower()} {key.external_id} {key.id}"
                or any(secret.hint.endswith(which.search) for secret in key.secrets)
            )
            and which.environment in (None, key.environment)
            and which.status in (None, key.status)
        ]
        begin = int(cursor or 0)
        more = str(begin + limit) if len(fitting) > begin + limit else None
        return KeyPage(tuple(fitting[begin : begin + limit]), more)

    async def key(self, visitor: Visitor, key_id: str, *, as_of: AsOf | None = None) -> Key:
        key = self._find(self._enter(visitor, "key"), key_id)
        if as_of is None:
            return key
        before = [
            state
            for position, at, state in self.states[key_id]
            if (position <= as_of if isinstance(as_of, int) else at <= as_of)
        ]
        if not before:
            raise not_found()
        return before[-1]

    async def create_key(self, visitor: Visitor, new: NewKey, *, once: str) -> CreatedKey:
        workspace_id = self._enter(visitor, "create_key", "member")
        once = f"create {once}"
        if once in self.answers:
            return self.answers[once]
        if len(new.name) > 200:
            raise invalid_request("A name has 1 to 200 characters.", field="name")
        if new.rate_limit is not None and 86_400 % new.rate_limit.window_seconds:
            raise invalid_request("The window divides the day.", field="rate_limit.window_seconds")
        key_id = made_id("key", self._position + 1)
        token = f"cvtk_{new.environment}_{key_id[4:]}{'S' * 32}Chksum"
        hint = SecretHint(hint=f"cvtk_{new.environment}_…ksum", created_at=self.now)
        key = Key(
            id=key_id, workspace_id=workspace_id, name=new.name, environment=new.environment,
            scopes=new.scopes, enabled=True, status="active", created_at=self.now,
            created_by=visitor.user_id, expires_at=new.expires_at, allowed_ips=new.allowed_ips,
            rate_limit=new.rate_limit, external_id=new.external_id, metadata=dict(new.metadata),
            secrets=(hint,), version=1,
        )  # fmt: skip
        data = {"name": new.name, "environment": new.environment, "scopes": list(new.scopes)}
        position = self._write(workspace_id, key_id, "key_created", visitor.user_id, data)
        self.keys_of[workspace_id].append(key)
        self._keep(workspace_id, key, position)
        made = _with(key, CreatedKey, key=Secret(token), position=position)
        self.answers[once] = made
        return made

    async def change_key(
        self, visitor: Visitor, key_id: str, changes: Mapping[str, Any], *, version: int | None = None
    ) -> Key:
        workspace_id = self._enter(visitor, "change_key", "member")
        key = self._find(workspace_id, key_id)
        if version is not None and version != key.version:
            raise Refusal("precondition_failed", "The current version is another.", field="If-Match")
        if key.status == "revoked":
            raise key_revoked()
        told = {name: list(value) if isinstance(value, tuple) else value for name, value in changes.items()}
        changed = msgspec.structs.replace(key, **changes, version=key.version + 1)
        changed = msgspec.structs.replace(changed, status="active" if changed.enabled else "disabled")
        position = self._write(workspace_id, key_id, "key_changed", visitor.user_id, told)
        self._keep(workspace_id, changed, position)
        return changed

    async def rotate_key(
        self, visitor: Visitor, key_id: str, *, overlap_seconds: int, retire: Retire, once: str
    ) -> RotatedKey:
        workspace_id = self._enter(visitor, "rotate_key", "member")
        once = f"rotate {key_id} {once}"
        if once in self.answers:
            return self.answers[once]
        key = self._find(workspace_id, key_id)
        if key.status == "revoked":
            raise key_revoked()
        until = self.now + timedelta(seconds=overlap_seconds)
        old = msgspec.structs.replace(key.secrets[-1], valid_until=until)
        new = SecretHint(hint=f"cvtk_{key.environment}_…next", created_at=self.now)
        secrets = (old, new) if overlap_seconds else (new,)
        changed = msgspec.structs.replace(key, secrets=secrets, version=key.version + 1)
        data = {"secret": {"hint": new.hint}, "previous_valid_until": until.isoformat(), "retire": retire}
        position = self._write(workspace_id, key_id, "key_rotated", visitor.user_id, data)
        self._keep(workspace_id, changed, position)
        token = Secret(f"cvtk_{key.environment}_{key_id[4:]}{'R' * 32}Chknew")
        done = _with(changed, RotatedKey, key=token, previous_valid_until=until, position=position)
        self.answers[once] = done
        return done

    async def revoke_key(
        self, visitor: Visitor, key_id: str, *, reason: str | None, note: str | None, wait: float, once: str
    ) -> RevokedKey:
        workspace_id = self._enter(visitor, "revoke_key", "member")
        del wait, once
        key = self._find(workspace_id, key_id)
        changed = msgspec.structs.replace(key, status="revoked", secrets=(), version=key.version + 1)
        data = {"reason": reason, "note": note}
        position = self._write(workspace_id, key_id, "key_revoked", visitor.user_id, data)
        self._keep(workspace_id, changed, position)
        return _with(changed, RevokedKey, receipt=self.receipt, position=position)

    async def events(
        self, visitor: Visitor, key_id: str | None = None, *, newest: bool = True,
        cursor: str | None = None, limit: int = 50,
    ) -> EventPage:  # fmt: skip
        workspace_id = self._enter(visitor, "events")
        if key_id is not None:
            self._find(workspace_id, key_id)
        log = [event for event in self.log[workspace_id] if key_id in (None, event.stream)]
        log = log[::-1] if newest else log
        begin = int(cursor or 0)
        more = str(begin + limit) if len(log) > begin + limit else None
        return EventPage(tuple(log[begin : begin + limit]), more)

    async def usage(
        self, visitor: Visitor, key_id: str | None = None, *, start: datetime, end: datetime,
        granularity: Resolution, group_by: Sequence[Group] = (),
    ) -> UsageSeries:  # fmt: skip
        workspace_id = self._enter(visitor, "usage")
        del group_by
        # whole buckets, as the service has them
        seconds = {"day": 86_400, "hour": 3_600}.get(granularity, 60)

        def bucket(at: datetime) -> datetime:
            return datetime.fromtimestamp(at.timestamp() // seconds * seconds, UTC)

        if key_id is not None:
            self._find(workspace_id, key_id)
        points = [
            msgspec.structs.replace(point, start=bucket(point.start))
            for point in self.points
            if bucket(start) <= bucket(point.start) < end and key_id in (None, point.key)
        ]
        return UsageSeries(series=points, totals=UsageCount(sum(point.count for point in points), 0))

    async def last_used(self, visitor: Visitor, key_ids: Sequence[str]) -> Mapping[str, datetime | None]:
        self._enter(visitor, "last_used")
        return {key_id: self.used.get(key_id) for key_id in key_ids}

    async def rate_limit(self, visitor: Visitor, key_id: str | None = None) -> RateLimitCell:
        workspace_id = self._enter(visitor, "rate_limit")
        if key_id is not None:
            self._find(workspace_id, key_id)
        return self.cell

    async def workspace(self, visitor: Visitor) -> Workspace:
        return self.spaces[self._enter(visitor, "workspace")]

    async def workspaces(self, visitor: Visitor) -> Sequence[Workspace]:
        return [
            msgspec.structs.replace(space, role=self.members_of[id_][visitor.user_id].role)
            for id_, space in self.spaces.items()
            if visitor.user_id in self.members_of[id_]
        ]

    async def create_workspace(self, visitor: Visitor, name: str, *, once: str) -> Workspace:
        if not name.strip():
            raise invalid_request("A name has 1 to 200 characters.", field="name")
        if once not in self.answers:
            self.answers[once] = self.space(500 + self._position, name, visitor.user_id)
        return self.spaces[self.answers[once]]

    async def rename_workspace(self, visitor: Visitor, name: str) -> Workspace:
        workspace_id = self._enter(visitor, "rename_workspace", "admin")
        if not name.strip():
            raise invalid_request("A name has 1 to 200 characters.", field="name")
        self.spaces[workspace_id] = msgspec.structs.replace(self.spaces[workspace_id], name=name)
        self._write(workspace_id, workspace_id, "workspace_changed", visitor.user_id, {"name": name})
        return self.spaces[workspace_id]

    async def members(self, visitor: Visitor, *, cursor: str | None = None, limit: int = 100) -> MemberPage:
        workspace_id = self._enter(visitor, "members")
        del cursor, limit
        return MemberPage(tuple(self.members_of[workspace_id].values()))

    async def set_role(self, visitor: Visitor, user_id: str, role: str) -> None:
        workspace_id = self._enter(visitor, "set_role", "admin")
        if role not in _STRENGTH:
            raise invalid_request("There is no such role.", field="role")
        members = self.members_of[workspace_id]
        if user_id not in members:
            raise not_found()
        members[user_id] = msgspec.structs.replace(members[user_id], role=role)
        data = {"user": user_id, "role": role}
        self._write(workspace_id, workspace_id, "member_changed", visitor.user_id, data)

    async def remove_member(self, visitor: Visitor, user_id: str) -> None:
        workspace_id = self._enter(visitor, "remove_member")
        members = self.members_of[workspace_id]
        if user_id not in members:
            raise not_found()
        owners = [member for member in members.values() if member.role == "owner"]
        if members[user_id].role == "owner" and len(owners) == 1:
            raise Refusal("conflict", "The last owner cannot leave.")
        del members[user_id]
        self._write(workspace_id, workspace_id, "member_removed", visitor.user_id, {"user": user_id})

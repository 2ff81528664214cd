"""One workspace: what may happen to it, and what it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, assert_never

import msgspec
from msgspec import UNSET, Struct, UnsetType

from keyledger.errors import conflict, not_found, precondition_failed
from keyledger.events import (
    MemberAdded,
    MemberChanged,
    MemberEvent,
    Quota,
    RateLimit,
    WorkspaceChanged,
    WorkspaceCreated,
    WorkspaceDeleted,
    WorkspaceEvent,
    WorkspaceText,
)
from services.keys.domain import limits, values
from services.keys.domain.key import Context
from services.keys.domain.principal import WORKSPACE_WRITE, Principal
from services.keys.domain.roles import OWNER, Member

DEFAULT_RATE_LIMIT = RateLimit(limit=1000, window_seconds=60)


class Workspace(Struct, frozen=True, omit_defaults=True):
    """The state of one workspace. Suspension stops verification, not management.

    A deleted one has no state that is kept: the log alone knows that it was.
    """

    id: str
    name: str
    rate_limit: RateLimit
    created_at: int
    version: int
    suspended: bool = False
    system: bool = False
    deleted: bool = False
    quota: Quota | None = None
    members: dict[str, Member] = {}


class CreateWorkspace(Struct, frozen=True):
    """Make a workspace: an operator, with a limit if one is given; or a user, who becomes its owner."""

    by: Principal
    name: str
    rate_limit: RateLimit | None = None
    system: bool = False


class ChangeWorkspace(Struct, frozen=True):
    """Change some fields; what is UNSET stays."""

    by: Principal
    if_match: int | None = None
    name: str | UnsetType = UNSET
    rate_limit: RateLimit | UnsetType = UNSET
    suspended: bool | UnsetType = UNSET
    quota: Quota | None | UnsetType = UNSET


class DeleteWorkspace(Struct, frozen=True):
    """Forget the workspace with all its keys, for ever; only operators do."""

    by: Principal
    if_match: int | None = None


WorkspaceCommand: TypeAlias = CreateWorkspace | ChangeWorkspace | DeleteWorkspace


def decide(
    command: WorkspaceCommand, workspace: Workspace | None, *, now: int
) -> Sequence[WorkspaceEvent | MemberEvent]:
    """The events this command causes at `now` (µs). Raises `Refusal`."""
    match command:
        case CreateWorkspace():
            return _create(command)
        case ChangeWorkspace():
            return _change(command, _existing(workspace), now)
        case DeleteWorkspace():
            return [_delete(command, _existing(workspace))]
        case _:
            assert_never(command)


def _create(command: CreateWorkspace) -> list[WorkspaceEvent | MemberEvent]:
    by = command.by
    if not by.person:
        by.need_admin()
    if command.rate_limit is not None:
        by.need_admin("rate_limit")
    created = WorkspaceCreated(
        rate_limit=values.rate_limit(command.rate_limit or DEFAULT_RATE_LIMIT),
        system=command.system,
        private=WorkspaceText(values.name(command.name)),
    )
    return [created, MemberAdded(by.actor, OWNER)] if by.person else [created]


def _existing(workspace: Workspace | None) -> Workspace:
    if workspace is None or workspace.deleted:
        raise not_found()
    return workspace


def _delete(command: DeleteWorkspace, workspace: Workspace) -> WorkspaceDeleted:
    command.by.need_admin()
    if command.if_match is not None and command.if_match != workspace.version:
        raise precondition_failed(workspace.version)
    if workspace.system:
        raise conflict("The system workspace holds the operators' own keys and cannot be deleted.")
    return WorkspaceDeleted()


def _change(command: ChangeWorkspace, workspace: Workspace, now: int) -> list[WorkspaceEvent]:
    for field in ("rate_limit", "suspended", "quota"):
        if getattr(command, field) is not UNSET:
            command.by.need_admin(field)
    command.by.need(WORKSPACE_WRITE)
    if command.name is not UNSET:
        values.name(command.name)
    if command.rate_limit is not UNSET:
        values.rate_limit(command.rate_limit)
    if isinstance(command.quota, Quota):
        values.quota(command.quota)
    if command.if_match is not None and command.if_match != workspace.version:
        raise precondition_failed(workspace.version)
    wanted = msgspec.structs.replace(
        command,
        rate_limit=limits.changed(command.rate_limit, workspace.rate_limit, now),
        quota=limits.changed_quota(command.quota, workspace.quota, now),
    )
    new = {
        field: value
        for field in ("name", "rate_limit", "suspended", "quota")
        if (value := getattr(wanted, field)) is not UNSET and value != getattr(workspace, field)
    }
    if not new:
        return []
    text = WorkspaceText(new.pop("name")) if "name" in new else None
    return [WorkspaceChanged(**new, private=text)]


def evolve(workspace: Workspace | None, event: WorkspaceEvent | MemberEvent, context: Context) -> Workspace:
    """Fold one recorded event into the state. Never refuses: the past happened."""
    if isinstance(event, MemberEvent):
        assert workspace is not None, "a workspace's first event is workspace_created"  # noqa: S101
        version = workspace.version + 1
        members = _members(workspace.members, event, context, version)
        return msgspec.structs.replace(workspace, version=version, members=members)
    if isinstance(event, WorkspaceDeleted):
        assert workspace is not None, "what is deleted was there"  # noqa: S101
        return msgspec.structs.replace(
            workspace, version=workspace.version + 1, name="", members={}, deleted=True
        )
    text = event.private if isinstance(event.private, WorkspaceText) else WorkspaceText()
    if isinstance(event, WorkspaceCreated):
        return Workspace(
            id=context.stream_id,
            name="" if text.name is UNSET else text.name,
            rate_limit=event.rate_limit,
            created_at=context.at,
            version=1,
            system=event.system,
            quota=event.quota,
        )
    assert workspace is not None, "a workspace's first event is workspace_created"  # noqa: S101
    return msgspec.structs.replace(
        workspace,
        version=workspace.version + 1,
        name=workspace.name if text.name is UNSET else text.name,
        rate_limit=workspace.rate_limit if event.rate_limit is UNSET else event.rate_limit,
        suspended=workspace.suspended if event.suspended is UNSET else event.suspended,
        quota=workspace.quota if event.quota is UNSET else event.quota,
    )


def _members(
    members: Mapping[str, Member], event: MemberEvent, context: Context, version: int
) -> dict[str, Member]:
    after = dict(members)
    known = after.get(event.user)
    if isinstance(event, MemberAdded):
        after[event.user] = Member(event.role, context.at, context.actor, version)
    elif isinstance(event, MemberChanged):
        if known is not None:
            after[event.user] = msgspec.structs.replace(known, role=event.role)
    else:
        after.pop(event.user, None)
    return after

"""Who belongs to a workspace: decided on its own state, so that of two who act at once one is first.

A role is granted, changed and taken away only by who has at least that role. Whoever is the last owner stays
one: somebody must be able to name others.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

from msgspec import Struct

from keyledger.errors import (
    conflict,
    insufficient_permissions,
    invalid_request,
    not_found,
    precondition_failed,
)
from keyledger.events import MemberAdded, MemberChanged, MemberEvent, MemberRemoved
from services.keys.domain.principal import WORKSPACE_WRITE, Principal
from services.keys.domain.roles import ADMIN_ROLE, OWNER, ROLES, rank, scopes_of
from services.keys.domain.workspace import Workspace

MAX_MEMBERS = 1000


class PutMember(Struct, frozen=True):
    """Let this user (`user_…`) have this role, as a new member or instead of another role."""

    by: Principal
    user: str
    role: str
    if_match: int | None = None


class RemoveMember(Struct, frozen=True):
    """Let this user be a member no more; everyone may leave by themselves."""

    by: Principal
    user: str
    if_match: int | None = None


MemberCommand: TypeAlias = PutMember | RemoveMember


def decide(command: MemberCommand, workspace: Workspace | None) -> list[MemberEvent]:
    """The events this command causes, at most one. Raises `Refusal`."""
    if workspace is None or workspace.deleted:
        raise not_found()
    match command:
        case PutMember():
            return _put(command, workspace)
        case RemoveMember():
            return [_remove(command, workspace)]
        case _:
            assert_never(command)


def _put(command: PutMember, workspace: Workspace) -> list[MemberEvent]:
    acting = _acting(command.by, workspace)
    _need_to_manage(acting)
    if command.role not in ROLES:
        raise invalid_request(f"A role is one of {', '.join(ROLES)}.", field="role")
    _need_rank(acting, command.role, field="role")
    if not command.by.person:
        # a key could give a user of its holder's choice what it lacks itself
        command.by.covers(tuple(scopes_of(command.role)))
    known = workspace.members.get(command.user)
    if known is not None:
        _need_rank(acting, known.role)
    _match(command.if_match, workspace)
    if workspace.system:
        raise conflict("The system workspace holds the operators' own keys and has no members.")
    if known is None:
        if len(workspace.members) >= MAX_MEMBERS:
            raise conflict(f"A workspace has at most {MAX_MEMBERS} members.")
        return [MemberAdded(command.user, command.role)]
    if known.role == command.role:
        return []
    _keep_an_owner(workspace, command.user)
    return [MemberChanged(command.user, command.role)]


def _remove(command: RemoveMember, workspace: Workspace) -> MemberRemoved:
    acting = _acting(command.by, workspace)
    known = workspace.members.get(command.user)
    leaving = command.by.actor == command.user
    if not leaving:
        _need_to_manage(acting)
    if known is None:
        raise not_found()
    if not leaving:
        _need_rank(acting, known.role)
    _match(command.if_match, workspace)
    _keep_an_owner(workspace, command.user)
    return MemberRemoved(command.user)


def _acting(by: Principal, workspace: Workspace) -> str | None:
    """The role that the caller acts with, as the workspace's state has it now."""
    if by.admin:
        return OWNER
    if by.person:
        member = workspace.members.get(by.actor)
        if member is None:
            raise not_found()
        return member.role
    return ADMIN_ROLE if WORKSPACE_WRITE in by.scopes else None


def _need_to_manage(acting: str | None) -> None:
    if WORKSPACE_WRITE not in scopes_of(acting):
        raise insufficient_permissions(f"This needs the scope {WORKSPACE_WRITE}.")


def _need_rank(acting: str | None, role: str, *, field: str | None = None) -> None:
    if acting not in ROLES or rank(role) > rank(acting):
        raise insufficient_permissions(f"This needs the role {role}.", field=field)


def _match(if_match: int | None, workspace: Workspace) -> None:
    if if_match is not None and if_match != workspace.version:
        raise precondition_failed(workspace.version)


def _keep_an_owner(workspace: Workspace, user: str) -> None:
    owners = [name for name, member in workspace.members.items() if member.role == OWNER]
    if owners == [user]:
        raise conflict("The last owner stays one: make somebody else an owner first.")

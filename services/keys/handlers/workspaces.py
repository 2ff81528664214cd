"""What can be done with workspaces and their members, each as one plan for the writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from keyledger.events import Event
from keyledger.server.ids import new_id
from services.keys.domain import membership, workspace
from services.keys.domain.membership import PutMember, RemoveMember
from services.keys.domain.workspace import (
    ChangeWorkspace,
    CreateWorkspace,
    DeleteWorkspace,
    Workspace,
    WorkspaceCommand,
    evolve,
)
from services.keys.handlers.keys import Asked
from services.keys.handlers.writing import Plan, Writer, Written


class Workspaces:
    """Runs the commands on workspaces. `on_deleted` is called after a deletion, to have the rest erased."""

    def __init__(self, writer: Writer, *, on_deleted: Callable[[], None] = lambda: None) -> None:
        self._writer = writer
        self._on_deleted = on_deleted

    async def create(self, asked: Asked, command: CreateWorkspace) -> Written[Workspace]:
        """A new workspace; `asked.workspace_id` is not looked at."""
        return await self._run(asked, new_id("ws"), command)

    async def change(self, asked: Asked, command: ChangeWorkspace) -> Written[Workspace]:
        """The workspace with some fields changed."""
        return await self._run(asked, asked.workspace_id, command)

    async def delete(self, asked: Asked, command: DeleteWorkspace) -> Written[Workspace]:
        """The workspace as it was last; what was kept of it is being erased."""
        done = await self._run(asked, asked.workspace_id, command)
        self._on_deleted()
        return done

    async def put_member(self, asked: Asked, command: PutMember) -> Written[Workspace]:
        """The workspace, in which the user has this role."""
        return await self._run(asked, asked.workspace_id, command)

    async def remove_member(self, asked: Asked, command: RemoveMember) -> Written[Workspace]:
        """The workspace without this member."""
        return await self._run(asked, asked.workspace_id, command)

    async def _run(
        self, asked: Asked, workspace_id: str, command: WorkspaceCommand | PutMember | RemoveMember
    ) -> Written[Workspace]:
        return await self._writer.run(
            Plan(
                stream_id=workspace_id,
                kind="workspace",
                workspace_id=workspace_id,
                actor=asked.by.actor,
                request_id=asked.request_id,
                state=Workspace,
                decide=lambda state, now: _decide(command, state, now),
                evolve=evolve,
                idempotency=asked.idempotency,
            )
        )


def _decide(
    command: WorkspaceCommand | PutMember | RemoveMember, state: Workspace | None, now: int
) -> Sequence[Event]:
    if isinstance(command, PutMember | RemoveMember):
        return membership.decide(command, state)
    return workspace.decide(command, state, now=now)

"""The dashboard's pages on in-memory ports, with a visitor put where the guard would put one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import httpx2
import msgspec
from litestar import Litestar
from litestar.types import ASGIApp, Receive, Scope, Send

from keyledger.errors import Refusal, conflict, not_found
from keyledger.token import Secret
from services.dashboard.backend import NewKey
from services.dashboard.domain.visitor import Visitor
from services.dashboard.ports import Invitation, Person
from services.dashboard.routes.pages_registry import page_handlers
from services.dashboard.routes.rendering import environment
from services.dashboard.routes.showing import Places
from services.dashboard.routes.static import Assets
from tests.support.dashboard_backend import MemoryBackend, made_id

ADA, BOB, EVE = (made_id("user", number) for number in (1, 2, 3))
ACME = made_id("ws", 1)
FORM = {"content-type": "application/x-www-form-urlencoded"}
PART = {"hx-request": "true", **FORM}


class MemoryAccounts:
    """People and invitations."""

    def __init__(self) -> None:
        self.known = {
            ADA: Person(ADA, "Ada Lovelace", "ada@example.com"),
            BOB: Person(BOB, "Bob <b>Builder</b>", "bob@example.com"),
        }
        self.open: list[Invitation] = []
        self.erased: list[str] = []
        self.keeps = ""
        """Why nobody may go; empty when they may."""
        self.refuses: Refusal | None = None
        """Why nobody sees the invitations."""

    async def people(self, user_ids: Sequence[str]) -> Mapping[str, Person]:
        return {user_id: self.known[user_id] for user_id in user_ids if user_id in self.known}

    async def invite(self, visitor: Visitor, role: str, note: str = "") -> tuple[Invitation, Secret]:
        number = len(self.open) + 1
        made = Invitation(
            made_id("inv", number), visitor.workspace_id or "", role, visitor.user_id, note, 0, 10**15
        )
        self.open.append(made)
        return made, Secret(f"https://keys.example.com/invitations/secret-{number}")

    async def invitations(self, visitor: Visitor) -> Sequence[Invitation]:
        if self.refuses is not None:
            raise self.refuses
        return [each for each in self.open if each.workspace_id == visitor.workspace_id]

    async def withdraw(self, visitor: Visitor, invitation_id: str) -> None:
        left = [each for each in self.open if each.id != invitation_id]
        if len(left) == len(self.open):
            raise not_found()
        self.open = left

    async def erase(self, visitor: Visitor) -> None:
        if self.keeps:
            raise conflict(self.keeps)
        self.erased.append(visitor.user_id)


class TickingBackend:
    """A clock that stands at the backend's moment."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend

    def now(self) -> int:
        return int(self._backend.now.timestamp() * 1_000_000)

    def steady(self) -> float:
        return self._backend.now.timestamp()


class _PlainAssets:
    def url(self, name: str) -> str:
        return f"/static/{name}"


class Pages:
    """What a test holds: the ports, who looks, and a browser without a memory."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self.accounts = MemoryAccounts()
        self.backend.space(1, "Acme & Co", ADA)
        self.visitor = Visitor(
            ADA, "Ada Lovelace", "ada@example.com", ACME, "owner", "ses_1", Secret("j"), 600
        )
        self.app = self._app()

    def _app(self) -> Litestar:
        pages = page_handlers(
            self.backend,
            self.accounts,
            TickingBackend(self.backend),
            Places("http://127.0.0.1:8401", "http://127.0.0.1:8402"),
        )

        def visited(app: ASGIApp) -> ASGIApp:
            async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
                state: dict[str, Any] = cast("Any", scope).setdefault("state", {})
                state |= {"visitor": self.visitor, "request_id": "req_test"}
                await app(scope, receive, send)

            return guarded

        app = Litestar(pages, middleware=[visited], openapi_config=None, logging_config=None)
        app.state["templates"] = environment(cast("Assets", _PlainAssets()))
        return app

    def sees_as(self, user_id: str, role: str) -> None:
        """Look as somebody else, who is a member in this role."""
        members = self.backend.members_of[ACME]
        members[user_id] = msgspec.structs.replace(members[ADA], user=user_id, role=role)
        self.visitor = msgspec.structs.replace(self.visitor, user_id=user_id, role=role)

    async def key(self, name: str = "billing", **more: Any) -> str:
        """Make a key, answer its id."""
        new = NewKey(name=name, environment=more.pop("environment", "live"), **more)
        made = await self.backend.create_key(self.visitor, new, once=f"once-{name}-{self.backend.now}")
        return made.id

    def later(self, **more: float) -> None:
        """Let time pass."""
        self.backend.now += timedelta(**more)

    @asynccontextmanager
    async def browser(self) -> AsyncGenerator[httpx2.AsyncClient]:
        """A client of the pages."""
        transport = httpx2.ASGITransport(app=cast("Any", self.app))
        async with httpx2.AsyncClient(transport=transport, base_url="http://dashboard") as client:
            yield client

"""One key: its page with history and time travel, and what can be done to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from keyledger.client.records import EventPage, Key
from keyledger.errors import Refusal, conflict, not_found
from keyledger.server.problems import status_of
from services.dashboard.backend import AsOf
from services.dashboard.domain.visitor import Visitor
from services.dashboard.pages import words
from services.dashboard.pages.forms import Form, when
from services.dashboard.pages.history import Entry, entry
from services.dashboard.pages.keys import differences, view
from services.dashboard.pages.moments import Moment, iso, maybe, moment
from services.dashboard.routes.guard import visitor as visitor_of
from services.dashboard.routes.rendering import page
from services.dashboard.routes.showing import Http, Showing, as_of_of, key_id_of, new_once

HOME = "/settings/api-keys"
HISTORY = 50
OVERLAPS = {
    "0": "at once",
    "3600": "in an hour",
    "86400": "in a day",
    "604800": "in a week",
    "2592000": "in 30 days",
}
REASONS = (
    "No longer needed",
    "Leaked or exposed",
    "Replaced by another key",
    "Its owner has left",
    "Another",
)


class Then(Struct, frozen=True):
    """Where a page looks back to: a moment, or an entry of the log."""

    at: Moment | None
    position: int | None


class LastUse(Struct, frozen=True):
    """When the key was last used; `at` is None for one that never was."""

    at: Moment | None


def handlers(showing: Showing) -> list[HTTPRouteHandler]:
    """The addresses that show a key."""

    async def past(visitor: Visitor, key_id: str, as_of: AsOf | None) -> Key | None:
        if as_of is None:
            return None
        try:
            return await showing.backend.key(visitor, key_id, as_of=as_of)
        except Refusal as refusal:
            if refusal.code != "not_found":
                raise
            # the key itself was asked for beside this and is there
            raise conflict("The key did not exist yet at that time.") from None

    async def events(visitor: Visitor, key_id: str) -> EventPage | None:
        try:
            return await showing.backend.events(visitor, key_id, limit=HISTORY)
        except Refusal:
            return None

    async def last_use(visitor: Visitor, key_id: str) -> LastUse | None:
        try:
            used = await showing.backend.last_used(visitor, [key_id])
        except Refusal:
            return None
        return LastUse(maybe(used.get(key_id)))

    async def told(visitor: Visitor, found: EventPage | None) -> Sequence[Entry] | None:
        if found is None:
            return None
        names = await showing.names(visitor, _ids(found))
        return [entry(event, names) for event in found.events]

    async def travelled(
        request: Http, visitor: Visitor, key_id: str
    ) -> tuple[AsOf | None, Key | None, Form, int]:
        """Where to, the key as it was there, the form to go by and the status; no way there is said in it."""
        try:
            as_of = as_of_of(request)
            return as_of, await past(visitor, key_id, as_of), Form({}), 200
        except Refusal as refusal:
            if refusal.code not in ("conflict", "invalid_request"):
                raise
            return None, None, Form({}, errors={"as_of": refusal.message}), status_of(refusal)

    async def shown(request: Http, key: str, opened: str = "") -> Response[str]:
        visitor, key_id = visitor_of(request), key_id_of(key)
        frame, now, found, used = await asyncio.gather(
            showing.frame(visitor, "keys"),
            showing.backend.key(visitor, key_id),
            events(visitor, key_id),
            last_use(visitor, key_id),
        )
        showing.remember(visitor, [(now.id, now.name)])
        as_of, then, travel, status = await travelled(request, visitor, key_id)
        names = await showing.names(visitor, [now.created_by])
        present = view(now, names)
        key_view = present if then is None else view(then, names)
        changed = () if then is None else differences(key_view, present)
        return page(
            request,
            "key.html",
            status=status,
            frame=frame,
            key=key_view,
            then=None if as_of is None else _then(as_of),
            travel=travel,
            asked=_asked(request),
            differences=changed,
            changed={each.label: each.now for each in changed},
            history=await told(visitor, found),
            older_href=_older(key_id, found),
            last_used=None if then is not None else used,
            statuses=words.STATUSES,
            may_write=words.may_write_keys(visitor.role),
            opened=opened,
            form=Form({}),
            once_key=new_once(),
            overlaps=OVERLAPS,
            reasons=REASONS,
        )

    @get(f"{HOME}/{{key:str}}", include_in_schema=False)
    async def show(request: Http, key: str) -> Response[str]:
        return await shown(request, key)

    @get(f"{HOME}/{{key:str}}/rotate", include_in_schema=False)
    async def ask_rotate(request: Http, key: str) -> Response[str]:
        return await shown(request, key, "rotate")

    @get(f"{HOME}/{{key:str}}/revoke", include_in_schema=False)
    async def ask_revoke(request: Http, key: str) -> Response[str]:
        return await shown(request, key, "revoke")

    @get(f"{HOME}/{{key:str}}/history", include_in_schema=False)
    async def older(request: Http, key: str) -> Response[str]:
        visitor, key_id = visitor_of(request), key_id_of(key)
        cursor = request.query_params.get("cursor") or None
        if cursor is None:
            raise not_found()
        found = await showing.backend.events(visitor, key_id, cursor=cursor, limit=HISTORY)
        now = await showing.backend.key(visitor, key_id)
        names = await showing.names(visitor, [now.created_by])
        history = await told(visitor, found)
        context: dict[str, Any] = {"key": view(now, names), "history": history, "then": None}
        return page(request, "key_history.html", **context, older_href=_older(key_id, found))

    return [show, ask_rotate, ask_revoke, older]


def _ids(found: EventPage) -> list[str]:
    ids = [event.actor for event in found.events]
    ids += [event.stream for event in found.events if event.stream]
    ids += [str(event.data["user"]) for event in found.events if "user" in event.data]
    return ids


def _older(key_id: str, found: EventPage | None) -> str | None:
    if found is None or found.next_cursor is None:
        return None
    return f"{HOME}/{key_id}/history?cursor={quote(found.next_cursor)}"


def _asked(request: Http) -> str:
    """The moment that was asked for, as the form has it again; an entry of the log is none."""
    asked = when(request.query_params.get("as_of", ""))
    return "" if asked is None else iso(asked)


def _then(as_of: AsOf) -> Then:
    return Then(moment(as_of), None) if isinstance(as_of, datetime) else Then(None, as_of)

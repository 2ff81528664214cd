"""Activity: the workspace's part of the log in words, newest first, and all of it to take away.

What is new is told to whoever has the list open, or a key's history.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from keyledger.client.records import EventPage, KeyEvent
from keyledger.errors import Refusal
from services.dashboard.domain.visitor import Visitor
from services.dashboard.pages.actors import Names
from services.dashboard.pages.forms import number
from services.dashboard.pages.history import Entry, entry, names_in
from services.dashboard.pages.moments import iso
from services.dashboard.pages.snippets import create_by_call
from services.dashboard.routes.guard import visitor as visitor_of
from services.dashboard.routes.rendering import page
from services.dashboard.routes.showing import Http, Showing, is_part, key_id_of

HOME = "/settings/activity"
KEY_HISTORY = "/settings/api-keys/{key:str}/history"
PAGE = 50
EXPORTED = 200
MAX_NAMED = 10_000
"""Names of keys that an export remembers from what it has told already."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = ("position", "at", "type", "actor", "actor_name", "about", "sentence", "request_id", "data")


def handlers(showing: Showing) -> list[HTTPRouteHandler]:
    """The addresses of the audit trail."""

    async def told(
        visitor: Visitor, events: Sequence[KeyEvent], before: Mapping[str, str] | None = None
    ) -> list[Entry]:
        """In words. Keys are called as these events call them, or those `before`; who else is asked for."""
        said = {**(before or {}), **names_in(events)}
        names = await showing.names(visitor, [id_ for id_ in _ids(events) if id_ not in said])
        known = Names(names.people, {**said, **names.keys})
        return [entry(event, known) for event in events]

    @get(HOME, include_in_schema=False)
    async def shown(request: Http) -> Response[str]:
        visitor, cursor = visitor_of(request), request.query_params.get("cursor") or None
        reading = showing.backend.events(visitor, cursor=cursor, limit=PAGE)
        if is_part(request):
            found = await reading
            entries = await told(visitor, found.events)
            return page(request, "entries.html", entries=entries, older_href=_older(found), fresh=False)
        frame, found = await asyncio.gather(showing.frame(visitor, "activity"), reading)
        return page(
            request,
            "activity.html",
            frame=frame,
            entries=await told(visitor, found.events),
            older_href=_older(found),
            fresh=False,
            newer_href=_newer(HOME, found.events),
            untouched=not found.next_cursor and not any(_of_key(event) for event in found.events),
            example=create_by_call(showing.places.keys_url, visitor.workspace_id or ""),
        )

    async def told_newer(request: Http, home: str, key_id: str | None) -> Response[Any]:
        """The entries after a position, above those that are shown; nothing while there are none."""
        visitor, after = visitor_of(request), number(request.query_params.get("after", "")) or 0
        try:
            found = await showing.backend.events(visitor, key_id, limit=PAGE)
        except Refusal as refusal:
            if refusal.code != "unavailable":
                raise
            return Response(None, status_code=204)
        events = [event for event in found.events if event.position > after]
        if not events:
            return Response(None, status_code=204)
        # more than a page of them is not put in: what is between them and the others would be missing
        entries = [] if len(events) == PAGE else await told(visitor, events)
        return page(
            request,
            "newer.html",
            entries=entries,
            newer_href=None if not entries else _newer(home, events),
            key=None if key_id is None else {"href": f"/settings/api-keys/{key_id}"},
        )

    @get(f"{HOME}/newer", include_in_schema=False)
    async def newer(request: Http) -> Response[Any]:
        return await told_newer(request, HOME, None)

    @get(f"{KEY_HISTORY}/newer", include_in_schema=False)
    async def newer_of_key(request: Http, key: str) -> Response[Any]:
        key_id = key_id_of(key)
        return await told_newer(request, f"/settings/api-keys/{key_id}/history", key_id)

    async def exported(
        request: Http, name: str, media_type: str, write: Callable[[KeyEvent, Entry], str], head: str
    ) -> Stream:
        visitor = visitor_of(request)
        # the first page is read before the answer begins, so that a refusal still has its status
        first = await showing.backend.events(visitor, newest=False, limit=EXPORTED)

        async def lines() -> AsyncGenerator[str]:
            yield head
            found, named = first, dict[str, str]()
            while True:
                for event, words in zip(found.events, await told(visitor, found.events, named), strict=True):
                    yield write(event, words)
                if found.next_cursor is None:
                    return
                named.update(names_in(found.events))
                for id_ in list(named)[:-MAX_NAMED]:
                    del named[id_]
                found = await showing.backend.events(
                    visitor, newest=False, cursor=found.next_cursor, limit=EXPORTED
                )

        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Stream(lines(), status_code=200, media_type=media_type, headers=headers)

    @get(f"{HOME}/export.jsonl", include_in_schema=False)
    async def json_lines(request: Http) -> Stream:
        return await exported(request, "activity.jsonl", "application/x-ndjson", _json, "")

    @get(f"{HOME}/export.csv", include_in_schema=False)
    async def comma_separated(request: Http) -> Stream:
        return await exported(request, "activity.csv", "text/csv", _csv, _line(COLUMNS))

    return [shown, newer, newer_of_key, json_lines, comma_separated]


def _of_key(event: KeyEvent) -> bool:
    return (event.stream or "").startswith("key_")


def _newer(home: str, events: Sequence[KeyEvent]) -> str:
    """Where what comes after these, newest first, is told."""
    return f"{home}/newer?after={events[0].position if events else 0}"


def _ids(events: Sequence[KeyEvent]) -> list[str]:
    ids: list[str] = []
    for event in events:
        ids += [event.actor, event.stream or "", str(event.data.get("user", ""))]
    return ids


def _older(found: EventPage) -> str | None:
    return None if found.next_cursor is None else f"{HOME}?cursor={quote(found.next_cursor)}"


def _fields(event: KeyEvent, words: Entry) -> tuple[object, ...]:
    return (
        event.position, iso(event.at), event.type, event.actor, words.actor.label, event.stream or "",
        words.sentence, event.request_id,
    )  # fmt: skip


def _json(event: KeyEvent, words: Entry) -> str:
    told = dict(zip(COLUMNS[:-1], _fields(event, words), strict=True))
    return msgspec.json.encode({**told, "data": event.data}).decode() + "\n"


def _csv(event: KeyEvent, words: Entry) -> str:
    return _line((*_fields(event, words), msgspec.json.encode(event.data).decode()))


def _line(values: tuple[object, ...]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow([_cell(value) for value in values])
    return text.getvalue()


def _cell(value: object) -> object:
    # a spreadsheet would run what begins like a formula, and names were typed by somebody
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

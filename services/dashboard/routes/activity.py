"""Activity: the workspace's part of the log in words, newest first, and all of it to take away."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Callable
from urllib.parse import quote

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from keyledger.client.records import EventPage, KeyEvent
from keyledger.errors import Refusal
from services.dashboard.domain.visitor import Visitor
from services.dashboard.pages.forms import number
from services.dashboard.pages.history import Entry, entry
from services.dashboard.pages.moments import iso
from services.dashboard.pages.snippets import create_by_call
from services.dashboard.routes.guard import visitor as visitor_of
from services.dashboard.routes.rendering import page
from services.dashboard.routes.showing import Http, Showing, is_part

HOME = "/settings/activity"
PAGE = 50
EXPORTED = 200
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = ("position", "at", "type", "actor", "actor_name", "about", "sentence", "request_id", "data")


def handlers(showing: Showing) -> list[HTTPRouteHandler]:
    """The addresses of the audit trail."""

    async def told(visitor: Visitor, found: EventPage) -> list[Entry]:
        names = await showing.names(visitor, _ids(found))
        return [entry(event, names) for event in found.events]

    @get(HOME, include_in_schema=False)
    async def shown(request: Http) -> Response[str]:
        visitor, cursor = visitor_of(request), request.query_params.get("cursor") or None
        reading = showing.backend.events(visitor, cursor=cursor, limit=PAGE)
        if is_part(request):
            found = await reading
            return page(request, "entries.html", entries=await told(visitor, found), older_href=_older(found))
        frame, found = await asyncio.gather(showing.frame(visitor, "activity"), reading)
        return page(
            request,
            "activity.html",
            frame=frame,
            entries=await told(visitor, found),
            older_href=_older(found),
            example=create_by_call(showing.places.keys_url, visitor.workspace_id or ""),
        )

    @get(f"{HOME}/newer", include_in_schema=False)
    async def newer(request: Http) -> Response[str]:
        visitor, after = visitor_of(request), number(request.query_params.get("after", "")) or 0
        try:
            found = await showing.backend.events(visitor, limit=PAGE)
        except Refusal:
            return Response("", status_code=204)
        count = sum(event.position > after for event in found.events)
        return page(request, "newer.html", count=count, many=count == PAGE)

    async def exported(
        request: Http, name: str, media_type: str, write: Callable[[KeyEvent, Entry], str], head: str
    ) -> Stream:
        visitor = visitor_of(request)
        # the first page is read before the answer begins, so that a refusal still has its status
        first = await showing.backend.events(visitor, newest=False, limit=EXPORTED)

        async def lines() -> AsyncGenerator[str]:
            yield head
            found = first
            while True:
                for event, words in zip(found.events, await told(visitor, found), strict=True):
                    yield write(event, words)
                if found.next_cursor is None:
                    return
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
        return await exported(request, "activity.csv", "text/csv; charset=utf-8", _csv, _line(COLUMNS))

    return [shown, newer, json_lines, comma_separated]


def _ids(found: EventPage) -> list[str]:
    ids: list[str] = []
    for event in found.events:
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

"""Settings > API Keys: the list, and creating a key."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from keyledger.client.records import Key
from keyledger.errors import Refusal
from keyledger.token import is_id
from services.dashboard.backend import KeyFilter
from services.dashboard.domain.visitor import Visitor
from services.dashboard.pages import forms, words
from services.dashboard.pages.keys import KeyView, view
from services.dashboard.pages.moments import maybe, per_window
from services.dashboard.pages.snippets import ask_the_gateway, verify
from services.dashboard.routes.guard import visitor as visitor_of
from services.dashboard.routes.refusing import UNPROCESSED, sent_back
from services.dashboard.routes.rendering import page
from services.dashboard.routes.showing import Http, Showing, form_of, is_part, new_once, once_of

PAGE = 50
MAX_LIVE = 200
HOME = "/settings/api-keys"


def handlers(showing: Showing) -> list[HTTPRouteHandler]:
    """The addresses of the list and of creating."""

    async def seen(visitor: Visitor, keys: Sequence[Key]) -> tuple[list[KeyView], bool]:
        """The keys with names and last uses, and whether the last uses are known."""
        used, names = await asyncio.gather(
            last_used(visitor, [key.id for key in keys]),
            showing.names(visitor, [key.created_by for key in keys]),
        )
        showing.remember(visitor, [(key.id, key.name) for key in keys])
        return [view(key, names, (used or {}).get(key.id)) for key in keys], used is not None

    async def last_used(visitor: Visitor, ids: Sequence[str]) -> Mapping[str, datetime | None] | None:
        """None when nobody can say: keys are shown without, then."""
        if not ids:
            return {}
        try:
            return await showing.backend.last_used(visitor, ids)
        except Refusal:
            return None

    @get("/", include_in_schema=False)
    async def front(request: Http) -> Response[str]:
        visitor_of(request)
        return Response("", status_code=303, headers={"location": HOME})

    @get(HOME, include_in_schema=False)
    async def key_list(request: Http) -> Response[str]:
        visitor = visitor_of(request)
        which, cursor = _filter(request), request.query_params.get("cursor") or None
        part = is_part(request)
        frame_wanted = None if part else showing.frame(visitor, "keys")
        reading = showing.backend.keys(visitor, which, cursor=cursor, limit=PAGE)
        frame, found = await asyncio.gather(_nothing() if frame_wanted is None else frame_wanted, reading)
        rows, used_known = await seen(visitor, found.keys)
        more_of = "more" in request.query_params
        template = "keys.html" if not part else "key_rows.html" if more_of else "key_list.html"
        headers = {} if not part or more_of else {"HX-Push-Url": _address(which)}
        return page(
            request,
            template,
            headers=headers,
            frame=frame,
            rows=rows,
            used_known=used_known,
            which=which,
            more_of=more_of,
            next_href=_address(which, found.next_cursor) if found.next_cursor else None,
            statuses=words.STATUSES,
            may_write=words.may_write_keys(visitor.role),
            example=ask_the_gateway(showing.places.verifier_url),
        )

    @get(f"{HOME}/last-used", include_in_schema=False)
    async def last_uses(request: Http) -> Response[str]:
        visitor = visitor_of(request)
        asked = request.query_params.get("keys", "").split(",")[:MAX_LIVE]
        ids = [each for each in dict.fromkeys(asked) if is_id(each, "key")]
        found = await last_used(visitor, ids)
        if not found:
            return Response("", status_code=204)
        told = {key_id: maybe(at) for key_id, at in found.items()}
        return page(request, "last_used.html", last_used=told)

    @get(f"{HOME}/new", include_in_schema=False)
    async def new_key(request: Http) -> Response[str]:
        visitor = visitor_of(request)
        frame = await showing.frame(visitor, "keys")
        return await making(request, visitor, forms.Form({}), "key_new.html", frame=frame)

    async def making(
        request: Http, visitor: Visitor, form: forms.Form, template: str, status: int = 200, **more: Any
    ) -> Response[str]:
        workspace = await showing.backend.workspace(visitor)
        limit = workspace.rate_limit
        return page(
            request,
            template,
            status=status,
            form=form,
            once_key=new_once(),
            expiries=forms.EXPIRIES,
            windows=forms.WINDOWS,
            current_expiry=None,
            management=words.grantable_scopes(visitor.role),
            workspace_limit=per_window(limit.limit, limit.window_seconds),
            **more,
        )

    @post(HOME, include_in_schema=False)
    async def create_key(request: Http) -> Response[str]:
        visitor = visitor_of(request)
        form = await form_of(request)
        try:
            wanted = forms.new_key(form, now=showing.now())
            made = await showing.backend.create_key(visitor, wanted, once=once_of(form))
        except forms.FormRefused as error:
            refused = form.refused(error.errors)
            return await making(request, visitor, refused, "key_form.html", UNPROCESSED)
        except Refusal as refusal:
            refused = sent_back(refusal, form, forms.KEY_INPUTS)
            return await making(request, visitor, refused, "key_form.html", UNPROCESSED)
        names = await showing.names(visitor, [made.created_by])
        token = made.key.reveal()
        return page(
            request,
            "key_created.html",
            secret=True,
            key=view(made, names),
            token=token,
            example=verify(showing.places.verifier_url, token),
        )

    return [front, key_list, last_uses, new_key, create_key]


async def _nothing() -> None:
    return None


def _filter(request: Http) -> KeyFilter:
    """What is asked for; a filter that there is none of is left out."""
    query = request.query_params
    environment, status = query.get("environment"), query.get("status")
    return KeyFilter(
        search=query.get("search", "").strip()[:200],
        environment=environment if environment in words.ENVIRONMENTS else None,
        status=status if status in words.STATUSES else None,
    )


def _address(which: KeyFilter, cursor: str | None = None) -> str:
    pairs = {
        "search": which.search,
        "environment": which.environment,
        "status": which.status,
        "cursor": cursor,
    }
    query = urlencode({name: value for name, value in pairs.items() if value})
    return f"{HOME}?{query}" if query else HOME

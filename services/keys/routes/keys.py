"""The addresses of keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from litestar import Response, get, patch, post
from litestar.handlers import HTTPRouteHandler

from keyledger.clock import Clock
from keyledger.errors import not_found
from keyledger.server.openapi import documented
from services.keys.domain.key import ChangeKey, CreateKey, Key, RevokeKey
from services.keys.domain.principal import KEYS_READ, KEYS_WRITE
from services.keys.domain.workspace import Workspace
from services.keys.handlers.keys import Keys
from services.keys.handlers.receipts import Receipts
from services.keys.handlers.time_travel import TimeTravel
from services.keys.handlers.writing import Written
from services.keys.ports import KeyFilter, States, Stored
from services.keys.routes import shapes, views
from services.keys.routes.asking import Asking, Http, answer, key_id
from services.keys.routes.cursors import Cursors


def key_routes(
    asking: Asking,
    keys: Keys,
    states: States,
    time_travel: TimeTravel,
    cursors: Cursors,
    receipts: Receipts,
    clock: Clock,
) -> Sequence[HTTPRouteHandler]:
    """Create, list, show, change, rotate and revoke."""

    async def workspace_of(ws: str) -> Workspace:
        stored, _ = await states.get(ws)
        if stored is None:
            raise not_found()
        return msgspec.json.decode(stored.body, type=Workspace)

    async def stored_key(ws: str, key: str) -> tuple[Stored, Any]:
        stored, head = await states.get(key_id(key))
        if stored is None or stored.workspace_id != ws:
            raise not_found()
        return stored, head

    def written(done: Written[Key]) -> dict[str, Any]:
        # as of the write and not of now, so that a repeated request is answered with the same words
        return {
            **views.key_fields(done.state, done.at),
            "position": done.position,
            "epoch": done.epoch.text,
        }

    async def list_then(
        ws: str, query: shapes.ListKeysQuery, as_of: str, *, since: int
    ) -> Response[views.KeyListView]:
        then = await time_travel.resolve(as_of)
        if then.position < since:
            raise not_found()
        bound = ("as of", str(then), ws, query.environment, query.status, query.external_id, query.search)
        wanted = KeyFilter(then.at, query.environment, query.status, query.external_id, query.search)
        found = await time_travel.keys(
            ws, wanted, then, before=cursors.read(query.cursor, *bound), limit=query.limit + 1
        )
        page = found[: query.limit]
        cursor = cursors.make(page[-1][0], *bound) if len(found) > query.limit else None
        listed = tuple(views.KeyView(**views.key_fields(key, then.at)) for _, key in page)
        return answer(views.KeyListView(listed, cursor), position=then.position)

    @post(
        "/v1/workspaces/{ws:str}/keys",
        summary="Create a key; the token is in this answer only",
        operation_class=documented(body=shapes.CreateKeyShape, headers=["Idempotency-Key"]),
    )
    async def create_key(request: Http, ws: str) -> Response[views.CreatedKeyView]:
        by = await asking.caller(request, ws)
        workspace = await workspace_of(ws)
        by.need(KEYS_WRITE)
        body = await asking.body(request, shapes.CreateKeyShape)
        asked = await asking.asked(request, by, ws)
        expires_at = shapes.moment(body.expires_at, "expires_at")
        done = await keys.create(
            asked,
            body.environment,
            lambda minted: CreateKey(
                by=by,
                system=workspace.system,
                name=body.name,
                environment=body.environment,
                secret=minted.recorded,
                proof=minted.proof,
                scopes=body.scopes,
                expires_at=cast("int | None", expires_at),
                allowed_ips=body.allowed_ips,
                rate_limit=None if body.rate_limit is None else body.rate_limit.wire(),
                external_id=body.external_id,
                metadata=body.metadata,
                quota=None if body.quota is None else body.quota.wire(),
            ),
        )
        view = views.CreatedKeyView(**written(done), key=done.token or "")
        return answer(view, status=201, version=done.state.version)

    @get(
        "/v1/workspaces/{ws:str}/keys",
        summary="List keys, newest first",
        operation_class=documented(query=shapes.ListKeysQuery),
    )
    async def list_keys(request: Http, ws: str) -> Response[views.KeyListView]:
        by = await asking.caller(request, ws)
        workspace, _ = await states.get(ws)
        if workspace is None:
            raise not_found()
        by.need(KEYS_READ)
        query = asking.query(request, shapes.ListKeysQuery)
        if query.as_of is not None:
            return await list_then(ws, query, query.as_of, since=workspace.created_position)
        bound = (ws, query.environment, query.status, query.external_id, query.search)
        now = clock.now()
        wanted = KeyFilter(now, query.environment, query.status, query.external_id, query.search)
        found, head = await states.keys(
            ws, wanted, before=cursors.read(query.cursor, *bound), limit=query.limit + 1
        )
        page = found[: query.limit]
        cursor = cursors.make(page[-1].created_position, *bound) if len(found) > query.limit else None
        listed = tuple(views.KeyView(**views.key_fields(_key(stored), now)) for stored in page)
        return answer(views.KeyListView(listed, cursor), position=head.position)

    @get(
        "/v1/workspaces/{ws:str}/keys/{key:str}",
        summary="Show a key",
        operation_class=documented(query=shapes.ShowKeyQuery),
    )
    async def show_key(request: Http, ws: str, key: str) -> Response[views.KeyView]:
        by = await asking.caller(request, ws)
        stored, head = await stored_key(ws, key)
        by.need(KEYS_READ)
        as_of = asking.query(request, shapes.ShowKeyQuery).as_of
        if as_of is None:
            view = views.KeyView(**views.key_fields(_key(stored), clock.now()))
            return answer(view, version=stored.version, position=head.position)
        then = await time_travel.resolve(as_of)
        past = await time_travel.key(ws, stored.stream_id, then)
        view = views.KeyView(**views.key_fields(past, then.at))
        return answer(view, version=past.version, position=then.position)

    @patch(
        "/v1/workspaces/{ws:str}/keys/{key:str}",
        summary="Change a key: absent keeps, null clears",
        operation_class=documented(body=shapes.ChangeKeyShape, headers=["If-Match"]),
    )
    async def change_key(request: Http, ws: str, key: str) -> Response[views.WrittenKeyView]:
        by = await asking.caller(request, ws)
        workspace = await workspace_of(ws)
        stored, _ = await stored_key(ws, key)
        by.need(KEYS_WRITE)
        by.covers(_key(stored).scopes)
        body = await asking.body(request, shapes.ChangeKeyShape)
        asked = await asking.asked(request, by, ws)
        limit = body.rate_limit
        command = ChangeKey(
            by=by,
            system=workspace.system,
            if_match=asked.if_match,
            name=body.name,
            scopes=body.scopes,
            expires_at=shapes.moment(body.expires_at, "expires_at"),
            allowed_ips=body.allowed_ips,
            rate_limit=limit.wire() if isinstance(limit, shapes.RateLimitShape) else limit,
            external_id=body.external_id,
            metadata=body.metadata,
            enabled=body.enabled,
            quota=body.quota.wire() if isinstance(body.quota, shapes.QuotaShape) else body.quota,
        )
        done = await keys.change(asked, stored.stream_id, command)
        return answer(views.WrittenKeyView(**written(done)), version=done.state.version)

    @post(
        "/v1/workspaces/{ws:str}/keys/{key:str}/rotate",
        summary="Give a key a new secret; the key keeps its id",
        operation_class=documented(
            body=shapes.RotateShape, headers=["Idempotency-Key", "If-Match"], body_required=False
        ),
    )
    async def rotate_key(request: Http, ws: str, key: str) -> Response[views.RotatedKeyView]:
        by = await asking.caller(request, ws)
        stored, _ = await stored_key(ws, key)
        by.need(KEYS_WRITE)
        by.covers(_key(stored).scopes)
        body = await asking.body(request, shapes.RotateShape)
        asked = await asking.asked(request, by, ws)
        done = await keys.rotate(
            asked, stored.stream_id, _key(stored).environment, body.overlap_seconds, body.retire
        )
        until = done.state.secrets[-2].valid_until or 0
        view = views.RotatedKeyView(
            **written(done), key=done.token or "", previous_valid_until=views.rfc3339(until)
        )
        return answer(view, status=201, version=done.state.version)

    @post(
        "/v1/workspaces/{ws:str}/keys/{key:str}/revoke",
        summary="End a key for ever; with wait, the answer tells who refuses it by now",
        operation_class=documented(
            body=shapes.RevokeShape, headers=["Idempotency-Key", "If-Match"], body_required=False
        ),
        status_code=200,
    )
    async def revoke_key(request: Http, ws: str, key: str) -> Response[views.RevokedKeyView]:
        by = await asking.caller(request, ws)
        stored, _ = await stored_key(ws, key)
        by.need(KEYS_WRITE)
        body = await asking.body(request, shapes.RevokeShape)
        asked = await asking.asked(request, by, ws)
        command = RevokeKey(by=by, reason=body.reason, note=body.note, if_match=asked.if_match)
        done = await keys.revoke(asked, stored.stream_id, command)
        receipt = None
        if body.wait is not None:
            collected = await receipts.collect(
                done.position, done.epoch.line, since=clock.steady(), wait=body.wait
            )
            receipt = views.receipt_view(collected)
        view = views.RevokedKeyView(**written(done), receipt=receipt)
        return answer(view, version=done.state.version)

    return [create_key, list_keys, show_key, change_key, rotate_key, revoke_key]


def _key(stored: Stored) -> Key:
    return msgspec.json.decode(stored.body, type=Key)

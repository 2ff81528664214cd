"""The addresses for followers and for the other services."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from keyledger.errors import invalid_request, not_found
from keyledger.events import Quota, RateLimit
from keyledger.server.openapi import documented
from keyledger.token import is_id
from keyledger.wire import Head, HeadQuestion
from services.keys.domain.principal import FEED_READ
from services.keys.domain.values import SYSTEM_SCOPES, WORKSPACE_SCOPES
from services.keys.ports import Feed, Snapshots, States, UseFeed
from services.keys.routes import shapes, views
from services.keys.routes.asking import Asking, Http, answer, key_id
from services.keys.routes.limit_views import limit_view, quota_view

_BINARY = "application/octet-stream"


def internal_routes(
    asking: Asking,
    states: States,
    feed: Feed,
    use_feed: UseFeed,
    snapshots: Snapshots,
    head_of: Callable[[HeadQuestion], Awaitable[Head]],
) -> Sequence[HTTPRouteHandler]:
    """Feeds, snapshot, head and authorization."""

    async def feed_query(request: Http) -> shapes.FeedQuery:
        by = await asking.caller(request)
        by.need(FEED_READ)
        return asking.query(request, shapes.FeedQuery)

    @get(
        "/v1/feed",
        summary="Key events after a position, length-prefixed binary",
        operation_class=documented(query=shapes.FeedQuery),
    )
    async def key_feed(request: Http) -> Response[bytes]:
        query = await feed_query(request)
        return Response(await feed.page(query.after, query.limit), media_type=_BINARY)

    @get(
        "/v1/feed/uses",
        summary="Recorded uses after a position, length-prefixed binary",
        operation_class=documented(query=shapes.FeedQuery),
    )
    async def uses(request: Http) -> Response[bytes]:
        query = await feed_query(request)
        return Response(await use_feed.uses(query.after, query.limit), media_type=_BINARY)

    @get(
        "/v1/snapshot",
        summary="The state of every key and workspace, page by page, length-prefixed binary",
        operation_class=documented(query=shapes.SnapshotQuery),
    )
    async def snapshot(request: Http) -> Response[bytes]:
        by = await asking.caller(request)
        by.need(FEED_READ)
        query = asking.query(request, shapes.SnapshotQuery)
        return Response(await snapshots.page(query.after, query.limit, query.since), media_type=_BINARY)

    @get(
        "/v1/head",
        summary="The head of the log, read after the question arrived",
        operation_class=documented(query=shapes.HeadQuery),
    )
    async def head(request: Http) -> Response[Any]:
        by = await asking.caller(request)
        by.need(FEED_READ)
        query = asking.query(request, shapes.HeadQuery)
        found = await head_of(_question(query))
        headers = {"x-keyledger-position": str(found.position)}
        if "application/msgpack" in request.headers.get("accept", ""):
            return Response(msgspec.msgpack.encode(found), media_type="application/msgpack", headers=headers)
        return Response(
            {
                "nonce": found.nonce,
                "epoch": {"number": found.epoch_number, "line": found.epoch_line.hex()},
                "position": found.position,
                "hash": found.hash.hex(),
                "writable": found.writable,
            },
            headers=headers,
        )

    @post(
        "/v1/authorize",
        summary="May the presented credential do this in that workspace",
        operation_class=documented(body=shapes.AuthorizeShape),
        status_code=200,
    )
    async def authorize(request: Http) -> Response[views.AuthorizedView]:
        by = await asking.caller(request)
        body = await asking.body(request, shapes.AuthorizeShape)
        if not is_id(body.workspace_id, "ws"):
            raise not_found()
        by.enter(body.workspace_id)
        stored, read_at = await states.get(body.workspace_id)
        if stored is None:
            raise not_found()
        if body.key_id is not None:
            stored, read_at = await states.get(key_id(body.key_id))
            if stored is None or stored.workspace_id != body.workspace_id:
                raise not_found()
        if body.scope not in WORKSPACE_SCOPES | SYSTEM_SCOPES:
            raise invalid_request("Only management scopes are asked for here.", field="scope")
        by.need(body.scope)
        scopes = tuple(sorted(by.scopes))
        may = views.AuthorizedView(by.actor, body.workspace_id, scopes)
        if body.limits:
            limited = msgspec.json.decode(stored.body, type=_Limited)
            may = msgspec.structs.replace(
                may,
                rate_limit=limit_view(limited.rate_limit),
                quota=quota_view(limited.quota),
            )
        return answer(may, position=read_at.position)

    return [key_feed, uses, snapshot, head, authorize]


class _Limited(Struct):
    """What workspaces' and keys' states have in common."""

    rate_limit: RateLimit | None = None
    quota: Quota | None = None


def _question(query: shapes.HeadQuery) -> HeadQuestion:
    if not query.question:
        return HeadQuestion(query.nonce, "")
    try:
        question = msgspec.msgpack.decode(bytes.fromhex(query.question), type=HeadQuestion)
    except (ValueError, msgspec.MsgspecError):
        raise invalid_request("Not what a follower asks.", field="question") from None
    return msgspec.structs.replace(question, nonce=query.nonce or question.nonce)

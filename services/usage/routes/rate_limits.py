"""The running cells of a workspace's or a key's limits, as the granter knows them."""

from __future__ import annotations

from litestar import Response, get
from msgspec import Struct

from keyledger.server.bodies import decode_query
from keyledger.server.openapi import documented
from services.usage.domain.cell import Cell, Part
from services.usage.handlers import Usage
from services.usage.ports import Limited
from services.usage.routes.asking import POSITION, Http, at_position, credential_of, pairs_of


class NoQuery(Struct, forbid_unknown_fields=True):
    """The query of an address that has no parameters."""


class QuotaBody(Struct):
    """As a rate limit's cell; `period` is day or month, UTC."""

    period: str
    limit: int
    admitted: int
    granted: int
    remaining: int
    reset: int
    verifiers: tuple[Part, ...]


class RateLimitBody(Struct):
    """The cell that runs now; null figures for a key without a limit of its own. `reset` is in unix seconds.

    `granted` is what verifiers may let in by now, `admitted` what they have told that they let in, a few
    seconds ago at most.
    """

    limit: int | None
    window_seconds: int | None
    admitted: int
    granted: int
    remaining: int | None
    reset: int | None
    verifiers: tuple[Part, ...]
    quota: QuotaBody | None


_CELL = documented(answered={POSITION: "The position of the log that the limits were read at."})


@get(
    "/v1/workspaces/{workspace_id:str}/rate-limit",
    summary="The current cell of a workspace's rate limit",
    operation_class=_CELL,
)
async def workspace_rate_limit(request: Http, workspace_id: str, usage: Usage) -> Response[RateLimitBody]:
    """What was admitted and granted in the cell that runs, and to which verifiers. 503 while nobody
    grants.
    """
    limited = await usage.admit(credential_of(request), workspace_id)
    decode_query(pairs_of(request), NoQuery)
    body = _body(*await usage.limits_of(workspace_id, limited))
    return Response(body, headers=_read_at(limited))


@get(
    "/v1/workspaces/{workspace_id:str}/keys/{key_id:str}/rate-limit",
    summary="The current cell of a key's own rate limit",
    operation_class=_CELL,
)
async def key_rate_limit(
    request: Http, workspace_id: str, key_id: str, usage: Usage
) -> Response[RateLimitBody]:
    """As of a workspace, for the limit that a key has besides."""
    limited = await usage.admit(credential_of(request), workspace_id, key_id)
    decode_query(pairs_of(request), NoQuery)
    body = _body(*await usage.limits_of(key_id, limited))
    return Response(body, headers=_read_at(limited))


def _read_at(limited: Limited) -> dict[str, str]:
    # a key service that does not tell it yet is no reason to answer nothing
    return {} if limited.position is None else at_position(limited.position)


def _body(limit: Cell | None, quota: Cell | None) -> RateLimitBody:
    told = None if quota is None else _quota(quota)
    if limit is None:
        return RateLimitBody(None, None, 0, 0, None, None, (), told)
    return RateLimitBody(
        limit.limit,
        int(limit.window),
        limit.admitted,
        limit.granted,
        limit.remaining,
        limit.reset,
        limit.verifiers,
        told,
    )


def _quota(cell: Cell) -> QuotaBody:
    return QuotaBody(
        str(cell.window),
        cell.limit,
        cell.admitted,
        cell.granted,
        cell.remaining,
        cell.reset,
        cell.verifiers,
    )

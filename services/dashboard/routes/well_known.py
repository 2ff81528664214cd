"""The keys that sign sessions, for whoever reads session tokens."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from services.dashboard.handlers.signing import Signer

PATH = "/.well-known/jwks.json"
MAX_AGE = 300
"""Seconds for which it may be kept; the next key is in it for much longer before it signs."""


def handlers() -> list[HTTPRouteHandler]:
    """The key set."""

    @get(PATH, opt={"open": True}, include_in_schema=False)
    async def key_set(request: Request[Any, Any, Any]) -> Response[bytes]:
        signer: Signer = request.app.state["signer"]
        headers = {"cache-control": f"public, max-age={MAX_AGE}"}
        return Response(signer.key_set(), headers=headers, media_type="application/jwk-set+json")

    return [key_set]

"""Pages from templates: one environment for all of them, every value escaped, an unknown name an error."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request, Response

from services.dashboard.routes.static import Assets

_SMALLEST = 1024
"""Bytes below which nothing is compressed."""
_OWN = frozenset({"same-origin", "none"})
TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


def environment(assets: Assets) -> Environment:
    """The templates' environment; `asset("app.css")` is the address of a built file."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    cast("dict[str, Any]", made.globals)["asset"] = assets.url
    return made


def page(
    request: Request[Any, Any, Any],
    template: str,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    secret: bool = False,
    **context: Any,
) -> Response[Any]:
    """A whole page or a part of one. Besides `context` a template has `visitor` (None on an open page).

    What has a `secret` in it is kept nowhere, and is not compressed: its length would tell of it (BREACH).
    Nor is what another site has asked for.
    """
    templates: Environment = request.app.state["templates"]
    known = request.scope["state"].get("visitor")
    text = templates.get_template(template).render(visitor=known, **context)
    told = {"vary": "accept-encoding, sec-fetch-site", **(headers or {})}
    if secret:
        told["cache-control"] = "no-store"
    content: str | bytes = text
    if not secret and len(text) >= _SMALLEST and _may_be_zipped(request):
        told["content-encoding"] = "gzip"
        content = gzip.compress(text.encode(), 6, mtime=0)
    return Response(content, status_code=status, headers=told, media_type="text/html")


def _may_be_zipped(request: Request[Any, Any, Any]) -> bool:
    asked = request.headers
    return "gzip" in asked.get("accept-encoding", "") and asked.get("sec-fetch-site") in _OWN

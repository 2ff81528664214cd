"""Pages from templates: one environment for all of them, every value escaped, an unknown name an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import Request, Response

from services.dashboard.routes.static import Assets

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
    **context: Any,
) -> Response[str]:
    """A whole page or a part of one. Besides `context` a template has `visitor` (None on an open page)."""
    templates: Environment = request.app.state["templates"]
    known = request.scope["state"].get("visitor")
    text = templates.get_template(template).render(visitor=known, **context)
    return Response(text, status_code=status, headers=headers, media_type="text/html")

"""What goes wrong outside the pages: told as a page to a browser, else in the contract's shape."""

from __future__ import annotations

from typing import Any

from litestar import Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from keyledger.errors import Refusal, unavailable
from keyledger.server import problems
from services.dashboard.ports import StoreUnavailable
from services.dashboard.routes import refusing
from services.dashboard.routes.guard import is_page
from services.dashboard.routes.showing import Http, is_part


def _told(request: Http, error: Exception) -> Response[Any]:
    if isinstance(error, StoreUnavailable):
        error = unavailable("unavailable", "The database does not answer just now.")
    kind = next(kind for kind in (Refusal, HTTPException, Exception) if isinstance(error, kind))
    shown = is_part(request) or is_page(request)
    handler: Any = (refusing if shown else problems).exception_handlers[kind]
    return handler(request, error)


exception_handlers: ExceptionHandlersMap = {
    StoreUnavailable: _told,
    Refusal: _told,
    HTTPException: _told,
    Exception: _told,
}
"""For the whole application; the pages bring their own."""

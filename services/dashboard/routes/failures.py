"""What goes wrong outside the pages: told as a page to a browser, else in the contract's shape."""

from __future__ import annotations

from typing import Any

from litestar import Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from keyledger.errors import Refusal, not_found, unavailable
from keyledger.server import problems
from services.dashboard.ports import StoreUnavailable
from services.dashboard.routes.guard import is_page
from services.dashboard.routes.refusing import refused
from services.dashboard.routes.showing import Http, is_part


def _told(request: Http, error: Exception) -> Response[Any]:
    if isinstance(error, StoreUnavailable):
        error = unavailable("unavailable", "The database does not answer just now.")
    if is_part(request) or is_page(request):
        if isinstance(error, Refusal):
            return refused(request, error)
        if isinstance(error, HTTPException) and error.status_code == 404:
            return refused(request, not_found())
    return _in_contract(request, error)


def _in_contract(request: Http, error: Exception) -> Response[Any]:
    kind = next(kind for kind in (Refusal, HTTPException, Exception) if isinstance(error, kind))
    handler: Any = problems.exception_handlers[kind]
    return handler(request, error)


exception_handlers: ExceptionHandlersMap = {
    StoreUnavailable: _told,
    Refusal: _told,
    HTTPException: _told,
    Exception: _told,
}
"""For the whole application; the pages bring their own."""

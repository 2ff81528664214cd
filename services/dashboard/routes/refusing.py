"""Refusals as people see them: a page of its own, or, when htmx asked for a part, a note above the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from litestar import Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from keyledger.errors import Refusal, not_found
from keyledger.server.problems import status_of
from services.dashboard.pages.forms import Form, errors_of
from services.dashboard.routes.rendering import page
from services.dashboard.routes.showing import Http, is_part

TITLES: Mapping[int, str] = {
    400: "That cannot be shown",
    403: "Your role does not cover that",
    404: "There is nothing here",
    405: "That cannot be done here",
    409: "That is not possible any more",
    413: "That is too much at once",
    429: "Too many requests",
    500: "Something went wrong on our side",
}
_MESSAGES: Mapping[int, str] = {
    404: "The page, key or workspace does not exist, or is not one of yours.",
    403: "Ask an admin of the workspace if you need it.",
    500: "It has been noted. Try again in a moment.",
}
CHANGED = "Somebody has changed it since you opened this. Reload the page to see what it is now."
_OF_CODES: Mapping[str, tuple[str, str]] = {
    "precondition_failed": ("It is not as you saw it any more.", CHANGED),
    "cross_site": (
        "That did not come from a page of this dashboard",
        "Nothing has changed. Open the dashboard at its own address, and try again there.",
    ),
}
"""What says more than the status does, and has nothing to do with what somebody may do."""
UNAVAILABLE = "Not available just now"
UNPROCESSED = 422
SIGNED_OUT = 401
_SIGN_IN = "/sign-in?over=1"
"""It leads on whoever seems to be signed in, but for those whom a service has refused."""
_log = structlog.get_logger("keyledger.http")


def refused(request: Http, refusal: Refusal, more: Mapping[str, str] = {}) -> Response[str]:
    """The refusal as a page or as a note; its status is the contract's."""
    status = status_of(refusal)
    if status == SIGNED_OUT:
        # the session was ended elsewhere: what the cookie says counts no more
        return _led_to_sign_in(request)
    by_status = (
        TITLES.get(status, UNAVAILABLE if status == 503 else "That was refused"),
        _MESSAGES.get(status, refusal.message),
    )
    title, message = _OF_CODES.get(refusal.code, by_status)
    said: dict[str, Any] = {
        "title": title,
        "message": message,
        "request_id": str(request.scope.get("state", {}).get("request_id", "")),
    }
    headers = {"cache-control": "no-store", **more}
    if refusal.retry_after is not None:
        headers["retry-after"] = str(refusal.retry_after)
    if is_part(request):
        aimed = {**headers, "HX-Retarget": "#problem", "HX-Reswap": "innerHTML"}
        return page(request, "problem.html", status=status, headers=aimed, **said)
    return page(request, "refused.html", status=status, headers=headers, **said, status_=status)


def _led_to_sign_in(request: Http) -> Response[str]:
    if is_part(request):
        return Response("", status_code=200, headers={"HX-Redirect": _SIGN_IN})
    return Response("", status_code=303, headers={"location": _SIGN_IN})


def sent_back(refusal: Refusal, form: Form, inputs: tuple[str, ...]) -> Form:
    """The form with the service's word beside its input; what is not about a form is raised again."""
    if status_of(refusal) in (SIGNED_OUT, 404):
        raise refusal
    if refusal.code == "precondition_failed":
        return form.refused({"": CHANGED})
    return form.refused(errors_of(refusal, inputs))


def _framework(request: Http, error: HTTPException) -> Response[str]:
    if error.status_code == 404:
        return refused(request, not_found())
    if error.status_code == 405:
        allowed = {name: value for name, value in (error.headers or {}).items() if name.lower() == "allow"}
        refusal = Refusal("method_not_allowed", "This address shows nothing, or takes no such change.")
        return refused(request, refusal, allowed)
    if error.status_code >= 500:
        return _defect(request, error)
    return refused(request, Refusal("invalid_request", "The request cannot be understood."))


def _defect(request: Http, error: Exception) -> Response[str]:
    # the type only: a message may quote what was typed
    _log.error(
        "internal_error",
        error=type(error).__name__,
        request_id=request.scope.get("state", {}).get("request_id"),
    )
    return refused(request, Refusal("internal_error", ""))


exception_handlers: ExceptionHandlersMap = {
    Refusal: refused,
    HTTPException: _framework,
    Exception: _defect,
}
"""What pages answer failures with."""

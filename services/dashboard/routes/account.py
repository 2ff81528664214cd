"""The account: who the dashboard takes somebody for, and the way to have that forgotten."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from keyledger.errors import Refusal
from services.dashboard.pages.forms import Form
from services.dashboard.routes import cookies
from services.dashboard.routes.guard import SIGN_IN
from services.dashboard.routes.guard import visitor as visitor_of
from services.dashboard.routes.refusing import UNPROCESSED
from services.dashboard.routes.rendering import page
from services.dashboard.routes.showing import Http, Showing, form_of

HOME = "/account"
WORD = "erase"
"""What is typed to confirm."""
_OPTIONAL = {"workspace": "optional"}


def handlers(showing: Showing) -> list[HTTPRouteHandler]:
    """The addresses of the account; they belong to no workspace."""

    @get(HOME, opt=_OPTIONAL, include_in_schema=False)
    async def shown(request: Http) -> Response[str]:
        return page(request, "account.html", form=Form({}), word=WORD)

    @post(f"{HOME}/erase", opt=_OPTIONAL, include_in_schema=False)
    async def erase(request: Http) -> Response[Any]:
        form = await form_of(request)
        if form.get("confirm").strip().lower() != WORD:
            wrong = form.refused({"confirm": "That is not the word, so nothing was erased."})
            return page(request, "erase_form.html", status=UNPROCESSED, form=wrong, word=WORD)
        try:
            await showing.accounts.erase(visitor_of(request))
        except Refusal as refusal:
            if refusal.code != "conflict":
                raise
            wrong = form.refused({"": refusal.message})
            return page(request, "erase_form.html", status=UNPROCESSED, form=wrong, word=WORD)
        gone = Response[Any](None, status_code=204, headers={"HX-Redirect": SIGN_IN})
        return cookies.on(gone, cookies.no_session())

    return [shown, erase]

"""What is done to a key: edited, switched off and on, rotated, revoked. Each answers a part of a page."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from keyledger.client.records import Key, RotatedKey
from keyledger.errors import Refusal
from keyledger.events import Retire
from services.dashboard.domain.visitor import Visitor
from services.dashboard.pages import fields, forms, words
from services.dashboard.pages.actors import Names
from services.dashboard.pages.forms import Form, FormRefused, number
from services.dashboard.pages.keys import KeyView, receipt, view
from services.dashboard.pages.moments import maybe, per_window
from services.dashboard.routes.guard import visitor as visitor_of
from services.dashboard.routes.key import HOME, OVERLAPS, REASONS
from services.dashboard.routes.refusing import UNPROCESSED, sent_back
from services.dashboard.routes.rendering import page
from services.dashboard.routes.showing import Http, Showing, form_of, key_id_of, new_once, once_of

RECEIPT_SECONDS = 8.0
"""How long a person waits for the verifiers to confirm; who has not by then is shown as pending."""


def handlers(showing: Showing) -> list[HTTPRouteHandler]:
    """The addresses that change a key."""

    async def the_key(request: Http, key: str) -> tuple[Visitor, Key, KeyView]:
        visitor = visitor_of(request)
        found = await showing.backend.key(visitor, key_id_of(key))
        return visitor, found, view(found, Names({}, {}))

    async def editing(
        request: Http, visitor: Visitor, key: KeyView, form: Form, template: str, status: int = 200
    ) -> Response[str]:
        workspace = await showing.backend.workspace(visitor)
        limit = workspace.rate_limit
        held = {scope: scope for scope in key.scopes if scope.startswith("keyledger:")}
        return page(
            request,
            template,
            status=status,
            frame=await showing.frame(visitor, "keys") if template == "key_edit.html" else None,
            key=key,
            form=form,
            expiries=forms.EXPIRIES,
            windows=forms.WINDOWS,
            current_expiry=key.expires,
            management={**held, **words.grantable_scopes(visitor.role)},
            workspace_limit=per_window(limit.limit, limit.window_seconds),
        )

    @get(f"{HOME}/{{key:str}}/edit", include_in_schema=False)
    async def edit(request: Http, key: str) -> Response[str]:
        visitor, _, shown = await the_key(request, key)
        return await editing(request, visitor, shown, forms.filled(shown), "key_edit.html")

    @post(f"{HOME}/{{key:str}}/edit", include_in_schema=False)
    async def save(request: Http, key: str) -> Response[str]:
        visitor, _, shown = await the_key(request, key)
        form = await form_of(request)
        try:
            changes = forms.changes(form, forms.filled(shown), now=showing.now())
            if changes:
                version = number(form.get("version"))
                await showing.backend.change_key(visitor, shown.id, changes, version=version)
        except FormRefused as error:
            refused = form.refused(error.errors)
            return await editing(request, visitor, shown, refused, "key_edit_form.html", UNPROCESSED)
        except Refusal as refusal:
            refused = sent_back(refusal, form, forms.KEY_INPUTS)
            return await editing(request, visitor, shown, refused, "key_edit_form.html", UNPROCESSED)
        return Response("", status_code=200, headers={"HX-Redirect": shown.href})

    async def switched(request: Http, key: str, *, on: bool) -> Response[str]:
        visitor, key_id = visitor_of(request), key_id_of(key)
        version = number((await form_of(request)).get("version"))
        await showing.backend.change_key(visitor, key_id, {"enabled": on}, version=version)
        return Response("", status_code=200, headers={"HX-Refresh": "true"})

    @post(f"{HOME}/{{key:str}}/enable", include_in_schema=False)
    async def enable(request: Http, key: str) -> Response[str]:
        return await switched(request, key, on=True)

    @post(f"{HOME}/{{key:str}}/disable", include_in_schema=False)
    async def disable(request: Http, key: str) -> Response[str]:
        return await switched(request, key, on=False)

    @post(f"{HOME}/{{key:str}}/rotate", include_in_schema=False)
    async def rotate(request: Http, key: str) -> Response[str]:
        visitor, _, shown = await the_key(request, key)
        form = await form_of(request)
        overlap = number(form.get("overlap", "0"))
        retire: Retire = "on_first_use" if form.get("retire") and overlap else "at_overlap"
        why = fields.overlap(overlap)
        try:
            if overlap is None or why:
                raise FormRefused({"overlap": why or ""})
            done = await showing.backend.rotate_key(
                visitor, shown.id, overlap_seconds=overlap, retire=retire, once=once_of(form)
            )
        except FormRefused as error:
            return _rotating(request, shown, form.refused(error.errors))
        except Refusal as refusal:
            return _rotating(request, shown, sent_back(refusal, form, ("overlap", "retire")))
        return page(
            request,
            "rotated.html",
            secret=True,
            key=shown,
            token=done.key.reveal(),
            until=maybe(done.previous_valid_until) if overlap else None,
            old_hint=_old_hint(done, shown),
            first_use=retire == "on_first_use",
        )

    @post(f"{HOME}/{{key:str}}/revoke", include_in_schema=False)
    async def revoke(request: Http, key: str) -> Response[str]:
        visitor, _, shown = await the_key(request, key)
        form = await form_of(request)
        reason = form.get("reason")
        wrong: dict[str, str] = {}
        if reason not in REASONS:
            wrong["reason"] = "Choose a reason."
        if _words(form.get("confirm")) != _words(shown.name):
            wrong["confirm"] = "That is not the key’s name, so nothing was revoked."
        if wrong:
            return _revoking(request, shown, form.refused(wrong))
        try:
            done = await showing.backend.revoke_key(
                visitor,
                shown.id,
                reason=reason,
                note=form.get("note").strip() or None,
                wait=RECEIPT_SECONDS,
                once=once_of(form),
            )
        except Refusal as refusal:
            return _revoking(request, shown, sent_back(refusal, form, ("reason", "note")))
        told = receipt(done.receipt)
        return page(request, "revoked.html", key=shown, receipt=told, position=done.position)

    return [edit, save, enable, disable, rotate, revoke]


def _rotating(request: Http, key: KeyView, form: Form) -> Response[str]:
    context: dict[str, Any] = {"key": key, "form": form, "once_key": new_once(), "overlaps": OVERLAPS}
    return page(request, "rotate_form.html", status=UNPROCESSED, **context)


def _revoking(request: Http, key: KeyView, form: Form) -> Response[str]:
    context: dict[str, Any] = {"key": key, "form": form, "once_key": new_once(), "reasons": REASONS}
    return page(request, "revoke_form.html", status=UNPROCESSED, **context)


def _old_hint(done: RotatedKey, before: KeyView) -> str:
    """The hint of the secret that was the newest before."""
    if len(done.secrets) > 1:
        return done.secrets[-2].hint
    return before.hint


def _words(text: str) -> str:
    # what a person sees the same is the same: blanks at the ends and between words do not count
    return " ".join(text.split())

"""The addresses of peppers: how a rotation stands, and the end of an old one."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from keyledger.server.openapi import documented
from services.keys.handlers.peppers import PepperRotation
from services.keys.routes import shapes, views
from services.keys.routes.asking import Asking, Http, answer


def pepper_routes(asking: Asking, rotation: PepperRotation) -> Sequence[HTTPRouteHandler]:
    """Status and retirement, for operators. No pepper ever crosses these."""

    @get("/v1/peppers", summary="Which peppers there are, and how many keys have yet to move")
    async def status(request: Http) -> Response[views.PeppersView]:
        by = await asking.caller(request)
        by.need_admin()
        asking.query(request, shapes.NoQuery)
        stands = await rotation.standing()
        verifiers = tuple(views.HoldingView(*each) for each in stands.verifiers)
        return answer(views.PeppersView(stands.active, stands.held, stands.retired, verifiers, stands.left))

    @post(
        "/v1/peppers/{pepper:str}/retire",
        summary="Be done with a pepper that no key needs any more, or by force",
        operation_class=documented(body=shapes.RetirePepperShape, body_required=False),
        status_code=200,
    )
    async def retire(request: Http, pepper: str) -> Response[views.RetiredPepperView]:
        by = await asking.caller(request)
        by.need_admin()
        body = await asking.body(request, shapes.RetirePepperShape)
        asked = await asking.asked(request, by, by.workspace_id)
        done, left = await rotation.retire(asked, pepper, force=body.force)
        return answer(views.RetiredPepperView(pepper, left, done.position, done.epoch.text))

    return [status, retire]

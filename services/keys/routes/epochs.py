"""The addresses of the log's epochs: what a restore has lost, and the word that it is known."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from keyledger.clock import rfc3339
from keyledger.events import LostDenial
from keyledger.server.openapi import documented
from services.keys.ports import Epochs, EpochTold, States
from services.keys.routes import shapes
from services.keys.routes.asking import Asking, Http, answer


class LostView(Struct, frozen=True, omit_defaults=True):
    """Something that was refused before the restore, and is refused still unless the epoch is accepted."""

    workspace_id: str
    what: str
    key_id: str | None = None
    since: str | None = None


class EpochView(Struct, frozen=True):
    """One telling of the log. `accepted_at` is null while what it lost is refused."""

    number: int
    line: str
    base_position: int
    started_at: str | None
    accepted_at: str | None
    lost: tuple[LostView, ...]


class EpochListView(Struct, frozen=True):
    """Every telling, newest first."""

    epochs: tuple[EpochView, ...]


class AcceptedView(Struct, frozen=True):
    """The epoch whose own word counts now, and where in the log that stands."""

    number: int
    accepted_at: str
    position: int
    epoch: str


class AcceptShape(shapes.Shape):
    """`POST /v1/epochs/accept`: the number of the epoch of now, whose list was looked at."""

    number: int


def epoch_routes(asking: Asking, epochs: Epochs, states: States) -> Sequence[HTTPRouteHandler]:
    """List and accept."""

    @get(
        "/v1/epochs",
        summary="The tellings of the log, and what of an older one is refused still (operators)",
        operation_class=documented(query=shapes.NoQuery),
    )
    async def list_epochs(request: Http) -> Response[EpochListView]:
        by = await asking.caller(request)
        by.need_admin()
        asking.query(request, shapes.NoQuery)
        head = await states.head()
        told = await epochs.told()
        return answer(EpochListView(tuple(_view(each) for each in reversed(told))), position=head.position)

    @post(
        "/v1/epochs/accept",
        summary="Let the log's own word count: what a restore has lost is no longer refused (operators)",
        operation_class=documented(body=AcceptShape),
        status_code=200,
    )
    async def accept_epoch(request: Http) -> Response[AcceptedView]:
        by = await asking.caller(request)
        by.need_admin()
        body = await asking.body(request, AcceptShape)
        request_id = str(request.scope["state"]["request_id"])
        done = await epochs.accept(
            body.number, actor=by.actor, request_id=request_id, workspace_id=by.workspace_id
        )
        return answer(AcceptedView(body.number, rfc3339(done.at), done.position, done.epoch.text))

    return [list_epochs, accept_epoch]


def _view(told: EpochTold) -> EpochView:
    return EpochView(
        told.epoch.number,
        told.epoch.line.hex(),
        told.base_position,
        # the first telling has no beginning that anybody noted
        rfc3339(told.at) if told.at else None,
        None if told.accepted_at is None else rfc3339(told.accepted_at),
        tuple(_lost(denial) for denial in told.lost),
    )


def _lost(denial: LostDenial) -> LostView:
    return LostView(
        denial.workspace_id,
        denial.what,
        denial.key_id,
        None if denial.since is None else rfc3339(denial.since),
    )

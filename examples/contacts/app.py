"""The API. All that Keyledger asks of it is the middleware in `build_app`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from litestar import Litestar, Request, Response, get, post
from litestar.middleware import DefineMiddleware
from msgspec import Meta, Struct

from keyledger.client.asgi import UNGUARDED, Identity, KeyledgerMiddleware
from keyledger.client.gateway import Gateway
from keyledger.server.problems import exception_handlers

Text = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
Email = Annotated[str, Meta(max_length=254, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+\Z")]


class Contact(Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody to write to."""

    name: Text
    email: Email


EXAMPLES = (Contact("Ada Lovelace", "ada@example.com"), Contact("Grace Hopper", "grace@example.com"))
MAX_CONTACTS = 100
"""Each workspace keeps its newest, in memory."""


class Book:
    """The contacts of every workspace, gone when the process ends."""

    def __init__(self) -> None:
        self._added: dict[str, list[Contact]] = {}

    def of(self, workspace_id: str) -> list[Contact]:
        """The examples, then what this workspace added."""
        return [*EXAMPLES, *self._added.get(workspace_id, [])]

    def add(self, workspace_id: str, contact: Contact) -> None:
        """Keep one more, and forget the oldest beyond `MAX_CONTACTS`."""
        self._added[workspace_id] = [*self._added.get(workspace_id, []), contact][-MAX_CONTACTS:]


@get("/v1/contacts")
async def list_contacts(request: Request[Any, Any, Any]) -> dict[str, list[Contact]]:
    """The caller's contacts."""
    caller: Identity = request.state.keyledger
    return {"contacts": request.app.state.book.of(caller.workspace_id)}


@post("/v1/contacts")
async def add_contact(request: Request[Any, Any, Any], data: Contact) -> Contact:
    """One more contact."""
    caller: Identity = request.state.keyledger
    request.app.state.book.add(caller.workspace_id, data)
    return data


@get(["/healthz", "/readyz"])
async def health() -> dict[str, str]:
    """The API has nothing to wait for; without a verifier it answers 503."""
    return {"status": "ok"}


@get("/unavailable", status_code=503)
async def unavailable() -> Response[dict[str, str]]:
    """What a gateway shows that cannot ask the verifier and writes no answers of its own (Traefik)."""
    return Response({"error": "unavailable"}, status_code=503, headers={"Retry-After": "1"})


def build_app(verifier: Gateway, *, trusted_gateways: Sequence[str] = ()) -> Litestar:
    """The API, guarded by this verifier, or by it and the gateways (addresses, networks) that asked it."""
    needed = {"POST /v1/contacts": ["contacts:write"]}
    guard = DefineMiddleware(
        KeyledgerMiddleware,
        verifier=verifier,
        scopes=needed,
        trusted_gateways=trusted_gateways,
        unguarded=(*UNGUARDED, "/unavailable"),
    )
    app = Litestar(
        [list_contacts, add_contact, health, unavailable],
        middleware=[guard],
        on_shutdown=[verifier.close],
        exception_handlers=exception_handlers,
        openapi_config=None,
        logging_config=None,
    )
    app.state.book = Book()
    return app

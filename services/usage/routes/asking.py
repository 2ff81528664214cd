"""What every address reads of a request, the credential and the query as they came, and says of its state."""

from __future__ import annotations

from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from litestar import Request
from litestar.datastructures import State

from keyledger.errors import invalid_request
from keyledger.server.bodies import header_values
from services.usage.ports import Credential

MAX_PARAMETERS = 50
POSITION = "X-Keyledger-Position"
Http: TypeAlias = Request[Any, Any, State]


def credential_of(request: Http) -> Credential:
    """Both headers as they came, each as often as it came: what they mean together the key service says."""
    headers = list(request.scope["headers"])
    return Credential(
        tuple(
            (name, value)
            for name in ("X-API-Key", "Authorization")
            for value in header_values(headers, name.lower().encode())
            if value
        )
    )


def accepted(request: Http) -> str:
    """What the caller accepts, of however many headers; empty when nothing is said."""
    return ",".join(header_values(list(request.scope["headers"]), b"accept"))


def pairs_of(request: Http) -> list[tuple[str, str]]:
    """The query's parameters as they came: twice is twice, and empty is there."""
    query = request.scope["query_string"].decode("latin-1")
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise invalid_request("There are too many query parameters.") from None


def at_position(position: int) -> dict[str, str]:
    """The header that tells which state an answer was read from."""
    return {POSITION: str(position)}

"""Headers that would be read as one of ours further on, although they are not.

Many servers make one variable of `X-Key-Id`, `X_Key_Id` and `X.Key.Id` (CGI, WSGI and what descends from
them). A gateway that overwrites the first passes the others on, so a request with one of them is refused
here, while the gateway still asks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from keyledger.errors import invalid_request

_IDENTITY = {
    b"x-workspace-id": "X-Workspace-Id",
    b"x-key-id": "X-Key-Id",
    b"x-key-name": "X-Key-Name",
    b"x-key-environment": "X-Key-Environment",
    b"x-key-scopes": "X-Key-Scopes",
}
_OURS = {
    **_IDENTITY,
    b"x-api-key": "X-API-Key",
    b"x-required-scopes": "X-Required-Scopes",
    b"x-required-environment": "X-Required-Environment",
    b"x-verifier-token": "X-Verifier-Token",
}
_PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789-"
_ODD = re.compile(rb"[^a-z0-9-]")


def refuse_other_spellings(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse with `invalid_request` another spelling of a header of ours, and an identity header that came
    twice. Names are in lower case.
    """
    names = [name for name, _ in headers]
    if b"".join(names).translate(None, _PLAIN):
        for name in names:
            if (meant := _OURS.get(_ODD.sub(b"-", name))) and name not in _OURS:
                raise invalid_request("This header is spelled with dashes and nothing else.", field=meant)
    if len(set(names)) != len(names):
        for name, title in _IDENTITY.items():
            if names.count(name) > 1:
                raise invalid_request("An identity header came more than once.", field=title)

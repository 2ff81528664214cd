"""Who a request comes from: told by a verifier's answer, or passed on by a gateway that is trusted.

A gateway asks the verifier itself and sets the identity headers anew. They count only when they come straight
from its address; from anywhere else they are what a stranger wrote.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

from msgspec import Struct

from keyledger.verification.verdict import covers, parse_address

IDENTITY_HEADERS = (b"x-workspace-id", b"x-key-id", b"x-key-name", b"x-key-environment", b"x-key-scopes")
RawHeaders = list[tuple[bytes, bytes]]


class Identity(Struct, frozen=True):
    """Whose key let the request in: `scope["state"]["keyledger"]`, in most frameworks `request.state`."""

    workspace_id: str
    key_id: str
    key_name: str
    environment: str
    scopes: tuple[str, ...]

    def satisfies(self, needed: Iterable[str], environment: str | None) -> bool:
        """Whether the key has all of these scopes, and this environment unless it is None."""
        right_place = environment is None or environment == self.environment
        return right_place and all(covers(self.scopes, scope) for scope in needed)


def identity_in(headers: Iterable[tuple[bytes, bytes]]) -> Identity | None:
    """Who these headers name; None unless they name a workspace and a key, and say nothing twice."""
    told: dict[bytes, str] = {}
    for raw_name, value in headers:
        name = raw_name.lower()
        if name in IDENTITY_HEADERS:
            if name in told:
                return None
            told[name] = value.decode("latin-1")
    workspace_id, key_id = told.get(b"x-workspace-id"), told.get(b"x-key-id")
    if not workspace_id or not key_id:
        return None
    return Identity(
        workspace_id,
        key_id,
        unquote(told.get(b"x-key-name", "")),
        told.get(b"x-key-environment", ""),
        tuple(told.get(b"x-key-scopes", "").split()),
    )


def without_identity(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """The headers without those by which a gateway tells an identity, however the dashes are spelled."""
    kept: RawHeaders = []
    for name, value in headers:
        plain = bytes(each if each < 128 and chr(each).isalnum() else 45 for each in name.lower())
        if plain != b"x-workspace-id" and not plain.startswith(b"x-key-"):
            kept.append((name, value))
    return kept


class TrustedGateways:
    """The addresses and networks of the gateways that are believed; `ValueError` for one that is none."""

    def __init__(self, trusted: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(each) for each in trusted)

    def passed_on(self, scope: Mapping[str, Any]) -> Identity | None:
        """The identity of a request that came straight from one of them; None for every other request."""
        client = scope.get("client")
        if not self._networks or not client:
            return None
        try:
            peer = parse_address(str(client[0]))
        except ValueError:
            return None
        return identity_in(scope["headers"]) if any(peer in each for each in self._networks) else None

"""`ANY /v1/gateway[/…]`: a gateway's question about the request it holds, read from headers and query.

Whoever sends a requirement can only add to it: all of them count together. Below `/v1/gateway` the path
and the query are the client's, and are not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import unquote_to_bytes

from msgspec import Meta, Struct

from keyledger.clock import Clock
from keyledger.errors import Refusal, invalid_request
from keyledger.server.bodies import parse_query
from keyledger.token import ENVIRONMENTS
from keyledger.verification.answer import Answer, answer, missing
from keyledger.verification.verdict import SCOPE, Address, Needs, parse_address
from services.verifier.handlers.fields import Fields
from services.verifier.handlers.spelling import refuse_other_spellings
from services.verifier.handlers.verify import Checks

_SEPARATORS = re.compile(r"[ ,\t]+")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE | re.ASCII)
_LOOK = Needs(cost=0)

Pairs = Sequence[tuple[str, str]]


class GatewayQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """What may stand in the query of exactly `/v1/gateway`; each may be given more than once."""

    scopes: Annotated[str, Meta(description="Required scopes, separated by spaces or commas.")] = ""
    environment: Annotated[str, Meta(description="The required environment: live or test.")] = ""
    deny: Annotated[str, Meta(description="403: tell every refusal as a 403.")] = ""


class ClientAddress(Struct, frozen=True):
    """Where a client's address is told: this header (lower case; None is nowhere), so many entries from
    its end, one for each proxy that is trusted to have added its own."""

    header: bytes | None = None
    hops: int = 1

    def of(self, fields: Fields) -> Address | None:
        """The client's address, or None when it is not told or is not one."""
        if self.header is None:
            return None
        entries = ",".join(fields.every(self.header)).split(",")
        if len(entries) < self.hops:
            return None
        try:
            return parse_address(entries[-self.hops].strip())
        except ValueError:
            return None


class Gateway:
    """Answers gateways with what their client may be told."""

    def __init__(self, checks: Checks, clock: Clock, address: ClientAddress) -> None:
        self._checks = checks
        self._now = clock.now
        self._address = address
        self._ours = tuple(f"{prefix}_" for prefix in checks.verifier.prefixes)

    def decide(self, fields: Fields, query: bytes, *, patient: bool = False) -> Answer:
        """The answer; refuses with `invalid_request` for two keys, or requirements that are not well formed.

        `query` is empty below `/v1/gateway`. To who is `patient` it raises `Ungranted` where only a grant is
        missing.
        """
        token = presented(fields, self._ours)
        if token is None:
            return missing()
        try:
            needs = requirements(fields, parse_query(query) if query else (), self._address)
        except Refusal:
            # the credential comes first: a bad key is told nothing else
            told = answer(self._checks.judge(token, _LOOK), now=self._now())
            if told.status == 401:
                return told
            raise
        return answer(self._checks.judge(token, needs, patient=patient), now=self._now())


def wants_403(query: bytes) -> bool:
    """Whether every refusal is to be told as a 403, that of the query itself included."""
    return any(unquote_to_bytes(each) == b"deny=403" for each in query.split(b"&"))


def presented(fields: Fields, ours: tuple[str, ...]) -> str | None:
    """The one token that was presented, or None; refuses two different ones.

    `ours` are the beginnings of our tokens: a bearer credential beside `X-API-Key` counts only with one.
    """
    found = {value for value in fields.every(b"x-api-key") if value}
    for value in fields.every(b"authorization"):
        match = _BEARER.fullmatch(value)
        if match is not None and (not found or match.group(1).startswith(ours)):
            found.add(match.group(1))
    if len(found) > 1:
        raise invalid_request("More than one API key was presented.", field="X-API-Key")
    return found.pop() if found else None


def requirements(fields: Fields, pairs: Pairs, address: ClientAddress) -> Needs:
    """The union of what headers and query require; refuses what is not well formed."""
    refuse_other_spellings(fields.pairs)
    for name, value in pairs:
        if name not in GatewayQuery.__struct_fields__:
            raise invalid_request("The query has a parameter that is not known.", field=_shown(name))
        if name == "deny" and value != "403":
            raise invalid_request("deny can only be 403.", field="deny")
    scopes = _union(fields, b"x-required-scopes", "X-Required-Scopes", pairs, "scopes")
    environments = _union(fields, b"x-required-environment", "X-Required-Environment", pairs, "environment")
    for scope, field in scopes.items():
        if SCOPE.fullmatch(scope) is None:
            raise invalid_request("A scope is * or [a-z0-9][a-z0-9:._-]{0,63}.", field=field)
    for environment, field in environments.items():
        if environment not in ENVIRONMENTS:
            raise invalid_request("An environment is live or test.", field=field)
    return Needs(tuple(scopes), tuple(environments), address.of(fields))


def _union(fields: Fields, header: bytes, title: str, pairs: Pairs, parameter: str) -> dict[str, str]:
    """Every word of the header's and the parameter's values, with where it stands."""
    words = {word: title for value in fields.every(header) for word in _SEPARATORS.split(value) if word}
    for name, value in pairs:
        if name == parameter:
            words.update({word: parameter for word in _SEPARATORS.split(value) if word})
    return words


def _shown(name: str) -> str:
    """A parameter's name, when it is one that may be repeated."""
    return name if re.fullmatch(r"[A-Za-z0-9_.\-]{1,32}", name) else "query"

"""What callers send: bodies and queries, field by field. Unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from keyledger.clock import parse_rfc3339
from keyledger.errors import invalid_request
from keyledger.events import Environment, OnOutage, Period, Quota, RateLimit, Retire
from services.keys.domain.roles import Role

MAX_IMPORTED = 1000
Limit = Annotated[int, Meta(ge=1, le=200)]


class Shape(Struct, forbid_unknown_fields=True):
    """Base of everything that is decoded from a request."""


class RateLimitShape(Shape):
    """At most `limit` requests in each epoch-aligned cell of `window_seconds`."""

    limit: int
    window_seconds: int
    on_outage: OnOutage | UnsetType = UNSET

    def wire(self) -> RateLimit:
        """As it stands in events; its numbers are checked by the domain."""
        if not -(2**63) <= self.limit < 2**63:
            raise invalid_request("The limit is out of range.", field="rate_limit.limit")
        if not -(2**63) <= self.window_seconds < 2**63:
            raise invalid_request("The window is out of range.", field="rate_limit.window_seconds")
        on_outage = None if isinstance(self.on_outage, UnsetType) else self.on_outage
        return RateLimit(self.limit, self.window_seconds, on_outage)


class QuotaShape(Shape):
    """At most `limit` requests in each day or month, UTC."""

    limit: int
    period: Period

    def wire(self) -> Quota:
        """As it stands in events; its number is checked by the domain."""
        if not -(2**63) <= self.limit < 2**63:
            raise invalid_request("The limit is out of range.", field="quota.limit")
        return Quota(self.limit, self.period)


class CreateWorkspaceShape(Shape):
    """`POST /v1/workspaces`."""

    name: str
    rate_limit: RateLimitShape | UnsetType = UNSET


class ChangeWorkspaceShape(Shape):
    """`PATCH /v1/workspaces/{ws}`; what is absent stays."""

    name: str | UnsetType = UNSET
    rate_limit: RateLimitShape | UnsetType = UNSET
    suspended: bool | UnsetType = UNSET
    quota: QuotaShape | None | UnsetType = UNSET


class PutMemberShape(Shape):
    """`PUT /v1/workspaces/{ws}/members/{user}`."""

    role: Role


class CreateKeyShape(Shape):
    """`POST /v1/workspaces/{ws}/keys`."""

    name: str
    environment: Environment
    scopes: tuple[str, ...] = ("*",)
    expires_at: str | None = None
    allowed_ips: tuple[str, ...] | None = None
    rate_limit: RateLimitShape | None = None
    external_id: str | None = None
    metadata: dict[str, str] = {}
    quota: QuotaShape | None = None


class ChangeKeyShape(Shape):
    """`PATCH …/keys/{key}`: what is absent stays, null clears."""

    name: str | UnsetType = UNSET
    scopes: tuple[str, ...] | UnsetType = UNSET
    expires_at: str | None | UnsetType = UNSET
    allowed_ips: tuple[str, ...] | None | UnsetType = UNSET
    rate_limit: RateLimitShape | None | UnsetType = UNSET
    external_id: str | None | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    quota: QuotaShape | None | UnsetType = UNSET


class RotateShape(Shape):
    """`POST …/keys/{key}/rotate`; the overlap is in seconds."""

    overlap_seconds: int = 0
    retire: Retire = "at_overlap"


class RevokeShape(Shape):
    """`POST …/keys/{key}/revoke`; with `wait` (seconds) the answer has a receipt."""

    reason: str | None = None
    note: str | None = None
    wait: Annotated[float, Meta(ge=0, le=30)] | None = None


class AuthorizeShape(Shape):
    """`POST /v1/authorize`: may the presented credential do this in that workspace, with that key of it?

    `limits` asks for the rate limit and the quota of what is named, too.
    """

    workspace_id: str
    scope: str
    key_id: str | None = None
    limits: bool = False


class ImportShape(Shape):
    """`POST …/keys/import`; each of `keys` is decoded by itself, as an `ImportKeyShape`."""

    keys: Annotated[tuple[Raw, ...], Meta(min_length=1, max_length=MAX_IMPORTED)]

    def __repr__(self) -> str:
        return "ImportShape(***)"


class ImportKeyShape(CreateKeyShape):
    """A key whose token another system made: exactly one of its SHA-256 (hex or base64) and its text."""

    sha256: str | UnsetType = UNSET
    plaintext: str | UnsetType = UNSET

    def __repr__(self) -> str:
        return "ImportKeyShape(***)"


class DocumentedImportShape(Shape):
    """`POST …/keys/import` as it is documented."""

    keys: Annotated[tuple[ImportKeyShape, ...], Meta(min_length=1, max_length=MAX_IMPORTED)]


class ProveShape(Shape):
    """`POST /v1/prove`: whose secret is this token?"""

    key: str

    def __repr__(self) -> str:
        return "ProveShape(***)"


class RetirePepperShape(Shape):
    """`POST /v1/peppers/{pepper}/retire`; `force` though keys are left."""

    force: bool = False


class NoQuery(Shape):
    """No query parameter is taken."""


class ListQuery(Shape):
    """A page of a list, newest first."""

    limit: Limit = 50
    cursor: str | None = None


class ListKeysQuery(ListQuery):
    """`GET …/keys`. `search` looks in names and external ids, and for a whole key id or a hint or its end."""

    environment: Environment | None = None
    status: Literal["active", "disabled", "revoked", "expired"] | None = None
    external_id: str | None = None
    search: Annotated[str, Meta(max_length=200)] | None = None
    as_of: str | None = None


class ShowKeyQuery(Shape):
    """`GET …/keys/{key}`; `as_of` is a position of the log or an RFC 3339 time."""

    as_of: str | None = None


class EventsQuery(ListQuery):
    """A page of events: the oldest first, after a position if one is given, or the newest first."""

    after: str | None = None
    order: Literal["oldest", "newest"] = "oldest"


class WorkspaceEventsQuery(EventsQuery):
    """Of all the workspace's events, or of one stream: its own id, or a key's."""

    stream: str | None = None


class FeedQuery(Shape):
    """A feed page after a position."""

    after: Annotated[int, Meta(ge=0, le=2**62)] = 0
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class SnapshotQuery(Shape):
    """A snapshot page: the streams behind an id, read at the position `since` (the first page's) or later."""

    after: Annotated[str, Meta(pattern=r"^((key|ws)_[0-9A-Za-z]{22})?$")] = ""
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    since: Annotated[int, Meta(ge=0, le=2**62)] = 0


class HeadQuery(Shape):
    """The nonce comes back in the answer. `question` is what a follower asks on the bus, in hex."""

    nonce: Annotated[str, Meta(max_length=64)] = ""
    question: Annotated[str, Meta(max_length=4096)] = ""


def moment(text: str | None | UnsetType, field: str) -> int | None | UnsetType:
    """An RFC 3339 time in µs; None and UNSET pass through."""
    if not isinstance(text, str):
        return text
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise invalid_request(f"Not a time: {error}.", field=field) from None

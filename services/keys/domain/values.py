"""What a person may write into a key or a workspace: each check answers the value, or refuses the field."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from keyledger.errors import invalid_request
from keyledger.events import Quota, RateLimit

MAX_NAME = 200
MAX_SCOPES = 100
MAX_NETWORKS = 100
MAX_PAIRS, MAX_METADATA_BYTES = 50, 4096
MAX_LIMIT = 1_000_000_000
DAY_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 30 * DAY_SECONDS

_SCOPE = re.compile(r"\*|[a-z0-9][a-z0-9:._-]{0,63}", re.ASCII)
RESERVED = "keyledger:"
WORKSPACE_SCOPES = frozenset(
    RESERVED + name for name in ("keys:read", "keys:write", "workspace:write", "usage:read")
)
SYSTEM_SCOPES = frozenset(RESERVED + name for name in ("admin", "feed:read", "prove"))


def name(value: str, field: str = "name") -> str:
    """1–200 characters, not all blank, no control character."""
    if not 1 <= len(value) <= MAX_NAME or not value.strip():
        raise invalid_request(f"A name has 1 to {MAX_NAME} characters, not all of them blank.", field=field)
    return text(value, field)


def text(value: str, field: str, *, longest: int = MAX_NAME, lines: bool = False) -> str:
    """Up to `longest` characters without control characters; `lines` allows tab and line feed."""
    if len(value) > longest:
        raise invalid_request(f"At most {longest} characters.", field=field)
    for character in value:
        if unicodedata.category(character) in ("Cc", "Cs") and not (lines and character in "\t\n"):
            raise invalid_request("Control characters are not allowed.", field=field)
    return value


def external_id(value: str) -> str:
    """The caller's own id for the owner of a key: 1–255 characters."""
    if not value:
        raise invalid_request(
            "An external id has at least one character; null clears it.", field="external_id"
        )
    return text(value, "external_id", longest=255)


def scopes(values: Sequence[str], *, system: bool) -> tuple[str, ...]:
    """Well-formed, without repeats, in the order given; only the system workspace's keys take its scopes."""
    if len(values) > MAX_SCOPES:
        raise invalid_request(f"At most {MAX_SCOPES} scopes.", field="scopes")
    for scope in values:
        if _SCOPE.fullmatch(scope) is None:
            raise invalid_request(
                "A scope is * or up to 64 of a-z 0-9 : . _ - and begins with a letter or digit.",
                field="scopes",
            )
        if scope.startswith(RESERVED) and scope not in WORKSPACE_SCOPES:
            if scope not in SYSTEM_SCOPES:
                raise invalid_request("Scopes that begin with keyledger: are reserved.", field="scopes")
            if not system:
                raise invalid_request(
                    "Only keys of the system workspace may hold that scope.", field="scopes"
                )
    return tuple(dict.fromkeys(values))


def reserved(values: Iterable[str]) -> frozenset[str]:
    """The management scopes among these."""
    return frozenset(scope for scope in values if scope.startswith(RESERVED))


def networks(values: Sequence[str]) -> tuple[str, ...]:
    """IPv4 or IPv6 addresses and CIDR blocks, as given; an empty list would mean nobody, so it is refused."""
    if not 1 <= len(values) <= MAX_NETWORKS:
        raise invalid_request(
            f"Give 1 to {MAX_NETWORKS} addresses or CIDR blocks, or null for any address.",
            field="allowed_ips",
        )
    for value in values:
        length = value.partition("/")[2]
        try:
            ipaddress.ip_network(value)
        except ValueError:
            length = "wrong"
        if "%" in value:
            # a zone means something on one machine only, and may hold any character
            length = "wrong"
        if length and not (length.isascii() and length.isdigit()):
            raise invalid_request(
                f"{value[:64]!r} is not an address or a CIDR block without host bits.", field="allowed_ips"
            )
    return tuple(dict.fromkeys(values))


def metadata(pairs: Mapping[str, str]) -> dict[str, str]:
    """At most 50 string pairs and 4 KiB as JSON."""
    if len(pairs) > MAX_PAIRS:
        raise invalid_request(f"At most {MAX_PAIRS} pairs.", field="metadata")
    if len(msgspec.json.encode(pairs)) > MAX_METADATA_BYTES:
        raise invalid_request(f"At most {MAX_METADATA_BYTES} bytes as JSON.", field="metadata")
    for key, value in pairs.items():
        text(key, "metadata", longest=MAX_METADATA_BYTES)
        text(value, "metadata", longest=MAX_METADATA_BYTES, lines=True)
    return dict(pairs)


def expiry(micros: int, *, now: int) -> int:
    """A moment still to come."""
    if micros <= now:
        raise invalid_request("The key would have expired already.", field="expires_at")
    return micros


def rate_limit(value: RateLimit) -> RateLimit:
    """At least one request a cell, and cells that divide the day."""
    if not 1 <= value.limit <= MAX_LIMIT:
        raise invalid_request(f"A limit is 1 to {MAX_LIMIT}.", field="rate_limit.limit")
    if not 1 <= value.window_seconds <= DAY_SECONDS or DAY_SECONDS % value.window_seconds:
        raise invalid_request(
            f"The window divides the day: {DAY_SECONDS} is a multiple of it.",
            field="rate_limit.window_seconds",
        )
    return value


def quota(value: Quota) -> Quota:
    """At least one request a period."""
    if not 1 <= value.limit <= MAX_LIMIT:
        raise invalid_request(f"A limit is 1 to {MAX_LIMIT}.", field="quota.limit")
    return value

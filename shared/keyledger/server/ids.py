"""Where ids and secrets are drawn: UUIDv7 ids, CSPRNG secrets. Handlers mint; `decide` never does."""

from __future__ import annotations

import secrets

import uuid_utils

from keyledger.token import ALPHABET, ID_LENGTH, SECRET_LENGTH, base62


def new_id(kind: str) -> str:
    """A fresh id `<kind>_<22 base62 characters>` of a UUIDv7 (RFC 9562), so that ids sort by creation."""
    return f"{kind}_{base62(uuid_utils.uuid7().int, ID_LENGTH)}"


def new_secret() -> str:
    """32 base62 characters (190 bits) from the system's CSPRNG."""
    return "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))


def new_request_id() -> str:
    """An id for a request that brought none."""
    return f"req_{base62(uuid_utils.uuid7().int, ID_LENGTH)}"

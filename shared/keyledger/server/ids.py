"""Where ids and secrets are drawn: UUIDv7 ids, CSPRNG secrets. Handlers mint; `decide` never does."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import uuid_utils

from keyledger.token import ALPHABET, ID_LENGTH, SECRET_LENGTH, base62

_TAILS = tuple(first + second for first in ALPHABET for second in ALPHABET)


def new_id(kind: str) -> str:
    """A fresh id `<kind>_<22 base62 characters>` of a UUIDv7 (RFC 9562), so that ids sort by creation."""
    return f"{kind}_{base62(uuid_utils.uuid7().int, ID_LENGTH)}"


def new_secret() -> str:
    """32 base62 characters (190 bits) from the system's CSPRNG."""
    return "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))


def new_request_id() -> str:
    """An id for a request that brought none."""
    return f"req_{base62(uuid_utils.uuid7().int, ID_LENGTH)}"


def request_ids() -> Iterator[str]:
    """Ids as `new_request_id` makes them, for whoever needs very many: each UUIDv7 serves for 3844.

    Two such series differ in 50 random bits besides their time. Not for use by several threads.
    """
    while True:
        head = new_request_id()[: -len(_TAILS[0])]
        for tail in _TAILS:
            yield head + tail

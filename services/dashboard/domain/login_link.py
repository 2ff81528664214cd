"""One-time sign-in links of a local run: made by whoever can read the dashboard's secret, spent once.

<expiry in seconds>.<16 random bytes as hex>.<HMAC-SHA256 of the two under a key of its own>
"""

from __future__ import annotations

import hashlib
import hmac
import re

from keyledger.token import Secret

LASTS_SECONDS = 300
PATH = "/sign-in/link"
_SHAPE = re.compile(r"([0-9]{1,12})\.([0-9a-f]{32})\.([0-9a-f]{64})")


def make(secret: Secret, *, random_hex: str, now_seconds: int) -> Secret:
    """A token that signs in once, until five minutes after now; `random_hex` is 32 digits."""
    head = f"{now_seconds + LASTS_SECONDS}.{random_hex}"
    return Secret(f"{head}.{_mac(secret, head)}")


def expiry(secret: Secret, token: str, now_seconds: int) -> int | None:
    """When a good token ends (unix seconds); None for one that is not ours, or is over."""
    found = _SHAPE.fullmatch(token)
    if found is None:
        return None
    mac = _mac(secret, f"{found[1]}.{found[2]}")
    until = int(found[1])
    if not hmac.compare_digest(mac, found[3]) or not now_seconds < until <= now_seconds + LASTS_SECONDS:
        return None
    return until


def _mac(secret: Secret, head: str) -> str:
    key = hmac.digest(secret.reveal().encode(), b"keyledger sign-in links", hashlib.sha256)
    return hmac.digest(key, head.encode(), hashlib.sha256).hex()

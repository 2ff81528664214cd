"""Whether a write was made by a page of ours: what a browser says of where it comes from (CSRF).

A write needs both: that the browser says it is same-origin, by Sec-Fetch-Site or, from one that has no such
header, by Origin; and a header that a form or a link of another site cannot set.
"""

from __future__ import annotations

from collections.abc import Mapping

OWN_HEADER = "x-keyledger-request"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_own_write(headers: Mapping[str, str], origin: str) -> bool:
    """Whether these headers (names in lower case) are of a write by a page of `origin`."""
    if headers.get(OWN_HEADER) != "1":
        return False
    site = headers.get("sec-fetch-site")
    told = headers.get("origin")
    if told is not None and told != origin:
        return False
    return site == "same-origin" if site is not None else told == origin

"""What the contract lets a field hold, said beside every field at once; the key service stays the judge."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from keyledger.events import RateLimit

MAX_NAME, MAX_EXTERNAL_ID = 200, 255
MAX_SCOPES = MAX_ADDRESSES = 100
MAX_PAIRS, MAX_METADATA_BYTES = 50, 4096
MAX_LIMIT = 1_000_000_000
DAY_SECONDS = 86_400
MAX_OVERLAP_SECONDS = 30 * DAY_SECONDS
_SCOPE = re.compile(r"\*|[a-z0-9][a-z0-9:._-]{0,63}", re.ASCII)
_TOLD = 40
"""Characters of a value that a sentence repeats."""


def name(value: str) -> str | None:
    """What is wrong with a name; None when nothing is. So are all of these."""
    if not value:
        return "Enter a name."
    return _text(value, MAX_NAME)


def external_id(value: str) -> str | None:
    """At most 255 characters, none of them a control character."""
    return _text(value, MAX_EXTERNAL_ID)


def scopes(values: Sequence[str]) -> str | None:
    """At most 100, each well-formed."""
    if len(values) > MAX_SCOPES:
        return f"At most {MAX_SCOPES} scopes; these are {len(values)}."
    wrong = [value for value in values if _SCOPE.fullmatch(value) is None]
    if not wrong:
        return None
    lower = wrong[0].lower()
    if lower != wrong[0] and _SCOPE.fullmatch(lower):
        return f"{_quoted(wrong)}: scopes are lowercase. Did you mean {lower}?"
    return f"{_quoted(wrong)}: a scope has up to 64 of a–z 0–9 : . _ - and starts with a letter or digit."


def addresses(values: Sequence[str]) -> str | None:
    """At most 100 addresses or CIDR blocks without host bits."""
    if len(values) > MAX_ADDRESSES:
        return f"At most {MAX_ADDRESSES} addresses; these are {len(values)}."
    wrong = [value for value in values if not _is_network(value)]
    if not wrong:
        return None
    if len(wrong) == 1 and (meant := _block_of(wrong[0])):
        return f"“{wrong[0]}” is an address inside a block. Did you mean {meant}?"
    return f"{_quoted(wrong)}: enter IPv4 or IPv6 addresses or CIDR blocks such as 203.0.113.0/24."


def limit(value: RateLimit) -> str | None:
    """At least one request, in windows that divide the day."""
    if not 1 <= value.limit <= MAX_LIMIT:
        return f"Enter a limit from 1 to {MAX_LIMIT:,}."
    if not 1 <= value.window_seconds <= DAY_SECONDS or DAY_SECONDS % value.window_seconds:
        return "Choose a window that divides a day evenly."
    return None


def expiry(at: datetime, now: datetime) -> str | None:
    """A moment still to come."""
    return "Choose a date and time in the future." if at <= now else None


def overlap(seconds: int | None) -> str | None:
    """None to 30 days."""
    if seconds is None or not 0 <= seconds <= MAX_OVERLAP_SECONDS:
        return "Choose when the old secret expires, within 30 days."
    return None


def metadata(pairs: Mapping[str, str]) -> str | None:
    """At most 50 pairs and 4 KiB as JSON."""
    if len(pairs) > MAX_PAIRS:
        return f"At most {MAX_PAIRS} pairs; these are {len(pairs)}."
    size = len(msgspec.json.encode(pairs))
    if size > MAX_METADATA_BYTES:
        return f"At most {MAX_METADATA_BYTES:,} bytes as JSON; these are {size:,}."
    return next((why for each in (*pairs, *pairs.values()) if (why := _text(each, size))), None)


def _text(value: str, longest: int) -> str | None:
    if len(value) > longest:
        return f"At most {longest} characters; these are {len(value)}."
    if any(unicodedata.category(each) in ("Cc", "Cs") and each not in "\t\n" for each in value):
        return "Control characters are not allowed."
    return None


def _is_network(value: str) -> bool:
    length = value.partition("/")[2]
    if "%" in value or (length and not (length.isascii() and length.isdigit())):
        # a zone means something on one machine only
        return False
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return True


def _block_of(value: str) -> str | None:
    """The block that an address with a prefix length is in."""
    try:
        meant = str(ipaddress.ip_network(value, strict=False))
    except ValueError:
        return None
    return meant if _is_network(meant) else None


def _quoted(values: Sequence[str]) -> str:
    shown = ", ".join(f"“{value[:_TOLD]}{'…' if len(value) > _TOLD else ''}”" for value in values[:3])
    return f"{shown} and {len(values) - 3} more" if len(values) > 3 else shown

"""Which of two media types an Accept header prefers (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re

CSV, JSON = "text/csv", "application/json"
_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?", re.ASCII)


def prefers(accept: str, this: str, usual: str) -> bool:
    """Whether `this` is wanted rather than the `usual` one: by its quality; of equals by what is named first.

    The most specific range that covers a type says its quality. What only a wildcard covers is not named, and
    loses against what is.
    """
    wanted, other = _rank(accept, this), _rank(accept, usual)
    return wanted[0] > 0 and wanted > other


def _rank(accept: str, media: str) -> tuple[float, bool, int]:
    """A type's quality, 0 when it is not accepted, whether it is named, and how early: more is better."""
    whole = (media, f"{media.partition('/')[0]}/*", "*/*")
    found: dict[str, tuple[float, bool, int]] = {}
    for at, part in enumerate(accept.lower().split(",")):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if name in whole and name not in found:
            found[name] = _quality(parameters), name == media, -at
    return next((found[name] for name in whole if name in found), (0.0, False, 0))


def _quality(parameters: list[str]) -> float:
    """The quality among a range's parameters; one that is none counts as not accepted."""
    for piece in parameters:
        name, _, value = (word.strip() for word in piece.partition("="))
        if name == "q":
            return float(value) if _QUALITY.fullmatch(value) else 0.0
    return 1.0

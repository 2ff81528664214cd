"""The header fields of one request, found without walking the list each time."""

from __future__ import annotations

import re
from collections.abc import Sequence

from keyledger.verification.answer import Header

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Fields:
    """Header fields in their order, with names in lower case."""

    __slots__ = ("_first", "content_type", "pairs", "request_id")

    def __init__(self, pairs: Sequence[Header]) -> None:
        self.pairs = pairs
        first = dict(pairs)
        if len(first) != len(pairs):
            # a dict keeps the last of the same name
            first = dict(reversed(pairs))
        self._first = first
        self.request_id = self._request_id()
        """The caller's `X-Request-Id` when it is 1–128 visible ASCII characters, else None."""
        media = first.get(b"content-type")
        self.content_type = None if media is None else media.decode("latin-1")

    @property
    def accept(self) -> str:
        """The first `Accept`, or nothing."""
        return self._first.get(b"accept", b"").decode("latin-1")

    @property
    def unique(self) -> bool:
        """Whether no field is there twice."""
        return len(self._first) == len(self.pairs)

    def first(self, name: bytes) -> bytes | None:
        """The first value of a field, or None."""
        return self._first.get(name)

    def every(self, name: bytes) -> list[str]:
        """All values of a field, in their order."""
        if self.unique:
            value = self._first.get(name)
            return [] if value is None else [value.decode("latin-1").strip(" \t")]
        return [value.decode("latin-1").strip(" \t") for key, value in self.pairs if key == name]

    def _request_id(self) -> str | None:
        if b"x-request-id" not in self._first:
            return None
        for name, value in self.pairs:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return value.decode()
        return None

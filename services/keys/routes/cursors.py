"""Cursors: a position and a tag that binds it to its workspace and filters, so that none fits elsewhere."""

from __future__ import annotations

import base64
import binascii
import hmac

from keyledger.errors import invalid_request
from keyledger.server.seal import Sealer

_TAG = 16


class Cursors:
    """Makes and reads opaque, URL-safe cursors."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def make(self, position: int, *bound: str | None) -> str:
        """A cursor that goes on after `position`, valid only with the same `bound` parts."""
        raw = position.to_bytes(8)
        return base64.urlsafe_b64encode(raw + self._tag(raw, bound)).decode().rstrip("=")

    def read(self, cursor: str | None, *bound: str | None) -> int | None:
        """The position in `cursor`; `invalid_request` when it was made for something else."""
        if cursor is None:
            return None
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != 8 + _TAG or not hmac.compare_digest(raw[8:], self._tag(raw[:8], bound)):
            raise invalid_request("The cursor does not belong to this list and its filters.", field="cursor")
        return int.from_bytes(raw[:8])

    def _tag(self, raw: bytes, bound: tuple[str | None, ...]) -> bytes:
        parts = [b"" if part is None else b"\x01" + part.encode() for part in bound]
        return self._sealer.name("cursor", raw, *parts)[:_TAG]

"""Ids of keys and workspaces as a store on disk files them: what follows `key_` or `ws_`, 22 ASCII bytes.

The 16 bytes of the UUID would be shorter, and turning one into the other would cost more than the look-up.
"""

from __future__ import annotations

from keyledger.token import ID_LENGTH

KEY, WORKSPACE = "key_", "ws_"
SIZE = ID_LENGTH


def raw_id(record_id: str, kind: str) -> bytes | None:
    """The bytes of an id of this kind; None for what is no such id."""
    at = len(kind)
    if len(record_id) != at + SIZE or not record_id.startswith(kind) or not record_id.isascii():
        return None
    return record_id[at:].encode()


def text_id(raw: bytes, kind: str) -> str:
    """The id of this kind that has these bytes."""
    return kind + raw.decode()

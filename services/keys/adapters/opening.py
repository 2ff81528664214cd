"""An event's data as followers get it: the private part open, the proof left out.

What the data key of a destroyed workspace had sealed stays closed: `private` is then null. Only what has to
be looked into is decoded; everything else passes through as it was written. So does what cannot be read or
opened: whoever follows closes that one key, and the feed goes on.
"""

from __future__ import annotations

import msgspec

from keyledger import events
from keyledger.server.seal import SealBroken, TextOpener

_PARTS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BYTES = msgspec.json.Decoder(bytes)
_ENCODER = msgspec.json.Encoder()
_NULL = msgspec.Raw(b"null")


def opened(data: bytes, stream_id: str, version: int, tag: str, opener: TextOpener | None) -> bytes:
    """The data of the event that stands there, opened if there is a key for it."""
    try:
        parts = _PARTS.decode(data)
        sealed = parts.get("private", _NULL)
        if bytes(sealed) == b"null":
            return data
        parts["private"] = _NULL
        if opener is None:
            return _ENCODER.encode(parts)
        private = _PARTS.decode(
            opener.open(_BYTES.decode(sealed), events.private_place(stream_id, version, tag))
        )
    except (SealBroken, msgspec.MsgspecError, ValueError, RecursionError):
        return data
    private.pop("proof", None)
    parts["private"] = msgspec.Raw(_ENCODER.encode(private))
    return _ENCODER.encode(parts)

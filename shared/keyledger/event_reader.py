"""How an event is read: the tag first, then any version ever written, brought up to today's step by step.

A consumer gets `Unknown` for what this code does not know, never an exception: an event from the future costs
one key and not the whole consumer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

Upcast: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]


class Unknown(Struct, frozen=True):
    """An event this code cannot read: its key fails closed, all others go on."""

    type: str
    schema_version: int
    why: str


class Reader:
    """Reads events of any version ever written: an older one is brought up to today's step by step."""

    def __init__(
        self, tags: Mapping[str, tuple[type[Any], int]], upcasts: Mapping[tuple[str, int], Upcast]
    ) -> None:
        """`ValueError` unless every older version has its step."""
        older = {(tag, version) for tag, (_, last) in tags.items() for version in range(1, last)}
        if set(upcasts) != older:
            raise ValueError(f"upcasts missing or in excess: {sorted(older ^ set(upcasts))}")
        self._today = {tag: version for tag, (_, version) in tags.items()}
        self._decoders = {tag: msgspec.json.Decoder(kind) for tag, (kind, _) in tags.items()}
        self._upcasts = upcasts

    def decode(self, tag: str, schema_version: int, data: bytes) -> Any:
        """The event, or `Unknown`; never raises for content."""
        decoder = self._decoders.get(tag)
        if decoder is None:
            return Unknown(tag, schema_version, "unknown tag")
        if schema_version > self._today[tag]:
            return Unknown(tag, schema_version, "a version from the future")
        if schema_version < 1:
            return Unknown(tag, schema_version, "a version that never was")
        try:
            if schema_version < self._today[tag]:
                data = self._upcast(tag, schema_version, data)
            return decoder.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            # ValueError is UnicodeDecodeError, which is not among msgspec's own
            return Unknown(tag, schema_version, f"cannot be decoded: {error}")

    def _upcast(self, tag: str, schema_version: int, data: bytes) -> bytes:
        raw = msgspec.json.decode(data, type=dict[str, Any])
        for version in range(schema_version, self._today[tag]):
            try:
                raw = self._upcasts[tag, version](raw)
            except (LookupError, TypeError, AttributeError) as error:
                raise ValueError(f"not what version {version} was: {type(error).__name__}") from None
        return msgspec.json.encode(raw)

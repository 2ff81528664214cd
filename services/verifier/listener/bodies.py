"""The body of a request as it arrives: so many bytes, or in chunks (RFC 9112, sections 6 and 7).

Neither keeps more than its limit. A body that nobody reads is passed over in the same way, without a copy.
"""

from __future__ import annotations

import re
from typing import Protocol

from keyledger.errors import Refusal, invalid_request
from services.verifier.listener.heads import TOKEN, TRAILERS, malformed

LINE_LIMIT = 256
"""Bytes of a chunk's first line, its extensions included."""
EXTENSIONS_LIMIT = 16 * 1024
"""Bytes that all first lines of one body may need beyond what their sizes need."""
TRAILERS_LIMIT = 8 * 1024
_CRLF = b"\r\n"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_VALUE = rb"(?:" + TOKEN + rb"|" + _QUOTED + rb")"
_EXTENSION = rb"[ \t]*+;[ \t]*+" + TOKEN + rb"(?:[ \t]*+=[ \t]*+" + _VALUE + rb")?+"
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + _EXTENSION + rb")*+")


class Body(Protocol):
    """Takes what has arrived until the body is whole."""

    done: bool

    def feed(self, data: bytes, at: int) -> int:
        """Take from `data` beginning with `at`; where it stopped. `Refusal`: malformed, or too long."""
        ...

    def content(self) -> bytes:
        """The whole body, when `done`; empty when it was not to be kept."""
        ...


class Counted:
    """A body of a known length, which is within the limit already."""

    __slots__ = ("_keep", "_kept", "_left", "done")

    def __init__(self, length: int, *, keep: bool) -> None:
        self._kept = bytearray()
        self._keep = keep
        self._left = length
        self.done = length == 0

    def feed(self, data: bytes, at: int) -> int:
        end = min(len(data), at + self._left)
        if self._keep:
            self._kept += data[at:end]
        self._left -= end - at
        self.done = self._left == 0
        return end

    def content(self) -> bytes:
        return bytes(self._kept)


class Chunked:
    """A body in chunks, of at most `limit` bytes; the trailer fields are read and forgotten."""

    __slots__ = ("_extended", "_keep", "_kept", "_left", "_limit", "_line", "_size", "_trailers", "done")

    def __init__(self, limit: int, *, keep: bool) -> None:
        self._kept = bytearray()
        self._keep = keep
        self._limit = limit
        self._size = self._extended = 0
        self._line = bytearray()
        # of the chunk that is being read, its CRLF included; 0 before a chunk's first line
        self._left = 0
        self._trailers = False
        self.done = False

    def feed(self, data: bytes, at: int) -> int:
        while at < len(data) and not self.done:
            if self._left:
                at = self._data(data, at)
            elif self._trailers:
                at = self._trailer(data, at)
            else:
                at = self._begin(data, at)
        return at

    def content(self) -> bytes:
        return bytes(self._kept)

    def _data(self, data: bytes, at: int) -> int:
        end = min(len(data), at + self._left)
        taken = end - at
        content = max(0, min(taken, self._left - len(_CRLF)))
        if self._keep:
            self._kept += data[at : at + content]
        tail = data[at + content : end]
        begun = len(_CRLF) - (self._left - content)
        if tail != _CRLF[begun : begun + len(tail)]:
            raise invalid_request("A chunk is longer than it says.")
        self._left -= taken
        return end

    def _begin(self, data: bytes, at: int) -> int:
        line, at = self._whole_line(data, at, LINE_LIMIT)
        if line is None:
            return at
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise invalid_request("The size of a chunk is malformed.")
        size = int(match.group(1), 16)
        self._extended += len(line) - len(b"%x" % size)
        if self._extended > EXTENSIONS_LIMIT:
            raise invalid_request("The chunks have too many extensions.")
        if size == 0:
            self._trailers = True
            return at
        self._size += size
        if self._size > self._limit:
            raise Refusal("payload_too_large", "The body is too large.")
        self._left = size + len(_CRLF)
        return at

    def _trailer(self, data: bytes, at: int) -> int:
        line, at = self._whole_line(data, at, TRAILERS_LIMIT)
        if line is None:
            return at
        if not line:
            self.done = True
            return at
        self._extended += len(line)
        if self._extended > EXTENSIONS_LIMIT:
            raise Refusal("headers_too_large", "The trailer fields are too large.")
        if TRAILERS.fullmatch(line + _CRLF) is None:
            raise invalid_request("A trailer field is malformed.")
        return at

    def _whole_line(self, data: bytes, at: int, limit: int) -> tuple[bytes | None, int]:
        """The line that ends in `data`, without its CRLF, or None while it is not whole; where it stops."""
        # CR may have been the last byte of what came before
        end = data.find(b"\n", at, at + limit + len(_CRLF))
        stop = len(data) if end < 0 else end + 1
        self._line += data[at:stop]
        if len(self._line) > limit + len(_CRLF) or malformed(bytes(self._line)):
            raise invalid_request("A line within the body is malformed.")
        if end < 0:
            return None, stop
        line = bytes(self._line[: -len(_CRLF)])
        self._line.clear()
        return line, stop

"""Answers as bytes."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

from keyledger.verification.answer import Answer

_STATUS = {each.value: b"HTTP/1.1 %d %b\r\n" % (each.value, each.phrase.encode()) for each in HTTPStatus}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE = b"connection: close\r\n"
KEEP = b"connection: keep-alive\r\n"


def date_line(seconds: float) -> bytes:
    """The `Date` field at this wall time."""
    return b"date: %b\r\n" % formatdate(seconds, usegmt=True).encode()


def json_head(date: bytes) -> bytes:
    """A 200 with JSON, up to the number of its bytes."""
    about = b"content-type: application/json\r\ncache-control: no-store\r\ncontent-length: "
    return _STATUS[200] + date + about


def written(answer: Answer, *, date: bytes, connection: bytes, body: bool) -> bytes:
    """The whole answer; `connection` is that field's line or empty, `body` whether it is sent."""
    parts = [_STATUS[answer.status], date, connection]
    parts += [b"%b: %b\r\n" % pair for pair in answer.headers]
    parts.append(b"\r\n")
    if body:
        parts.append(answer.body)
    return b"".join(parts)

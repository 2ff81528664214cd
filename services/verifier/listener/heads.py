"""The head of a request, read as RFC 9112 writes it and in no other way.

Whatever two parties could read differently is refused: that is how requests are smuggled past a gateway.
Nothing is mended, except that one whole head is enough: what was read is the same for the same bytes.
"""

from __future__ import annotations

import re
from typing import NoReturn
from urllib.parse import unquote

from keyledger.errors import Refusal, invalid_request
from keyledger.verification.answer import Header
from services.verifier.handlers.fields import Fields

HEAD_LIMIT = 32 * 1024
"""Bytes of the request line and the fields together."""
TARGET_LIMIT = 8 * 1024
FIELDS_LIMIT = 100
CHUNKED = -1
_LONGEST_LENGTH = 18

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_FIELDS = rb"(?:" + TOKEN + rb":[\t -~\x80-\xff]*+\r\n)*+"
# the possessive ++ and *+ never try again: the time is linear whatever is sent
_HEAD = re.compile(rb"(" + TOKEN + rb") ([!-~]++) HTTP/([0-9])\.([0-9])\r\n(" + _FIELDS + rb")")
_REQUEST_LINE = re.compile(TOKEN + rb" ([!-~]++) (HTTP/[0-9]\.[0-9])\r\n")
TRAILERS = re.compile(_FIELDS)
# reg-name, IPv4, IPv6 in brackets, and a port; empty for a target without an authority
_HOST = re.compile(rb"(?:\[[0-9A-Fa-fvV:.%a-zA-Z]+\]|[A-Za-z0-9\-._~%!$&'()*+,;=]*)(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#@]+)((?:[/?][^#]*+)?)")


class Head:
    """What a request's head says, with its framing settled."""

    __slots__ = ("expects", "fields", "keep", "length", "method", "modern", "path", "query", "target")

    def __init__(self, method: str, target: bytes, *, modern: bool, fields: Fields) -> None:
        self.method = method
        self.modern = modern
        """HTTP/1.1 or later of its kind, not 1.0."""
        self.fields = fields
        self.target = target
        """The path as it was sent."""
        self.path, self.query = _parted(target)
        self.length = 0
        """Bytes of the body, or `CHUNKED`."""
        self.keep = modern
        """Whether the connection may be used again."""
        self.expects = False
        """Whether the client waits for a 100 before it sends the body."""


def read_head(raw: bytes) -> Head:
    """The head in `raw`, which ends with the last field's CRLF; `Refusal` says what is wrong with it."""
    match = _HEAD.fullmatch(raw)
    if match is None:
        _say_why(raw)
    method, target, major, minor, block = match.groups()
    if major != b"1":
        raise Refusal("version_not_supported", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if len(target) > TARGET_LIMIT:
        raise Refusal("uri_too_long", f"At most {TARGET_LIMIT} bytes.")
    pairs = _pairs(block)
    if len(pairs) > FIELDS_LIMIT:
        raise Refusal("headers_too_large", f"At most {FIELDS_LIMIT} header fields.")
    fields, modern = Fields(pairs), minor != b"0"
    _check_host(fields, modern=modern)
    head = Head(method.decode(), _path_of(method, target), modern=modern, fields=fields)
    _set_framing(head)
    _set_connection(head)
    _set_expectation(head)
    return head


def malformed(partial: bytes, at: int = 0) -> bool:
    """Whether these bytes, the beginning of a head, can no longer become a good one; looks from `at` on."""
    return _BROKEN.search(partial, at) is not None


def too_large(raw: bytes) -> Refusal:
    """What to tell of a head that is longer than `HEAD_LIMIT`, of which this is the beginning."""
    if b"\r\n" not in raw[: TARGET_LIMIT + 64]:
        return Refusal("uri_too_long", f"At most {TARGET_LIMIT} bytes.")
    return Refusal("headers_too_large", f"At most {HEAD_LIMIT} bytes.")


# a bare LF, a bare CR, or a control character other than the tab
_BROKEN = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _say_why(raw: bytes) -> NoReturn:
    line = _REQUEST_LINE.match(raw)
    if line is None:
        raise invalid_request("The request line is malformed.")
    if line.group(2)[5:6] != b"1":
        raise Refusal("version_not_supported", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    raise invalid_request("A header field is malformed.")


def _pairs(block: bytes) -> list[Header]:
    pairs: list[Header] = []
    for line in block.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        pairs.append((name.lower(), value.strip(b" \t")))
    return pairs


def _path_of(method: bytes, target: bytes) -> bytes:
    """The path and query of a target, which is in the form that its method allows."""
    if target.startswith(b"/"):
        if b"#" in target:
            raise invalid_request("A fragment is never sent.")
        return target
    if target == b"*" and method == b"OPTIONS":
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if method == b"CONNECT" or absolute is None or _HOST.fullmatch(absolute.group(1)) is None:
        raise invalid_request("The request target is malformed.")
    path = absolute.group(2)
    if not path and method == b"OPTIONS":
        return b"*"
    return path if path.startswith(b"/") else b"/" + path


def _parted(target: bytes) -> tuple[str, bytes]:
    raw, _, query = target.partition(b"?")
    path = raw.decode("ascii")
    return (unquote(path) if "%" in path else path), query


def _check_host(fields: Fields, *, modern: bool) -> None:
    host = fields.first(b"host")
    if host is None:
        if modern:
            raise invalid_request("The Host field is missing.")
        return
    if _repeated(fields, b"host") or _HOST.fullmatch(host) is None:
        raise invalid_request("There must be one Host field, and a host in it.")


def _set_framing(head: Head) -> None:
    """Where the body ends; everything that could be read in two ways is refused."""
    given = head.fields.first(b"content-length")
    coding = head.fields.first(b"transfer-encoding")
    if coding is not None:
        if given is not None:
            raise invalid_request("Content-Length and Transfer-Encoding exclude each other.")
        if not head.modern:
            raise invalid_request("HTTP/1.0 has no Transfer-Encoding.")
        _check_coding(",".join(head.fields.every(b"transfer-encoding")))
        head.length = CHUNKED
    elif given is not None:
        if _repeated(head.fields, b"content-length"):
            raise invalid_request("Content-Length is given twice.")
        if not given.isdigit() or len(given) > _LONGEST_LENGTH:
            raise invalid_request("Content-Length is not a length.")
        head.length = int(given)


def _repeated(fields: Fields, name: bytes) -> bool:
    return not fields.unique and len(fields.every(name)) > 1


def _check_coding(value: str) -> None:
    codings = [coding.strip(" \t").lower() for coding in value.split(",")]
    if codings == ["chunked"]:
        return
    if codings[-1] != "chunked" or codings.count("chunked") > 1 or "" in codings or "identity" in codings:
        raise invalid_request("Transfer-Encoding does not say where the body ends.")
    raise Refusal("not_implemented", "The only transfer coding here is chunked.")


def _set_connection(head: Head) -> None:
    if head.fields.first(b"connection") is None:
        return
    given = ",".join(head.fields.every(b"connection")).lower()
    options = {option.strip(" \t") for option in given.split(",")}
    head.keep = "close" not in options and (head.modern or "keep-alive" in options)


def _set_expectation(head: Head) -> None:
    if not head.modern or head.fields.first(b"expect") is None:
        return
    for value in head.fields.every(b"expect"):
        if value.lower() != "100-continue":
            raise Refusal("expectation_failed", "The only expectation that is met is 100-continue.")
    head.expects = head.length != 0

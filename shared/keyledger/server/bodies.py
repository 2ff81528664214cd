"""Request bodies and queries into structs, with an error that names the field.

JSON nested deeper than 32 is refused before it is decoded: a decoder that recurses would answer it with a
stack overflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from keyledger.errors import Refusal, invalid_request

MAX_DEPTH = 32
MAX_PARAMETERS = 64
T = TypeVar("T")
_PATH = re.compile(r" - at `(?:key in )?\$([^`]*)`$")
_NAMED = re.compile(r"field `([^`]+)`")
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


def decode_json(body: bytes, kind: type[T], *, content_type: str | None) -> T:
    """Decode a body into `kind`; an empty one is `{}`.

    Raises `Refusal`: `unsupported_media_type` for another content type, else `invalid_request`.
    """
    if body and not is_json(content_type):
        raise Refusal("unsupported_media_type", "Send JSON, as Content-Type: application/json.")
    if depth_of(body) > MAX_DEPTH:
        raise invalid_request(f"The JSON is nested deeper than {MAX_DEPTH}.")
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise invalid_request("The body is not valid JSON.") from None


def parse_query(raw: bytes) -> list[tuple[str, str]]:
    """The parameters of a query string, which is UTF-8 once it is unquoted."""
    try:
        return parse_qsl(raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except UnicodeError:
        raise invalid_request("The query is not percent-encoded UTF-8.") from None
    except ValueError:
        raise invalid_request(f"At most {MAX_PARAMETERS} query parameters.") from None


def decode_query(pairs: Sequence[tuple[str, str]], kind: type[T]) -> T:
    """Decode query parameters into `kind`; each may be given once, and what is given means something."""
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise invalid_request(f"The query parameter {name[:64]} is given twice.", field=name[:64])
        if "\0" in value:
            raise invalid_request("NUL is not allowed.", field=name[:64])
        values[name] = value
    try:
        decoded = msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None
    for name in values:
        # a lax decoder reads the word null as nothing given
        if getattr(decoded, name, "") is None:
            raise invalid_request(f"{name} has no value null.", field=name)
    return decoded


def is_json(content_type: str | None) -> bool:
    """Whether a Content-Type header says JSON."""
    media = (content_type or "").partition(";")[0].strip().lower()
    return media == "application/json" or (media.startswith("application/") and media.endswith("+json"))


def depth_of(body: bytes) -> int:
    """How deep arrays and objects are nested, brackets inside strings left out."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for bracket in _BRACKETS.finditer(_STRINGS.sub(b"", body)):
        depth += 1 if bracket.group() in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _wrong(message: str) -> Refusal:
    path = _PATH.search(message)
    # an index says which element, not which field
    parts = re.sub(r"\[[^\]]*\]", "", path.group(1) if path else "").split(".")
    named = _NAMED.search(message)
    if named:
        parts.append(named.group(1))
    field = ".".join(part for part in parts if part) or None
    return invalid_request(_PATH.sub("", message) + ".", field=field)


def header_values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Every value of a header, in order."""
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]

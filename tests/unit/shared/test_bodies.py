"""Bodies and queries: decoded whole, or refused with the name of the field."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from keyledger.errors import Refusal
from keyledger.server.bodies import (
    MAX_DEPTH,
    MAX_PARAMETERS,
    decode_json,
    decode_query,
    depth_of,
    header_values,
    is_json,
    parse_query,
)

JSON = "application/json"


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    limit: int


class Body(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    colour: Literal["red", "blue"] = "red"
    inner: Inner | None = None
    many: tuple[str, ...] = ()
    pairs: dict[str, str] = {}


class Empty(msgspec.Struct, forbid_unknown_fields=True):
    name: str | None = None


class Query(msgspec.Struct, forbid_unknown_fields=True):
    limit: int = 50
    share: float = 0.5
    name: str | None = None
    short: Annotated[str, Meta(max_length=3)] = ""


def refusal_of(call: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "name"),
        (b'{"name":1}', "name"),
        (b'{"name":null}', "name"),
        (b'{"name":"a","nmae":"b"}', "nmae"),
        (b'{"name":"a","colour":"green"}', "colour"),
        (b'{"name":"a","inner":{}}', "inner.limit"),
        (b'{"name":"a","inner":{"limit":"5"}}', "inner.limit"),
        (b'{"name":"a","inner":{"limit":5.5}}', "inner.limit"),
        (b'{"name":"a","inner":{"limit":1,"more":2}}', "inner.more"),
        (b'{"name":"a","inner":[]}', "inner"),
        (b'{"name":"a","many":["x",1]}', "many"),
        (b'{"name":"a","pairs":{"x":1}}', "pairs"),
        (b'{"name":"a","pairs":{"x":null}}', "pairs"),
        (b"[]", None),
        (b'"text"', None),
        (b"null", None),
        (b"{", None),
        (b"{'name':'a'}", None),
        (b'{"name":"a"}{', None),
        (b'{"name":"\xff"}', None),
        (b'{"name":"\\ud800"}', None),
        (b'\xef\xbb\xbf{"name":"a"}', None),
    ],
)
def test_a_body_that_does_not_fit_is_refused_naming_its_field(body: bytes, field: str | None) -> None:
    refusal = refusal_of(lambda: decode_json(body, Body, content_type=JSON))
    assert (refusal.code, refusal.field) == ("invalid_request", field)
    assert refusal.message.endswith(".")
    assert " - at `" not in refusal.message


def test_a_body_that_fits_is_decoded() -> None:
    body = b' {"name":"a","inner":{"limit":5},"many":["x"],"pairs":{"k":"v"}} '
    assert decode_json(body, Body, content_type=JSON) == Body("a", "red", Inner(5), ("x",), {"k": "v"})


def test_no_body_is_an_empty_object_whatever_its_type() -> None:
    assert decode_json(b"", Empty, content_type=None) == Empty()
    assert decode_json(b"", Empty, content_type="text/plain") == Empty()
    assert refusal_of(lambda: decode_json(b"", Body, content_type=JSON)).field == "name"


@pytest.mark.parametrize("media", [JSON, "Application/JSON; charset=utf-8", "application/problem+json"])
def test_json_is_json_under_any_of_its_names(media: str) -> None:
    assert is_json(media)
    assert decode_json(b'{"name":"a"}', Body, content_type=media) == Body("a")


@pytest.mark.parametrize(
    "media", [None, "", "text/plain", "text/json", "application/jsonp", "application/xml"]
)
def test_another_media_type_is_refused_before_the_body_is_read(media: str | None) -> None:
    assert not is_json(media)
    refusal = refusal_of(lambda: decode_json(b"{", Body, content_type=media))
    assert refusal.code == "unsupported_media_type"


def nested(depth: int) -> bytes:
    return b'{"name":"a","many":[],"pairs":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_json_may_be_nested_up_to_a_bound_and_no_deeper() -> None:
    assert refusal_of(lambda: decode_json(nested(MAX_DEPTH), Body, content_type=JSON)).field == "pairs"
    deeper = refusal_of(lambda: decode_json(nested(MAX_DEPTH + 1), Body, content_type=JSON))
    assert (deeper.code, deeper.field) == ("invalid_request", None)
    assert str(MAX_DEPTH) in deeper.message


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"x":' * 10_000, b"[" * 30_000 + b"]" * 30_000])
def test_a_tower_of_brackets_is_refused_and_not_climbed(body: bytes) -> None:
    assert refusal_of(lambda: decode_json(body, Body, content_type=JSON)).code == "invalid_request"


def test_many_values_side_by_side_are_not_deep() -> None:
    content = {"name": "a", "many": ["[[[[[{{{{"] * 200, "pairs": {str(n): '\\"[{' for n in range(200)}}
    assert decode_json(msgspec.json.encode(content), Body, content_type=JSON).name == "a"


def naive_depth(content: Any) -> int:
    if isinstance(content, dict):
        return 1 + max((naive_depth(value) for value in content.values()), default=0)
    if isinstance(content, list):
        return 1 + max((naive_depth(value) for value in content), default=0)
    return 0


def wrapped(content: Any, times: int) -> Any:
    for number in range(times):
        content = [content, "]"] if number % 2 else {'"[\\': content}
    return content


contents = st.recursive(
    st.none() | st.integers() | st.text('a"\\[]{}é', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\[{', max_size=3), inner, max_size=4)
    ),
    max_leaves=30,
)


@settings(deadline=None)
@given(contents, st.integers(0, 45))
def test_the_depth_is_that_of_the_values_and_not_of_the_text(content: Any, times: int) -> None:
    """Below the bound the exact number is of no use, and is not always counted."""
    content = wrapped(content, times)
    real = naive_depth(content)
    found = depth_of(msgspec.json.encode(content))
    assert found in (0, real)
    assert (found > MAX_DEPTH) is (real > MAX_DEPTH)


def test_a_query_is_decoded_by_its_types() -> None:
    query = decode_query([("limit", "7"), ("share", "0.25"), ("name", "a b")], Query)
    assert query == Query(7, 0.25, "a b")
    assert decode_query([], Query) == Query()
    assert decode_query([("name", "")], Query).name == ""


@pytest.mark.parametrize(
    ("pairs", "field"),
    [
        ([("limit", "many")], "limit"),
        ([("limit", "")], "limit"),
        ([("limit", "5"), ("limit", "5")], "limit"),
        ([("offset", "5")], "offset"),
        ([("short", "four")], "short"),
    ],
)
def test_a_query_that_does_not_fit_is_refused_naming_its_parameter(
    pairs: list[tuple[str, str]], field: str
) -> None:
    refusal = refusal_of(lambda: decode_query(pairs, Query))
    assert (refusal.code, refusal.field) == ("invalid_request", field)


def test_the_word_null_gives_no_value_where_one_is_asked_for() -> None:
    """A filter that silently falls away would list what it was to leave out."""

    class Filter(msgspec.Struct):
        colour: Literal["red", "blue"] | None = None

    refusal = refusal_of(lambda: decode_query([("colour", "null")], Filter))
    assert (refusal.code, refusal.field) == ("invalid_request", "colour")
    assert decode_query([], Filter).colour is None


def test_a_query_is_utf_8_and_of_bounded_size() -> None:
    assert parse_query(b"a=%C3%A9&b=&a=2") == [("a", "é"), ("b", ""), ("a", "2")]
    assert parse_query(b"") == []
    for raw in (b"a=%FF", b"a=\xff", b"&".join([b"a=1"] * (MAX_PARAMETERS + 1))):
        assert refusal_of(lambda raw=raw: parse_query(raw)).code == "invalid_request"
    assert len(parse_query(b"&".join([b"a=1"] * MAX_PARAMETERS))) == MAX_PARAMETERS
    assert refusal_of(lambda: decode_query([("name", "a\0b")], Query)).field == "name"


def test_a_long_parameter_name_is_not_repeated_whole() -> None:
    refusal = refusal_of(lambda: decode_query([("x" * 9000, ""), ("x" * 9000, "")], Query))
    assert len(refusal.message) < 200
    assert refusal.field == "x" * 64


def test_every_value_of_a_header_is_found_whatever_its_case() -> None:
    headers = [(b"X-API-Key", b"a"), (b"accept", b"*/*"), (b"x-api-key", b"\xe9")]
    assert header_values(headers, b"x-api-key") == ["a", "é"]
    assert header_values(headers, b"authorization") == []

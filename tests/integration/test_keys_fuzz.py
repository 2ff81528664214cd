"""Whatever is sent, the answer is the contract's: never a 500, never a word about our insides."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.keys import House, Keys, Raw, house, raw
from tests.support.servers import Servers

FUZZ = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ALLOWED = frozenset({200, 201, 204, 400, 401, 403, 404, 405, 409, 412, 413, 415, 422})

texts = st.text(max_size=30) | st.sampled_from(
    [
        "",
        "\u0000",
        "a\u0000b",
        "\ud800",
        "\u2028",
        "' OR 1=1 --",
        "%",
        "\\",
        "null",
        "*",
        "keyledger:admin",
        "a" * 5000,
    ]
)
numbers = st.integers() | st.sampled_from([10**30, -(2**63), 2**63, 0, -1]) | st.floats()
leaves = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(
    "name environment scopes expires_at allowed_ips rate_limit external_id metadata enabled suspended quota "
    "overlap_seconds retire reason note wait workspace_id scope id limit window_seconds on_outage".split()
)
#: Shapes that come near to what would do, so that what is behind the decoder is reached as well.
near: dict[str, st.SearchStrategy[Any]] = {
    "name": texts,
    "environment": st.sampled_from(["live", "test"]),
    "scopes": st.lists(texts, max_size=3),
    "expires_at": st.datetimes().map(lambda when: when.isoformat() + "Z") | texts,
    "allowed_ips": st.lists(st.ip_addresses().map(str) | texts, max_size=3),
    "rate_limit": st.fixed_dictionaries({"limit": numbers, "window_seconds": numbers}),
    "external_id": texts,
    "metadata": st.dictionaries(texts, texts, max_size=3),
    "enabled": st.booleans(),
    "overlap_seconds": numbers,
    "retire": st.sampled_from(["at_overlap", "on_first_use"]),
    "reason": texts,
    "note": texts,
    "wait": st.sampled_from([0, -0.0, 1e-9, 1e308]),
    "workspace_id": texts,
    "scope": texts,
}
create = st.fixed_dictionaries(
    {"name": near["name"], "environment": near["environment"]},
    optional={
        field: near[field]
        for field in ("scopes", "expires_at", "allowed_ips", "rate_limit", "external_id", "metadata")
    },
)
bodies = (
    st.dictionaries(names | texts, values, max_size=5)
    | st.fixed_dictionaries({}, optional=near)
    | create
    | values
)


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture(scope="module")
async def keys(here: House) -> Keys:
    return Keys(await here.workspace())


@pytest.fixture(scope="module")
async def addresses(here: House, keys: Keys) -> list[tuple[str, str]]:
    one, other = [(await here.key(keys.workspace.rpartition("/")[2]))["id"] for _ in range(2)]
    return [
        ("POST", "/v1/workspaces"),
        ("PATCH", keys.workspace),
        ("POST", keys.all),
        ("PATCH", keys.one(one)),
        ("POST", keys.one(one, "rotate")),
        ("POST", keys.one(other, "revoke")),
        ("POST", "/v1/authorize"),
    ]


async def ask(
    here: House, method: str, path: str, body: bytes = b"", *more: tuple[bytes, bytes], query: bytes = b""
) -> Raw:
    """Send it as the operator, and check what every answer keeps to."""
    headers = [(b"x-api-key", (here.admin.key or "").encode()), (b"content-type", b"application/json"), *more]
    answer = await raw(here.edge, method, path, query=query, headers=headers, chunks=[body])
    assert answer.status in ALLOWED, (method, path, query, body[:500], answer)
    assert answer.headers["x-request-id"]
    if answer.status >= 400 and method != "HEAD":
        told = json.loads(answer.body)
        assert told["error"] != "internal_error"
        assert all(word not in answer.body for word in (b"Traceback", b"asyncpg", b"ledger.", b"/services/"))
    return answer


def encoded(value: Any) -> bytes:
    # as Python writes it: lone surrogates as \ud800, and the words NaN and Infinity
    return json.dumps(value).encode()


@FUZZ
@given(value=bodies, repeated=st.booleans())
async def test_any_json_is_answered(
    here: House, addresses: list[tuple[str, str]], value: Any, repeated: bool
) -> None:
    body = encoded(value)
    more = [(b"idempotency-key", b"fuzz")] if repeated else []
    for method, path in addresses:
        await ask(here, method, path, body, *more)


@FUZZ
@given(body=st.binary(max_size=200) | create.map(lambda value: encoded(value)[:-1] + b',"name":"twice"}'))
async def test_any_bytes_are_answered(here: House, addresses: list[tuple[str, str]], body: bytes) -> None:
    for method, path in addresses:
        await ask(here, method, path, body)


@pytest.mark.parametrize("bad", ["\u0000", "\ud800", "\udfff\ud800", "a" * 70000])
async def test_no_string_of_a_body_is_trusted(
    here: House, addresses: list[tuple[str, str]], bad: str
) -> None:
    fields: list[dict[str, Any]] = [
        {"name": bad},
        {"environment": bad},
        {"scopes": [bad]},
        {"expires_at": bad},
        {"allowed_ips": [bad]},
        {"allowed_ips": [f"fe80::1%{bad}"]},
        {"external_id": bad},
        {"metadata": {bad: "a"}},
        {"metadata": {"a": bad}},
        {"rate_limit": {bad: 1}},
        {bad: 1},
        {"reason": bad},
        {"note": bad},
        {"retire": bad},
        {"workspace_id": bad, "scope": bad},
    ]
    for field in fields:
        for method, path in addresses:
            body = {"name": "k", "environment": "live", **field} if path.endswith("keys") else field
            answer = await ask(here, method, path, encoded(body))
            assert answer.status in (400, 404, 413)


queries = st.lists(
    st.tuples(
        st.sampled_from(
            [b"limit", b"cursor", b"search", b"status", b"environment", b"external_id", b"after", b"nonce"]
        )
        | st.binary(max_size=6),
        st.binary(max_size=20)
        | texts.map(lambda text: quote(text, errors="replace").encode())
        | st.integers().map(lambda number: str(number).encode()),
    ),
    max_size=5,
).map(lambda pairs: b"&".join(name + b"=" + value for name, value in pairs))


@FUZZ
@given(query=queries | st.binary(max_size=60))
async def test_any_query_is_answered(
    here: House, keys: Keys, addresses: list[tuple[str, str]], query: bytes
) -> None:
    one = addresses[3][1]
    for path in (
        "/v1/workspaces",
        keys.workspace,
        keys.all,
        keys.events,
        one,
        f"{one}/events",
        "/v1/feed",
        "/v1/feed/uses",
        "/v1/head",
        "/healthz",
        "/readyz",
        "/docs",
    ):
        await ask(here, "GET", path, query=query)


@pytest.mark.parametrize(
    "query",
    [
        b"search=" + b"a" * 60000,
        b"&" * 5000,
        b"=" * 5000,
        b"a=1&" * 5000,
        b"search=%",
        b"search=%zz",
        b"search=%0",
        b"search=%ff%fe",
        b"search=\xff",
        b"search=%ed%a0%80",
        b"search=%00",
        b"%00=1",
        b"cursor=%00",
        b"after=" + b"9" * 5000,
        b"limit=" + b"9" * 5000,
        b"limit=1e400",
        b"limit=NaN",
        b"limit=Infinity",
        b"external_id=%00",
        b"?search=a",
        b"#",
        b";",
        b"search=%F0%9F%94%91",
    ],
)
async def test_no_query_breaks_a_list(here: House, keys: Keys, query: bytes) -> None:
    for path in (keys.all, keys.events, "/v1/workspaces", "/v1/feed", "/v1/head"):
        await ask(here, "GET", path, query=query)


@FUZZ
@given(
    method=st.sampled_from(
        ["GET", "POST", "PATCH", "PUT", "DELETE", "HEAD", "OPTIONS", "QUERY", "\u0000", ""]
    ),
    segments=st.lists(
        st.sampled_from(
            [
                "v1",
                "workspaces",
                "keys",
                "events",
                "rotate",
                "..",
                ".",
                "",
                "{ws}",
                "{ws:str}",
                "%00",
                "ws_" + "1" * 22,
            ]
        )
        | st.text(max_size=12),
        max_size=6,
    ),
)
async def test_any_address_is_answered(here: House, method: str, segments: list[str]) -> None:
    path = "/" + "/".join(segments)
    path = path.encode(errors="replace").decode()
    await ask(here, method, path)
    await ask(here, method, "/v1/workspaces" + path)


@FUZZ
@given(
    name=st.sampled_from(
        [
            b"if-match",
            b"idempotency-key",
            b"x-request-id",
            b"accept",
            b"authorization",
            b"content-type",
            b"x-api-key",
            b"content-length",
            b"cookie",
            b"x-forwarded-for",
            b"host",
        ]
    ),
    value=st.binary(max_size=40).map(lambda text: text.replace(b"\r", b"").replace(b"\n", b"")),
)
async def test_any_header_is_answered(
    here: House, addresses: list[tuple[str, str]], name: bytes, value: bytes
) -> None:
    for method, path in addresses[1:4]:
        answer = await ask(here, method, path, b'{"name":"n","environment":"live"}', (name, value))
        assert "\n" not in answer.headers["x-request-id"]


async def test_the_service_is_as_well_as_before(here: House, keys: Keys) -> None:
    assert (await here.admin("GET", "/readyz")).json()["status"] == "ready"
    assert (await here.admin("GET", f"{keys.all}?limit=200")).status_code == 200
    events = (await here.admin.ok("GET", f"{keys.events}?limit=200"))["events"]
    assert events

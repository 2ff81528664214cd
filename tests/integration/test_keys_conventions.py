"""What holds at every address of the key service: routes, methods, sizes, formats, headers, error bodies."""

import json
from collections.abc import AsyncIterator

import pytest

from tests.support.keys import UNKNOWN_WS, Caller, House, Keys, house, raw, refused
from tests.support.servers import Servers

JSON = {"Content-Type": "application/json"}
LARGE = 64 * 1024


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture
async def ws(here: House) -> str:
    return await here.workspace()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/nothing",
        "/",
        "/v1",
        "/v1/workspaces/",
        "//v1/workspaces",
        "/v1//workspaces",
        "/docs/x",
        "/docs/",
        "/healthz/",
        "/openapi.json",
        "/schema",
    ],
)
async def test_an_unknown_address_is_not_found(here: House, path: str) -> None:
    answer = await raw(here.edge, "GET", path, headers=[(b"x-api-key", (here.admin.key or "").encode())])
    assert (answer.status, json.loads(answer.body)["error"]) == (404, "not_found")
    assert "x-request-id" in answer.headers


async def test_an_address_is_written_in_one_way_only(here: House, ws: str) -> None:
    made, keys = await here.key(ws), Keys(ws)
    for path in (f"{keys.all}/", f"{keys.one(made['id'])}/", keys.all + "//" + made["id"], keys.all.upper()):
        refused(await here.admin("GET", path), 404, "not_found")


@pytest.mark.parametrize("method", ["DELETE", "PUT", "TRACE", "PROPFIND", "FOO", "get", "\x00", "PATCH"])
async def test_a_method_that_is_not_taken_is_told_which_are(here: House, ws: str, method: str) -> None:
    answer = await raw(here.edge, method, Keys(ws).all)
    assert (answer.status, json.loads(answer.body)["error"]) == (405, "method_not_allowed")
    assert {"GET", "POST"} <= set(answer.headers["allow"].replace(" ", "").split(","))


@pytest.mark.parametrize("chunks", [[b"x" * (LARGE + 1)], [b"x" * 4096] * 17])
async def test_too_large_a_body_is_refused_with_and_without_a_length(
    here: House, ws: str, chunks: list[bytes]
) -> None:
    for headers in ([], [(b"content-length", str(sum(map(len, chunks))).encode())]):
        answer = await raw(here.edge, "POST", Keys(ws).all, headers=headers, chunks=chunks)
        assert (answer.status, json.loads(answer.body)["error"]) == (413, "payload_too_large")


async def test_an_endless_length_is_refused_unread(here: House, ws: str) -> None:
    headers = [(b"content-length", b"9" * 5000)]
    assert (await raw(here.edge, "POST", Keys(ws).all, headers=headers)).status == 413


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "json", ""]
)
async def test_only_json_is_read(here: House, ws: str, content_type: str | None) -> None:
    before = await here.head()
    headers = {} if content_type is None else {"Content-Type": content_type}
    body = b'{"name":"k","environment":"live"}'
    refused(
        await here.admin("POST", Keys(ws).all, content=body, headers=headers), 415, "unsupported_media_type"
    )
    assert await here.head() == before


async def test_json_may_say_its_charset_or_be_a_kind_of_json(here: House, ws: str) -> None:
    for content_type in (
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/merge-patch+json",
    ):
        body = b'{"name":"k","environment":"live"}'
        answer = await here.admin("POST", Keys(ws).all, content=body, headers={"Content-Type": content_type})
        assert answer.status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"{} {}",
        b"\xff",
        b'{"name":"\xff"}',
        b'{"name":"\\ud800"}',
        b"[" * 60000,
        b'{"a":' * 9000,
        b" ",
        b"\xef\xbb\xbf{}",
        b'{"name":NaN}',
        b"\x00",
        b'{"metadata":' + b"[" * 33 + b"]" * 33 + b"}",
    ],
)
async def test_what_is_no_json_object_is_refused(here: House, ws: str, body: bytes) -> None:
    made, keys = await here.key(ws), Keys(ws)
    for method, path in (
        ("POST", "/v1/workspaces"),
        ("PATCH", keys.workspace),
        ("POST", keys.all),
        ("PATCH", keys.one(made["id"])),
        ("POST", keys.one(made["id"], "rotate")),
        ("POST", keys.one(made["id"], "revoke")),
        ("POST", "/v1/authorize"),
    ):
        answer = await here.admin(method, path, content=body, headers=JSON)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_an_error_is_a_problem_document_when_that_is_asked_for(here: House, ws: str) -> None:
    accept = {"Accept": "application/problem+json, application/json;q=0.5"}
    answer = await here.admin("POST", Keys(ws).all, {"name": 5}, headers=accept)
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], body["title"], body["error"]) == (400, "Bad Request", "invalid_request")
    assert (body["field"], body["detail"]) == ("name", body["message"])
    assert body["type"].endswith("invalid_request")
    for path, status in (("/v1/nothing", 404), (Keys(UNKNOWN_WS).all, 404)):
        problem = await here.admin("GET", path, headers=accept)
        assert (problem.headers["content-type"], problem.json()["status"]) == (
            "application/problem+json",
            status,
        )
    large = await here.admin("POST", Keys(ws).all, content=b"x" * (LARGE + 1), headers=accept)
    assert (large.headers["content-type"], large.json()["status"]) == ("application/problem+json", 413)


async def test_a_request_id_is_echoed_or_made(here: House, ws: str) -> None:
    for path in (Keys(ws).all, "/v1/nothing", "/healthz"):
        answer = await here.admin("GET", path, headers={"X-Request-Id": "mine-1"})
        assert answer.headers.get_list("x-request-id") == ["mine-1"]
        for unfit in ("", "a b", "x" * 129):
            answer = await here.admin("GET", path, headers={"X-Request-Id": unfit})
            assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("value", ["1", 'W/"1"', '"x"', '""', '"1", "2"', '"-1"', '"' + "1" * 30 + '"', "**"])
async def test_an_unreadable_if_match_is_refused(here: House, ws: str, value: str) -> None:
    made = await here.key(ws)
    answer = await here.admin("PATCH", Keys(ws).one(made["id"]), {"name": "n"}, headers={"If-Match": value})
    refused(answer, 400, "invalid_request", "If-Match")
    assert await here.head() == made["position"]


@pytest.mark.parametrize("value", ["", "a b", "ü", "x" * 256, "a\tb"])
async def test_an_unreadable_idempotency_key_is_refused(here: House, ws: str, value: str) -> None:
    made, keys = await here.key(ws), Keys(ws)
    for path, body in (
        (keys.all, {"name": "k", "environment": "live"}),
        (keys.one(made["id"], "rotate"), {}),
        (keys.one(made["id"], "revoke"), {}),
        ("/v1/workspaces", {"name": "w"}),
    ):
        headers = [
            (b"x-api-key", (here.admin.key or "").encode()),
            (b"idempotency-key", value.encode()),
            (b"content-type", b"application/json"),
        ]
        answer = await raw(here.edge, "POST", path, headers=headers, chunks=[json.dumps(body).encode()])
        assert (answer.status, json.loads(answer.body).get("field")) == (400, "Idempotency-Key")
    assert await here.head() == made["position"]


@pytest.mark.parametrize("name", [b"idempotency-key", b"x-api-key"])
async def test_what_is_given_twice_in_different_words_is_refused(here: House, ws: str, name: bytes) -> None:
    headers = [(b"x-api-key", (here.admin.key or "").encode()), (b"content-type", b"application/json")]
    headers += [(name, b"one"), (name, b"two")]
    body = b'{"name":"k","environment":"live"}'
    answer = await raw(here.edge, "POST", Keys(ws).all, headers=headers, chunks=[body])
    assert answer.status == 400


async def test_a_body_s_address_takes_no_query(here: House, ws: str) -> None:
    made, keys = await here.key(ws), Keys(ws)
    for method, path in (
        ("POST", keys.all),
        ("PATCH", keys.one(made["id"])),
        ("POST", keys.one(made["id"], "revoke")),
        ("POST", keys.one(made["id"], "rotate")),
        ("PATCH", keys.workspace),
        ("GET", keys.workspace),
        ("GET", keys.one(made["id"])),
        ("POST", "/v1/workspaces"),
        ("POST", "/v1/authorize"),
    ):
        refused(await here.admin(method, f"{path}?force=1"), 400, "invalid_request", "force")


async def test_authorize_says_whether_the_caller_may(here: House, ws: str) -> None:
    by: Caller = await here.manager(ws, "usage:read")
    asked = {"workspace_id": ws, "scope": "keyledger:usage:read"}
    answer = await by.ok("POST", "/v1/authorize", asked)
    assert answer == {"principal": by.key_id, "workspace_id": ws, "scopes": ["keyledger:usage:read"]}
    allowed = await here.admin("POST", "/v1/authorize", asked)
    head = (await here.admin("GET", f"/v1/workspaces/{ws}")).headers["X-Keyledger-Position"]
    assert (allowed.status_code, allowed.headers["X-Keyledger-Position"]) == (200, head)
    refused(
        await by("POST", "/v1/authorize", asked | {"scope": "keyledger:keys:read"}),
        403,
        "insufficient_permissions",
    )
    theirs = await here.workspace()
    for workspace in (theirs, UNKNOWN_WS, "ws_x", "", "\u0000"):
        refused(await by("POST", "/v1/authorize", asked | {"workspace_id": workspace}), 404, "not_found")
    refused(await here.admin("POST", "/v1/authorize", asked | {"workspace_id": UNKNOWN_WS}), 404, "not_found")
    for scope in ("contacts:read", "*", "", "keyledger:nope", "keyledger:", "keyledger:\u0000"):
        refused(await by("POST", "/v1/authorize", asked | {"scope": scope}), 400, "invalid_request", "scope")
    for body, field in (({}, "workspace_id"), ({"workspace_id": ws}, "scope"), (asked | {"x": 1}, "x")):
        refused(await by("POST", "/v1/authorize", body), 400, "invalid_request", field)
    refused(await here.nobody("POST", "/v1/authorize", asked), 401, "missing_api_key")

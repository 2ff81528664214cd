"""The edge: every request is bounded and named before the application sees it."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from keyledger.server.edge import Edge

LIMIT = 10
Headers = list[tuple[bytes, bytes]]


class Application:
    """Remembers what reached it, and answers 200 with the headers it was given."""

    def __init__(self, headers: Headers | None = None) -> None:
        self.bodies: list[bytes] = []
        self.request_ids: list[str] = []
        self.then: list[str] = []
        self._headers = headers or []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.request_ids.append(scope["state"]["request_id"])
        first = await receive()
        assert first["more_body"] is False
        self.bodies.append(first["body"])
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        self.then.append((await receive())["type"])
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Answer:
    """What the client got."""

    def __init__(self, messages: list[Any]) -> None:
        assert [message["type"] for message in messages] == ["http.response.start", "http.response.body"]
        self.status: int = messages[0]["status"]
        self.headers: Headers = messages[0]["headers"]
        self.body: bytes = messages[1]["body"]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]


async def ask(
    application: Application, parts: Iterable[bytes] = (b"",), headers: Headers | None = None
) -> Answer:
    """Send a body in parts, then hang up."""
    parts = list(parts)
    incoming: list[Any] = [
        {"type": "http.request", "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]
    return await exchange(application, [*incoming, {"type": "http.disconnect"}], headers)


async def exchange(
    application: Application, incoming: list[Any], headers: Headers | None = None, path: str = "/v1/thing"
) -> Answer:
    waiting, sent = iter(incoming), list[Any]()

    async def receive() -> Any:
        return next(waiting)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "path": path, "headers": headers or []}
    await Edge(application, body_limit=LIMIT)(scope, receive, send)
    return Answer(sent)


async def test_a_body_arrives_whole_however_it_was_cut() -> None:
    application = Application()
    answer = await ask(application, [b"abc", b"", b"defg", b"hij"])
    assert application.bodies == [b"abcdefghij"]
    assert application.then == ["http.disconnect"], "later messages are passed on"
    assert answer.status == 200


@pytest.mark.parametrize(
    ("parts", "headers"),
    [
        ([b"x" * 11], []),
        ([b"x" * 6, b"x" * 5], []),
        ([b"x"], [(b"content-length", b"11")]),
        ([b"x"], [(b"content-length", b"9" * 5000)]),
        ([b"x" * 11], [(b"content-length", b"1")]),
        ([b"x" * 11], [(b"content-length", b"-1")]),
    ],
)
async def test_a_body_beyond_the_limit_never_reaches_the_application(
    parts: list[bytes], headers: Headers
) -> None:
    application = Application()
    answer = await ask(application, parts, headers)
    assert application.bodies == []
    assert answer.status == 413
    told = msgspec.json.decode(answer.body)
    assert told["error"] == "payload_too_large"
    assert answer.values(b"x-request-id") == [told["request_id"].encode()]
    assert answer.values(b"content-length") == [str(len(answer.body)).encode()]
    assert answer.values(b"connection") == [b"close"], "the rest of the body is not read"
    assert answer.values(b"cache-control") == [b"no-store"]


async def test_an_announced_length_is_refused_without_reading() -> None:
    answer = await exchange(Application(), [], [(b"content-length", b"11")])
    assert answer.status == 413


async def test_half_a_body_is_not_taken_for_the_whole() -> None:
    """Else a caller who dies after the headers would have asked for every default."""
    for incoming in ([], [{"type": "http.request", "body": b"{}", "more_body": True}]):
        application = Application()
        await exchange(application, [*incoming, {"type": "http.disconnect"}])
        assert application.bodies == []


@pytest.mark.parametrize("path", ["/v1/thing/", "//v1/thing", "/v1//thing", "//"])
async def test_one_thing_has_one_address(path: str) -> None:
    application = Application()
    answer = await exchange(application, [{"type": "http.request", "body": b""}], path=path)
    assert application.bodies == []
    assert answer.status == 404
    assert msgspec.json.decode(answer.body)["error"] == "not_found"


async def test_the_root_is_an_address_like_any_other() -> None:
    hang_up = {"type": "http.disconnect"}
    answer = await exchange(Application(), [{"type": "http.request", "body": b""}, hang_up], path="/")
    assert answer.status == 200


async def test_the_size_is_told_in_the_shape_that_was_asked_for() -> None:
    answer = await ask(Application(), [b"x" * 11], [(b"accept", b"application/problem+json")])
    assert answer.values(b"content-type") == [b"application/problem+json"]
    assert msgspec.json.decode(answer.body)["status"] == 413


async def test_the_callers_request_id_is_taken_and_answered() -> None:
    application = Application()
    answer = await ask(application, headers=[(b"x-request-id", b"trace-7/~!")])
    assert application.request_ids == ["trace-7/~!"]
    assert answer.values(b"x-request-id") == [b"trace-7/~!"]


@pytest.mark.parametrize("value", [b"", b"a b", b"x" * 129, b"tab\t", b"\xe9", b"a\r\nset-cookie: x"])
async def test_a_request_id_that_could_do_harm_is_replaced(value: bytes) -> None:
    application = Application()
    answer = await ask(application, headers=[(b"x-request-id", value)])
    assert re.fullmatch(r"req_[0-9A-Za-z]{22}", application.request_ids[0])
    assert answer.values(b"x-request-id") == [application.request_ids[0].encode()]


async def test_every_request_without_an_id_gets_its_own() -> None:
    application = Application()
    await ask(application)
    await ask(application)
    assert len(set(application.request_ids)) == 2


async def test_nothing_is_cached_unless_the_application_says_so() -> None:
    assert (await ask(Application())).values(b"cache-control") == [b"no-store"]
    cached = Application([(b"Cache-Control", b"max-age=60")])
    assert (await ask(cached)).values(b"cache-control") == [b"max-age=60"]


async def test_what_is_no_request_is_passed_on_untouched() -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([scope, receive, send])

    scope: Any = {"type": "lifespan"}
    receive: Any = object()
    send: Any = object()
    await Edge(application)(scope, receive, send)
    assert seen == [{"type": "lifespan"}, receive, send]

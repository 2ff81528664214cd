"""RFC 9112 by raw sockets: what the listener takes, on the hot addresses and on those that it passes on."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from services.verifier.listener.bounds import AT_ONCE, BACKLOG
from tests.support.followed_log import token
from tests.support.listening import Client, Heard, Listening, listening

KEY = token(1)
BODY = json.dumps({"key": KEY, "cost": 0}).encode()
VERIFY = (
    b"POST /v1/verify HTTP/1.1\r\nHost: v\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
GATEWAY = f"GET /v1/gateway HTTP/1.1\r\nHost: v\r\nX-API-Key: {KEY}\r\n\r\n".encode()
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: v\r\n\r\n"
GOOD = [
    pytest.param(VERIFY, id="verify"),
    pytest.param(GATEWAY, id="gateway"),
    pytest.param(HEALTH, id="rest"),
]
# a method and an address of each kind; a missing one is passed on as well
STARTS = [
    pytest.param(start.encode(), id=start.replace("/", "-"))
    for start in (
        "POST /v1/verify",
        "POST /v1/verify/batch",
        "GET /v1/gateway",
        "GET /healthz",
        "GET /missing",
    )
]


@pytest.fixture(scope="module")
def server() -> Iterator[Listening]:
    with listening() as made:
        yield made


@pytest.fixture
def client(server: Listening) -> Iterator[Client]:
    with Client(server.port) as made:
        yield made


def told(heard: Heard | None, status: int, error: str) -> Heard:
    """The answer, which is this error in the contract's shape."""
    assert heard is not None
    assert heard.status == status
    body = json.loads(heard.body)
    assert body["error"] == error
    assert body["message"]
    assert body["request_id"] == heard.headers["x-request-id"]
    return heard


def asked(start: bytes, *lines: bytes, body: bytes = b"") -> bytes:
    """A request with these lines after its Host."""
    return b"\r\n".join([start + b" HTTP/1.1", b"Host: v", *lines, b"", body])


# -- what is taken


@pytest.mark.parametrize("request_", GOOD)
@pytest.mark.parametrize("size", [None, 1, 7])
def test_a_request_is_answered_however_it_arrives(client: Client, request_: bytes, size: int | None) -> None:
    for _ in range(2):
        client.send(request_, size=size)
        heard = client.answer()
        assert heard is not None
        assert heard.status == 200
        assert heard.headers["date"].endswith(" GMT")
        assert heard.headers["x-request-id"]
        assert "connection" not in heard.headers
        assert "server" not in heard.headers


@pytest.mark.parametrize("size", [None, 1, 100])
def test_pipelined_requests_are_answered_in_their_order(client: Client, size: int | None) -> None:
    ids = [f"id-{number}" for number in range(3 * AT_ONCE)]
    starts = [VERIFY, HEALTH, GATEWAY, VERIFY]
    client.send(
        b"".join(
            starts[number % 4].replace(b"Host: v\r\n", f"Host: v\r\nX-Request-Id: {name}\r\n".encode())
            for number, name in enumerate(ids)
        ),
        size=size,
    )
    heard = [client.answer() for _ in ids]
    assert [each and each.headers["x-request-id"] for each in heard] == ids
    assert {each and each.status for each in heard} == {200}


def test_what_waits_holds_up_what_is_behind_it(client: Client) -> None:
    waiting = json.dumps({"key": KEY, "min_position": 99}).encode()
    slow = asked(b"POST /v1/verify", b"Content-Type: application/json", b"Content-Length: %d" % len(waiting))
    client.send(slow + waiting + GATEWAY + HEALTH)
    told(client.answer(), 503, "position_not_reached")
    assert [each and each.status for each in (client.answer(), client.answer())] == [200, 200]


def test_behind_one_that_waits_only_so_much_is_kept(client: Client) -> None:
    waiting = json.dumps({"key": KEY, "min_position": 99}).encode()
    slow = asked(b"POST /v1/verify", b"Content-Type: application/json", b"Content-Length: %d" % len(waiting))
    many = 20 * BACKLOG // len(GATEWAY)
    client.send(slow + waiting + GATEWAY * many)
    told(client.answer(), 503, "position_not_reached")
    assert {each and each.status for each in (client.answer() for _ in range(many))} == {200}


@pytest.mark.parametrize("request_", GOOD)
def test_an_empty_line_before_a_request_is_passed_over(client: Client, request_: bytes) -> None:
    client.send(b"\r\n" + request_ + b"\r\n\r\n" + request_)
    assert [each and each.status for each in (client.answer(), client.answer())] == [200, 200]


@pytest.mark.parametrize("request_", GOOD)
def test_one_who_has_nothing_more_to_say_is_still_answered(client: Client, request_: bytes) -> None:
    client.send(request_ + request_)
    client.done()
    assert [each.status for each in client.answers()] == [200, 200]


def test_one_who_has_nothing_more_to_say_is_answered_after_a_wait(client: Client) -> None:
    waiting = json.dumps({"key": KEY, "min_position": 99}).encode()
    client.send(
        asked(b"POST /v1/verify", b"Content-Type: application/json", b"Content-Length: %d" % len(waiting))
        + waiting
        + GATEWAY
    )
    client.done()
    assert [each.status for each in client.answers()] == [503, 200]


@pytest.mark.parametrize("request_", GOOD)
@pytest.mark.parametrize("keep", [-1, 20])
def test_half_a_request_is_no_request(client: Client, request_: bytes, keep: int) -> None:
    client.send(request_[:keep])
    client.done()
    told(client.answer(), 400, "invalid_request")
    assert client.ended()


@pytest.mark.parametrize("request_", GOOD)
@pytest.mark.parametrize(
    ("version", "connection", "kept", "says"),
    [
        ("1.1", None, True, None),
        ("1.1", "keep-alive", True, None),
        ("1.1", "close", False, "close"),
        ("1.1", "x, Close", False, "close"),
        ("1.1", "keep-alive, close", False, "close"),
        ("1.0", None, False, "close"),
        ("1.0", "Keep-Alive", True, "keep-alive"),
        ("1.0", "close", False, "close"),
        ("1.2", None, True, None),
    ],
)
def test_which_connections_are_kept(
    client: Client, request_: bytes, version: str, connection: str | None, kept: bool, says: str | None
) -> None:
    sent = request_.replace(b"HTTP/1.1", f"HTTP/{version}".encode())
    if connection:
        sent = sent.replace(b"Host: v\r\n", f"Host: v\r\nConnection: {connection}\r\n".encode())
    client.send(sent)
    heard = client.answer()
    assert heard is not None
    assert (heard.status, heard.headers.get("connection")) == (200, says)
    if not kept:
        assert client.ended()
        return
    client.send(request_)
    again = client.answer()
    assert again is not None
    assert again.status == 200


def test_after_close_nothing_is_answered(client: Client) -> None:
    client.send(GATEWAY.replace(b"Host", b"Connection: close\r\nHost") + GATEWAY + HEALTH)
    assert [each.status for each in client.answers()] == [200]


def test_http_1_0_needs_no_host(client: Client) -> None:
    client.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert [each.status for each in client.answers()] == [200]


@pytest.mark.parametrize(
    "path", ["/v1/gateway", "/v1/gateway/x", "/healthz", "/readyz", "/v1/verify", "/missing"]
)
def test_head_is_get_without_its_body(client: Client, path: str) -> None:
    request = f"{{}} {path} HTTP/1.1\r\nHost: v\r\nX-API-Key: {KEY}\r\nX-Request-Id: i\r\n\r\n"
    client.send(request.format("GET").encode())
    got = client.answer()
    client.send(request.format("HEAD").encode())
    headed = client.answer(head=True)
    assert got is not None
    assert headed is not None
    assert headed.status == got.status
    same = ("content-length", "content-type", "x-request-id", "x-key-id", "allow")
    assert [headed.headers.get(name) for name in same] == [got.headers.get(name) for name in same]
    client.send(GATEWAY)
    assert client.answer() is not None


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "post", "FOO"])
@pytest.mark.parametrize("path", ["/v1/verify", "/v1/verify/batch"])
def test_hot_addresses_take_post(client: Client, method: str, path: str) -> None:
    client.send(asked(f"{method} {path}".encode(), b"Content-Length: 9", body=b"not json!"))
    heard = client.answer(head=method == "HEAD")
    assert heard is not None
    assert (heard.status, heard.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        told(heard, 405, "method_not_allowed")
    client.send(VERIFY)
    again = client.answer()
    assert again is not None
    assert again.status == 200


@pytest.mark.parametrize("method", ["POST", "DELETE", "FOO", "TRACE"])
def test_other_addresses_say_what_they_take(client: Client, method: str) -> None:
    client.send(asked(f"{method} /healthz".encode()))
    heard = told(client.answer(), 405, "method_not_allowed")
    assert heard.headers["allow"] == "GET, HEAD, OPTIONS"


def test_the_whole_server_can_be_asked_for_its_options(client: Client) -> None:
    for target in ("*", "http://v"):
        client.send(f"OPTIONS {target} HTTP/1.1\r\nHost: v\r\n\r\n".encode())
        heard = client.answer()
        assert heard is not None
        assert (heard.status, heard.body) == (200, b"")
        assert "POST" in heard.headers["allow"]


@pytest.mark.parametrize("scheme", ["http", "HTTPS"])
def test_a_target_may_be_absolute(client: Client, scheme: str) -> None:
    for request_ in (VERIFY, GATEWAY, HEALTH):
        client.send(request_.replace(b" /", f" {scheme}://other.example:8402/".encode(), 1))
        heard = client.answer()
        assert heard is not None
        assert heard.status == 200
    client.send(b"GET http://v?deny=403 HTTP/1.1\r\nHost: v\r\n\r\n")
    told(client.answer(), 404, "not_found")


@pytest.mark.parametrize(
    "target",
    ["/v1/%76erify", "/v1/verify?", "/v1/gateway%2Fx", "/v1/gateway?scopes=read", "/v1/gateway/?a|b"],
)
def test_targets_are_read_as_before(client: Client, target: str) -> None:
    client.send(
        VERIFY.replace(b"/v1/verify", target.encode()).replace(b"Host", f"X-API-Key: {KEY}\r\nHost".encode())
    )
    heard = client.answer()
    assert heard is not None
    assert heard.status == 200


@pytest.mark.parametrize("path", [b"/v1/verify", b"/v1/verify/batch"])
def test_a_check_takes_no_parameters(client: Client, path: bytes) -> None:
    for plain in (VERIFY, VERIFY):
        client.send(plain)
        client.send(plain.replace(b"/v1/verify", path + b"?colour=red"))
        first, second = client.answer(), told(client.answer(), 400, "invalid_request")
        assert first is not None
        assert (first.status, json.loads(second.body)["field"]) == (200, "colour")


@pytest.mark.parametrize(
    "target", ["/v1/verify/", "//v1/verify", "/v1/Verify", "/v1/gateway%3Fdeny=403", "/"]
)
def test_other_targets_are_nobodys(client: Client, target: str) -> None:
    client.send(asked(b"POST " + target.encode()))
    told(client.answer(), 404, "not_found")


def test_an_upgrade_is_not_heeded(client: Client) -> None:
    for upgrade in (b"websocket", b"h2c"):
        lines = (b"Connection: Upgrade", b"Upgrade: " + upgrade, b"HTTP2-Settings: AAMAAABkAAQAAP__")
        client.send(asked(b"GET /healthz", *lines) + VERIFY)
        assert [each and each.status for each in (client.answer(), client.answer())] == [200, 200]


# -- bodies


def chunked(*lines: bytes, body: bytes) -> bytes:
    return asked(
        b"POST /v1/verify",
        b"Content-Type: application/json",
        b"Transfer-Encoding: chunked",
        *lines,
        body=body,
    )


def in_chunks(body: bytes, size: int, extension: bytes = b"") -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)


@pytest.mark.parametrize("size", [None, 1, 5])
@pytest.mark.parametrize("chunk", [1, 10, 1000])
@pytest.mark.parametrize(
    ("extension", "last"),
    [
        (b"", b"0\r\n\r\n"),
        (b";a", b"000\r\nTrailer: x\r\nAnother: y\r\n\r\n"),
        (b' ; a = "q\\"; uoted" ;b=c', b"0;last\r\n\r\n"),
    ],
)
def test_a_body_may_come_in_chunks(
    client: Client, size: int | None, chunk: int, extension: bytes, last: bytes
) -> None:
    body = in_chunks(BODY, chunk, extension) + last
    client.send(chunked(body=body) + VERIFY, size=size)
    assert [each and each.status for each in (client.answer(), client.answer())] == [200, 200]


@pytest.mark.parametrize(
    "body",
    [
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-1\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloworld\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b";x\r\nhello\r\n0\r\n\r\n",
        b"5;\r\nhello\r\n0\r\n\r\n",
        b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"5;a\n\r\nhello\r\n0\r\n\r\n",
        b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b"g\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nno field\r\n\r\n",
        b"5\r\nhello\r\n0\r\nA : b\r\n\r\n",
        b"5\r\nhello\r\n0\r\nA: b\n\r\n",
        b"5\r\nhello\r\n0\r\nA: b\r\n folded\r\n\r\n",
    ],
)
@pytest.mark.parametrize("size", [None, 1])
def test_malformed_chunks_end_the_connection(client: Client, body: bytes, size: int | None) -> None:
    client.send(chunked(body=body) + GATEWAY, size=size)
    heard = client.answers()
    assert len(heard) == 1
    told(heard[0], 400, "invalid_request")


def test_extensions_and_trailers_have_a_limit(client: Client, server: Listening) -> None:
    client.send(chunked(body=in_chunks(b"x" * 200, 1, b";" + b"a" * 200) + b"0\r\n\r\n"))
    told(client.answer(), 400, "invalid_request")
    with Client(server.port) as other:
        other.send(chunked(body=b"0\r\n" + b"A: b\r\n" * 5000 + b"\r\n"))
        told(other.answer(), 431, "headers_too_large")


@pytest.mark.parametrize(
    ("start", "limit"),
    [(b"POST /v1/verify", 65_536), (b"POST /v1/verify/batch", 1024 * 1024), (b"GET /healthz", 65_536)],
)
@pytest.mark.parametrize("in_pieces", [True, False])
def test_a_body_that_is_too_large_is_not_read(
    client: Client, start: bytes, limit: int, in_pieces: bool
) -> None:
    if in_pieces:
        sent = asked(start, b"Transfer-Encoding: chunked", body=in_chunks(b"x" * (limit + 1), 60_000))
    else:
        sent = asked(start, b"Content-Length: %d" % (limit + 1), body=b"x" * (limit + 1))
    client.send(sent)
    heard = told(client.answer(), 413, "payload_too_large")
    assert heard.headers["connection"] == "close"
    assert client.ended()


@pytest.mark.parametrize("start", [b"POST /v1/verify", b"GET /healthz"])
def test_a_body_of_just_its_limit_is_read(client: Client, start: bytes) -> None:
    for line, body in (
        (b"Content-Length: 65536", b" " * 65_536),
        (b"Transfer-Encoding: chunked", in_chunks(b" " * 65_536, 65_536) + b"0\r\n\r\n"),
    ):
        client.send(asked(start, b"Content-Type: application/json", line, body=body))
        heard = client.answer()
        assert heard is not None
        assert heard.status == (200 if b"health" in start else 400)


@pytest.mark.parametrize("line", [b"Content-Length: 200000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("size", [None, 3000])
def test_a_gateways_body_is_passed_over(client: Client, line: bytes, size: int | None) -> None:
    body = b"\r\n\r\nGET " * 25_000 if b"Length" in line else in_chunks(b"x" * 200_000, 999) + b"0\r\n\r\n"
    assert len(body) >= 200_000
    client.send(
        asked(b"POST /v1/gateway", b"X-API-Key: " + KEY.encode(), line, body=body) + VERIFY, size=size
    )
    assert [each and each.status for each in (client.answer(), client.answer())] == [200, 200]


def test_a_gateways_body_that_is_too_long_for_that_ends_the_connection(client: Client) -> None:
    client.send(
        asked(b"POST /v1/gateway", b"X-API-Key: " + KEY.encode(), b"Content-Length: 2000000", body=b"x")
    )
    heard = client.answer()
    assert heard is not None
    assert (heard.status, heard.headers["connection"]) == (200, "close")
    assert client.ended()


# -- expectations


def test_a_body_is_asked_for_when_it_will_be_read(client: Client) -> None:
    for start in (b"POST /v1/verify", b"POST /healthz"):
        client.send(asked(start, b"Expect: 100-Continue", b"Content-Length: %d" % len(BODY)))
        first = client.answer()
        assert first is not None
        assert first.status == 100
        client.send(BODY)
        assert client.answer() is not None


@pytest.mark.parametrize(
    ("start", "length", "status"),
    [
        (b"POST /v1/verify", 100_000, 413),
        (b"GET /v1/verify", 10, 405),
        (b"POST /v1/gateway", 10, 401),
        (b"GET /healthz", 100_000, 413),
    ],
)
def test_a_body_that_will_not_be_read_is_not_asked_for(
    client: Client, start: bytes, length: int, status: int
) -> None:
    client.send(asked(start, b"Expect: 100-continue", b"Content-Length: %d" % length))
    heard = client.answer()
    assert heard is not None
    assert (heard.status, heard.headers["connection"]) == (status, "close")
    assert client.ended()


def test_nothing_is_asked_for_that_is_here_already_or_does_not_exist(client: Client) -> None:
    client.send(VERIFY.replace(b"Host", b"Expect: 100-continue\r\nHost"))
    client.send(HEALTH.replace(b"Host", b"Expect: 100-continue\r\nHost"))
    assert [each and each.status for each in (client.answer(), client.answer())] == [200, 200]


def test_one_of_1_0_expects_nothing(client: Client) -> None:
    client.send(VERIFY.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nExpect: 100-continue\r\n"))
    assert [each.status for each in client.answers()] == [200]


@pytest.mark.parametrize("start", STARTS)
def test_another_expectation_is_not_met(client: Client, start: bytes) -> None:
    client.send(asked(start, b"Expect: miracles"))
    told(client.answer(), 417, "expectation_failed")


# -- what is refused, on every address

SHAPES: dict[str, tuple[bytes, ...]] = {
    "two lengths": (b"Content-Length: 5", b"Content-Length: 6"),
    "the same length twice": (b"Content-Length: 5", b"Content-Length: 5"),
    "two lengths in one": (b"Content-Length: 5, 5",),
    "length and chunked": (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunked and length": (b"Transfer-Encoding: chunked", b"content-length: 5"),
    "chunked and no length": (b"Transfer-Encoding: chunked", b"Content-Length:"),
    "a folded line": (b"A: b", b" Content-Length: 5"),
    "a folded line with a tab": (b"Transfer-Encoding:", b"\tchunked"),
    "a folded first line": (b" A: b",),
    "a bare LF": (b"A: b\nContent-Length: 5",),
    "a bare LF at the end": (b"A: b\n",),
    "a bare CR": (b"A: b\rContent-Length: 5",),
    "a CR before CRLF": (b"A: b\r",),
    "a space before the colon": (b"Content-Length : 5",),
    "a tab before the colon": (b"Transfer-Encoding\t: chunked",),
    "a space within a name": (b"Content Length: 5",),
    "no colon": (b"Content-Length 5",),
    "no name": (b": 5",),
    "a name that is none": (b"Content-Length(x): 5",),
    "a high byte in a name": (b"X\xe4: 5",),
    "NUL in a value": (b"A: b\x00c",),
    "a control in a value": (b"A: b\x0bc",),
    "DEL in a value": (b"A: b\x7f",),
    "NUL in a name": (b"A\x00: b",),
    "a negative length": (b"Content-Length: -5",),
    "a length with plus": (b"Content-Length: +5",),
    "a length in hex": (b"Content-Length: 0x5",),
    "a length with a point": (b"Content-Length: 5.0",),
    "a length with an underscore": (b"Content-Length: 1_0",),
    "a length in other digits": ("Content-Length: ٥".encode(),),
    "a huge length": (b"Content-Length: 18446744073709551621",),
    "an empty length": (b"Content-Length:",),
    "chunked twice": (b"Transfer-Encoding: chunked, chunked",),
    "chunked in two fields": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "xchunked": (b"Transfer-Encoding: xchunked",),
    "identity": (b"Transfer-Encoding: identity",),
    "identity, chunked": (b"Transfer-Encoding: identity, chunked",),
    "chunked, identity": (b"Transfer-Encoding: chunked, identity",),
    "chunked in quotes": (b'Transfer-Encoding: "chunked"',),
    "chunked with a parameter": (b"Transfer-Encoding: chunked;q=1",),
    "gzip last": (b"Transfer-Encoding: gzip",),
    "an empty coding": (b"Transfer-Encoding:",),
    "a comma before chunked": (b"Transfer-Encoding: , chunked",),
    "a vertical tab before chunked": (b"Transfer-Encoding: \x0bchunked",),
    "a space of another kind before chunked": (b"Transfer-Encoding: \xa0chunked",),
    "a line of another kind after chunked": (b"Transfer-Encoding: chunked\x85",),
    "a space of another kind before a length": (b"Content-Length: \xa05",),
    "two hosts": (b"Host: w",),
    "the same host twice": (b"Host: v",),
}


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("lines", [pytest.param(lines, id=name) for name, lines in SHAPES.items()])
def test_what_could_be_read_in_two_ways_is_refused(
    client: Client, start: bytes, lines: tuple[bytes, ...], size: int | None
) -> None:
    client.send(asked(start, *lines, body=b"hello") + GATEWAY + HEALTH, size=size)
    heard = client.answers()
    assert len(heard) == 1
    assert told(heard[0], 400, "invalid_request").headers["connection"] == "close"


@pytest.mark.parametrize(
    "head",
    [
        b"{start} HTTP/1.1\r\n\r\n",
        b"{start} HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"{start} HTTP/1.1\r\nHost: user@v\r\n\r\n",
        b"{start} HTTP/1.1\r\nHost: v:x\r\n\r\n",
        b"{start} HTTP/1.1\r\nHost: v/x\r\n\r\n",
        b"{start}\r\nHost: v\r\n\r\n",
        b"{start} \r\nHost: v\r\n\r\n",
        b"{start} http/1.1\r\nHost: v\r\n\r\n",
        b"{start} HTTP/1.1 \r\nHost: v\r\n\r\n",
        b"{start}  HTTP/1.1\r\nHost: v\r\n\r\n",
        b"{start}\tHTTP/1.1\r\nHost: v\r\n\r\n",
        b"{start} HTTP/1\r\nHost: v\r\n\r\n",
        b"{start} HTTP/1.10\r\nHost: v\r\n\r\n",
        b"{start} HTTP/1,1\r\nHost: v\r\n\r\n",
        b"{start} XTTP/1.1\r\nHost: v\r\n\r\n",
        b"{start} HTTP/1.1\nHost: v\n\n",
        b" {start} HTTP/1.1\r\nHost: v\r\n\r\n",
        b"{start}#fragment HTTP/1.1\r\nHost: v\r\n\r\n",
        b"{start}\x00 HTTP/1.1\r\nHost: v\r\n\r\n",
        b"{start}\xff HTTP/1.1\r\nHost: v\r\n\r\n",
        b"(x) / HTTP/1.1\r\nHost: v\r\n\r\n",
        b"GET v1/gateway HTTP/1.1\r\nHost: v\r\n\r\n",
        b"GET ftp://v/v1/gateway HTTP/1.1\r\nHost: v\r\n\r\n",
        b"GET http:///v1/gateway HTTP/1.1\r\nHost: v\r\n\r\n",
        b"GET http://u@v/v1/gateway HTTP/1.1\r\nHost: v\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: v\r\n\r\n",
        b"CONNECT v:80 HTTP/1.1\r\nHost: v\r\n\r\n",
        b"{start} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00",
    ],
)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("size", [None, 1])
def test_a_malformed_head_is_refused(client: Client, head: bytes, start: bytes, size: int | None) -> None:
    client.send(head.replace(b"{start}", start) + GATEWAY, size=size)
    heard = client.answers()
    assert len(heard) == 1
    told(heard[0], 400, "invalid_request")


@pytest.mark.parametrize("start", STARTS)
def test_another_coding_is_not_implemented(client: Client, start: bytes) -> None:
    client.send(asked(start, b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n") + GATEWAY)
    heard = client.answers()
    assert len(heard) == 1
    told(heard[0], 501, "not_implemented")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("version", [b"2.0", b"0.9", b"3.1"])
def test_another_version_is_not_spoken(client: Client, start: bytes, version: bytes) -> None:
    client.send(start + b" HTTP/" + version + b"\r\nHost: v\r\n\r\n" + GATEWAY)
    heard = client.answers()
    assert len(heard) == 1
    told(heard[0], 505, "version_not_supported")


def test_the_preface_of_http_2_is_not_spoken(client: Client) -> None:
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    told(client.answer(), 505, "version_not_supported")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("size", [None, 5000])
@pytest.mark.parametrize(
    ("target", "lines", "status", "error"),
    [
        (b"?" + b"x" * 8100, (), None, None),
        (b"?" + b"x" * 8200, (), 414, "uri_too_long"),
        (b"?" + b"x" * 100_000, (), 414, "uri_too_long"),
        (b"", tuple(b"A%d: b" % number for number in range(98)), None, None),
        (b"", tuple(b"A%d: b" % number for number in range(100)), 431, "headers_too_large"),
        (b"", (b"A: " + b"b" * 32_000,), None, None),
        (b"", (b"A: " + b"b" * 32_768,), 431, "headers_too_large"),
        (b"", (b"A: " + b"b" * 1_000_000,), 431, "headers_too_large"),
    ],
)
def test_heads_have_a_limit(
    client: Client,
    start: bytes,
    target: bytes,
    lines: tuple[bytes, ...],
    size: int | None,
    status: int | None,
    error: str | None,
) -> None:
    client.send(asked(start + target, *lines), size=size)
    heard = client.answer()
    assert heard is not None
    if status is None:
        assert heard.status not in (400, 414, 431) or b"verify" in start
        return
    told(heard, status, error or "")
    assert client.ended()


def test_a_head_that_never_ends_is_refused_before_it_does(client: Client) -> None:
    client.send(b"GET /" + b"x" * 40_000)
    told(client.answer(), 414, "uri_too_long")

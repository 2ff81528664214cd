"""The listener's patience, its bounds, whom it lets in, how it ends, and that it says what ASGI says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from keyledger.digest import Peppers
from keyledger.token import Secret
from keyledger.verification.proving import Proven
from services.verifier.listener.bounds import Bounds
from services.verifier.listener.tls import TlsError, server_context
from tests.support.certificates import Authority
from tests.support.followed_log import token
from tests.support.listening import Client, Heard, Listening, listening
from tests.support.verifying import World, client_of

KEY = token(1)
GATEWAY = f"GET /v1/gateway HTTP/1.1\r\nHost: v\r\nX-API-Key: {KEY}\r\n\r\n".encode()
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: v\r\n\r\n"
READY = b"GET /readyz HTTP/1.1\r\nHost: v\r\n\r\n"


def posted(path: str, body: object, *lines: str) -> bytes:
    content = json.dumps(body).encode()
    lines = ("Host: v", "Content-Type: application/json", f"Content-Length: {len(content)}", *lines)
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode() + content


VERIFY = posted("/v1/verify", {"key": KEY, "cost": 0})
SLOW = posted("/v1/verify", {"key": KEY, "cost": 0, "min_position": 99})


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + 10
    pause = socket.socketpair()
    pause[0].settimeout(0.01)
    while not condition():
        assert time.monotonic() < deadline
        with pytest.raises(TimeoutError):
            pause[0].recv(1)
    for end in pause:
        end.close()


def status(heard: Heard | None) -> int:
    assert heard is not None
    return heard.status


# -- the same in every way it is asked

ASKED = [
    ("POST", "/v1/verify", b'{"key":"%s"}' % KEY.encode(), {}),
    ("POST", "/v1/verify", b'{"key":"%s","scopes":["write"]}' % KEY.encode(), {}),
    ("POST", "/v1/verify", b'{"key":"%s","environment":"live","ip":"10.0.0.1"}' % KEY.encode(), {}),
    ("POST", "/v1/verify", b'{"key":"%s","cost":100000001}' % KEY.encode(), {}),
    ("POST", "/v1/verify", b'{"key":"%s","max_staleness":0}' % KEY.encode(), {}),
    ("POST", "/v1/verify", b'{"key":"%s","min_position":2}' % KEY.encode(), {}),
    ("POST", "/v1/verify", b'{"key":"%s","epoch":"9-00"}' % KEY.encode(), {}),
    ("POST", "/v1/verify", b'{"key":"foreign"}', {"Content-Type": "application/json; charset=utf-8"}),
    ("POST", "/v1/verify", b'{"key":1}', {}),
    ("POST", "/v1/verify", b"{", {}),
    ("POST", "/v1/verify", b"", {}),
    ("POST", "/v1/verify", b"[" * 50, {}),
    ("POST", "/v1/verify", b'{"key":"a","x":1}', {"Accept": "application/problem+json"}),
    ("POST", "/v1/verify", b"{}", {"Content-Type": "text/plain"}),
    ("POST", "/v1/verify", b"x" * 70_000, {}),
    ("POST", "/v1/verify?x=1", b'{"key":"a"}', {}),
    ("POST", "/v1/verify/batch?x=1", b'{"requests":[]}', {}),
    ("GET", "/v1/verify", b"", {}),
    ("PUT", "/v1/verify/batch", b"", {"Accept": "application/problem+json"}),
    ("POST", "/v1/verify/batch", b'{"requests":[{"key":"%s"},{"key":"a"}]}' % KEY.encode(), {}),
    ("POST", "/v1/verify/batch", b'{"requests":[{"key":"a","cost":true}]}', {}),
    ("GET", "/v1/gateway?scopes=read", b"", {"X-API-Key": KEY}),
    ("GET", "/v1/gateway?scopes=write", b"", {"X-API-Key": KEY}),
    ("GET", "/v1/gateway?deny=403", b"", {}),
    ("PATCH", "/v1/gateway/x?deny=403", b"body", {"Authorization": f"Bearer {KEY}"}),
    ("GET", "/v1/gateway", b"", {"X-API-Key": "foreign"}),
    ("GET", "/v1/gateway?x=1", b"", {"X-API-Key": KEY}),
    ("GET", "/healthz", b"", {}),
    ("GET", "/readyz", b"", {}),
    ("POST", "/healthz", b"", {}),
    ("GET", "/v1/projection/digest", b"", {}),
    ("GET", "/v1/projection/digest?bucket=x", b"", {}),
    ("GET", "/missing", b"", {}),
    ("GET", "//healthz", b"", {}),
]


@pytest.mark.parametrize(("method", "path", "content", "headers"), ASKED)
def test_it_says_what_asgi_says(method: str, path: str, content: bytes, headers: dict[str, str]) -> None:
    given = {"Content-Type": "application/json", "X-Request-Id": "same", **headers}

    async def by_asgi(at: Listening) -> httpx2.Response:
        async with client_of(at.service.app) as client:
            return await client.request(method, path, content=content, headers=given)

    with listening() as at:
        expected = at.run(by_asgi(at))
    with listening() as at, Client(at.port) as client:
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        start = f"{method} {path} HTTP/1.1\r\nHost: verifier\r\nContent-Length: {len(content)}\r\n{lines}\r\n"
        client.send(start.encode() + content)
        heard = client.answer()
    assert heard is not None
    assert heard.status == expected.status_code
    assert heard.body == expected.content
    del heard.headers["date"]
    told = dict(expected.headers)
    if "allow" in told:
        # HEAD is asked of the application as a GET
        told["allow"] = told["allow"].replace("GET", "GET, HEAD")
    assert heard.headers == told


def test_a_defect_is_a_500_and_the_connection_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with listening() as at, Client(at.port) as client:
        # a record that cannot be judged: nothing of the kind is ever folded
        keys = at.world.store._keys  # pyright: ignore[reportPrivateUsage]
        record = keys["key_0000000000000000000001"]
        keys["key_0000000000000000000001"] = "broken"  # type: ignore[assignment] # pyright: ignore
        client.send(VERIFY + GATEWAY)
        heard = [client.answer(), client.answer()]
        assert [status(each) for each in heard] == [500, 500]
        keys["key_0000000000000000000001"] = record
        client.send(VERIFY)
        assert status(client.answer()) == 200
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err


# -- checks that wait


class Hesitant:
    """A key service that proves nothing until it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()

    async def prove(self, text: str) -> Proven | None:
        del text
        self.asked += 1
        await self.go.wait()
        return None


@pytest.mark.parametrize("request_", [VERIFY, GATEWAY])
def test_what_has_to_be_proven_waits_and_nothing_else_does(request_: bytes) -> None:
    prover = Hesitant()
    world = World(peppers=Peppers({"p2": bytes(32)}, active="p2"), prover=prover)
    with listening(world=world) as at, Client(at.port) as client, Client(at.port) as other:
        client.send(request_ + HEALTH)
        wait_for(lambda: prover.asked == 1)
        other.send(HEALTH)
        assert status(other.answer()) == 200
        at.run(_set(prover.go))
        first = client.answer()
        assert first is not None
        assert (first.status, b"NOT_FOUND" in first.body) in {(200, True), (401, False)}
        assert status(client.answer()) == 200


async def _set(event: asyncio.Event) -> None:
    event.set()


def test_one_who_goes_away_leaves_nothing_behind() -> None:
    prover = Hesitant()
    world = World(peppers=Peppers({"p2": bytes(32)}, active="p2"), prover=prover)
    with listening(world=world) as at:
        with Client(at.port) as client:
            client.send(VERIFY)
            wait_for(lambda: prover.asked == 1)
            assert at.connections == 1
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        wait_for(lambda: at.connections == 0)


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    world = World(peppers=Peppers({"p2": bytes(32)}, active="p2"), prover=Hesitant())
    with listening(world=world, bounds=Bounds(answer=0.2)) as at, Client(at.port) as client:
        client.send(VERIFY)
        heard = client.answer()
        assert heard is not None
        assert (heard.status, json.loads(heard.body)["error"]) == (503, "busy")
        assert heard.headers["retry-after"] == "1"


# -- patience


def test_a_head_must_arrive_in_time() -> None:
    with listening(bounds=Bounds(head=0.2)) as at:
        for begun in (b"GET", GATEWAY[:-1], VERIFY + b"POST /v1"):
            with Client(at.port) as client:
                client.send(begun)
                *_, last = client.answers()
                assert (last.status, json.loads(last.body)["error"]) == (408, "request_timeout")


def test_it_is_not_enough_to_send_a_little_now_and_then() -> None:
    with listening(bounds=Bounds(head=0.3)) as at, Client(at.port) as client:
        client.socket.settimeout(0.05)
        began, heard = time.monotonic(), b""
        while not heard and time.monotonic() < began + 5:
            client.send(b"G")
            try:
                heard = client.socket.recv(100)
            except TimeoutError:
                continue
        assert heard.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("path", ["/v1/verify", "/v1/verify/batch", "/healthz"])
def test_a_body_must_arrive_in_time(path: str) -> None:
    with listening(bounds=Bounds(body=0.2)) as at:
        for request_ in (posted(path, {"key": KEY})[:-1], posted(path, "").partition(b"Content-Len")[0]):
            with Client(at.port) as client:
                chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel"
                client.send(request_ if b"Length" in request_ else request_ + chunked)
                assert [each.status for each in client.answers()] == [408]


def test_a_gateways_body_must_arrive_in_time_and_is_answered_once() -> None:
    with listening(bounds=Bounds(body=0.2)) as at, Client(at.port) as client:
        client.send(GATEWAY.replace(b"Host: v", b"Host: v\r\nContent-Length: 10"))
        assert [each.status for each in client.answers()] == [200]


def test_who_asks_nothing_is_let_go_without_a_word() -> None:
    with listening(bounds=Bounds(head=0.2, idle=0.2)) as at:
        with Client(at.port) as client:
            assert client.answers() == []
        with Client(at.port) as client:
            client.send(VERIFY + HEALTH)
            assert [each.status for each in client.answers()] == [200, 200]


def test_an_idle_connection_is_kept_as_long_as_it_asks() -> None:
    with listening(bounds=Bounds(idle=0.5)) as at, Client(at.port) as client:
        began = time.monotonic()
        client.socket.settimeout(0.1)
        while time.monotonic() < began + 1.2:
            client.send(VERIFY)
            assert status(client.answer()) == 200
            with pytest.raises(TimeoutError):
                client.socket.recv(1)


BATCH = posted("/v1/verify/batch", {"requests": [{"key": KEY, "cost": 0}] * 200})


def verdicts(client: Client) -> float:
    """How many were given so far."""
    client.send(HEALTH.replace(b"/healthz", b"/metrics"))
    heard = client.answer()
    assert heard is not None
    return float(heard.body.partition(b'keyledger_verify_total{code="VALID"} ')[2].split(b"\n")[0])


def test_one_who_takes_no_answers_is_not_read_from_and_gets_them_all() -> None:
    many = 250
    with listening() as at, Client(at.port, room=4096) as client, Client(at.port) as watching:
        client.send(BATCH * many)
        seen: list[float] = [0.0]
        # it goes on for as long as somebody keeps its answers, which is not we
        while len(seen) < 30 or seen[-1] != seen[-30]:
            seen.append(verdicts(watching))
        assert 0 < seen[-1] < 200 * many
        assert all(status(client.answer()) == 200 for _ in range(many))
        assert verdicts(watching) == 200 * many


def test_one_who_takes_no_answers_for_too_long_is_hung_up_on() -> None:
    with listening(bounds=Bounds(stall=0.3)) as at, Client(at.port, room=4096) as client:
        client.send(BATCH * 250)
        wait_for(lambda: at.connections == 0)


def test_one_who_sends_on_after_the_end_is_hung_up_on() -> None:
    with listening(bounds=Bounds(linger=0.2)) as at, Client(at.port) as client:
        client.send(b"NONSENSE\r\n\r\n")
        assert status(client.answer()) == 400
        assert client.ended()
        wait_for(lambda: at.connections == 0)
        with Client(at.port) as other:
            other.send(b"NONSENSE\r\n\r\n")
            with pytest.raises(ConnectionError):
                for _ in range(1000):
                    other.socket.sendall(b"x" * 65_536)


# -- how many


def test_beyond_the_most_connections_it_says_so() -> None:
    with listening(bounds=Bounds(connections=2)) as at:
        first, second = Client(at.port), Client(at.port)
        for client in (first, second):
            client.send(HEALTH)
            assert status(client.answer()) == 200
        with Client(at.port) as third:
            third.send(HEALTH)
            heard = third.answer()
            assert heard is not None
            assert (heard.status, json.loads(heard.body)["error"]) == (503, "busy")
            assert (heard.headers["retry-after"], heard.headers["connection"]) == ("1", "close")
            assert third.ended()
        with first, second:
            second.send(VERIFY)
            assert status(second.answer()) == 200
        wait_for(lambda: at.connections == 0)
        with Client(at.port) as fourth:
            fourth.send(VERIFY)
            assert status(fourth.answer()) == 200


# -- who is let in

GUARDED = {
    "verify": VERIFY,
    "batch": posted("/v1/verify/batch", {"requests": []}),
    "gateway": GATEWAY,
    "below the gateway": GATEWAY.replace(b"/v1/gateway", b"/v1/gateway/x"),
    "digest": b"GET /v1/projection/digest HTTP/1.1\r\nHost: v\r\n\r\n",
}


@pytest.mark.parametrize("request_", [pytest.param(each, id=name) for name, each in GUARDED.items()])
def test_with_a_token_only_who_shows_it_is_answered(request_: bytes) -> None:
    with listening(token=Secret("shared")) as at, Client(at.port) as client:
        for shown, expected in (
            (b"", 401),
            (b"X-Verifier-Token: other\r\n", 401),
            (b"X-Verifier-Token: shared\r\n", 200),
        ):
            client.send(request_.replace(b"Host: v\r\n", b"Host: v\r\n" + shown))
            heard = client.answer()
            assert heard is not None
            assert heard.status == expected
            assert ("www-authenticate" in heard.headers) is (expected == 401)
        for path in (b"/healthz", b"/readyz", b"/metrics"):
            client.send(HEALTH.replace(b"/healthz", path))
            assert status(client.answer()) == 200


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


def test_over_tls_it_is_the_same(authority: Authority) -> None:
    tls = server_context(*authority.issue("server"), None)
    with listening(tls=tls) as at:
        for size in (None, 7):
            with Client(at.port, tls=authority.client()) as client:
                client.send(VERIFY + HEALTH + GATEWAY, size=size)
                assert [status(client.answer()) for _ in range(3)] == [200, 200, 200]
                client.send(b"NONSENSE\r\n\r\n")
                assert status(client.answer()) == 400
        with Client(at.port, tls=authority.client()) as client:
            client.send(HEALTH.replace(b"Host", b"Connection: close\r\nHost"))
            assert [each.status for each in client.answers()] == [200]
        with Client(at.port) as plain:
            plain.send(HEALTH)
            assert plain.ended()


def test_with_a_ca_only_callers_that_it_signed_are_let_in(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "others")
    tls = server_context(*authority.issue("server"), authority.file)
    with listening(tls=tls) as at:
        with Client(at.port, tls=authority.client(authority.issue("caller"))) as client:
            client.send(VERIFY)
            assert status(client.answer()) == 200
        for presented in (None, stranger.issue("forger")):
            heard: Heard | None = None
            with (
                contextlib.suppress(ssl.SSLError, ConnectionError),
                Client(at.port, tls=authority.client(presented)) as client,
            ):
                # with TLS 1.3 the refusal is read only after the first request was sent
                client.send(VERIFY)
                heard = client.answer()
            assert heard is None


def test_files_that_are_no_certificates_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("server")
    _, other = authority.issue("other")
    (tmp_path / "empty").write_text("")
    for bad in ((certificate, tmp_path / "none"), (certificate, other), (tmp_path / "empty", key)):
        with pytest.raises(TlsError, match="KEYLEDGER_TLS_CERT and KEYLEDGER_TLS_KEY"):
            server_context(*bad, None)
    with pytest.raises(TlsError, match="KEYLEDGER_TLS_CLIENT_CA"):
        server_context(certificate, key, tmp_path / "empty")


# -- the end


def test_one_that_leaves_answers_everything_and_keeps_nobody() -> None:
    with listening() as at, Client(at.port) as client, Client(at.port) as idle:
        idle.send(VERIFY)
        assert status(idle.answer()) == 200
        at.leave()
        for request_ in (VERIFY, GATEWAY, HEALTH):
            with Client(at.port) as new:
                new.send(request_)
                heard = new.answer()
                assert heard is not None
                assert (heard.status, heard.headers["connection"]) == (200, "close")
                assert new.ended()
        client.send(SLOW)
        wait_for(lambda: at.connections == 2)
        at.stop(grace=5)
        assert idle.ended()
        heard = client.answer()
        assert heard is not None
        assert (heard.status, heard.headers["connection"]) == (503, "close")
        assert client.ended()
        with pytest.raises(ConnectionError):
            Client(at.port)


def test_at_the_end_of_the_grace_everybody_is_hung_up_on() -> None:
    world = World(peppers=Peppers({"p2": bytes(32)}, active="p2"), prover=Hesitant())
    with listening(world=world) as at, Client(at.port) as client, Client(at.port) as begun:
        client.send(VERIFY)
        begun.send(VERIFY[:20])
        wait_for(lambda: at.connections == 2)
        at.stop(grace=0.1)
        assert client.ended()
        assert begun.ended()


def test_what_was_sent_before_the_end_is_answered() -> None:
    async def ask_and_end(at: Listening, clients: list[Client]) -> None:
        # the loop is held up: what is sent here it has not read when it is told to close
        for client in clients:
            client.send(VERIFY)
        await at.end(grace=5)

    with listening() as at, Client(at.port) as used, Client(at.port) as new:
        used.send(VERIFY)
        assert status(used.answer()) == 200
        wait_for(lambda: at.connections == 2)
        at.run(ask_and_end(at, [used, new]))
        for client in (used, new):
            heard = client.answer()
            assert heard is not None
            assert (heard.status, heard.headers["connection"]) == (200, "close")
            assert client.ended()

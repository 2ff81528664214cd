"""ASGI by hand: a verifier that answers as told and remembers its questions, and an app that echoes."""

import json
from typing import Any

import httpx2

VERIFIER = "http://verifier.test"
ALLOWED = [
    (b"x-workspace-id", b"ws_1"),
    (b"x-key-id", b"key_1"),
    (b"x-key-name", b"B%C3%BCro%20key"),
    (b"x-key-environment", b"live"),
    (b"x-key-scopes", b"contacts:read contacts:write"),
    (b"x-ratelimit-limit", b"10"),
    (b"x-ratelimit-remaining", b"9"),
    (b"x-ratelimit-reset", b"60"),
    (b"ratelimit", b'"workspace";r=9;t=30'),
    (b"ratelimit-policy", b'"workspace";q=10;w=60'),
    (b"content-length", b"0"),
]


class FakeVerifier:
    """Answers every question with `status`, `headers` and `body`; an `error` is raised instead."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = list(ALLOWED)
        self.body = b""
        self.error: Exception | None = None
        self.questions: list[dict[str, Any]] = []

    def refuse(self, status: int, code: str, *headers: tuple[bytes, bytes]) -> None:
        """From now on every question is refused."""
        self.status, self.headers = status, list(headers)
        self.body = json.dumps({"error": code}).encode()

    @property
    def transport(self) -> httpx2.AsyncBaseTransport:
        """What a client reaches this verifier by."""
        return httpx2.ASGITransport(app=self)

    def asked(self, name: str) -> list[str]:
        """The values of a header in the last question."""
        return [value.decode() for key, value in self.questions[-1]["headers"] if key == name.encode()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Be an ASGI application."""
        self.questions.append(scope)
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


class Echo:
    """An application that keeps the scopes it was called with and answers 200 and some headers."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Be an ASGI application."""
        self.scopes.append(scope)
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            headers = [(b"x-mine", b"1"), (b"x-ratelimit-limit", b"forged")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"hello"})


async def call(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    headers: list[tuple[bytes, bytes]] | None = None,
    kind: str = "http",
    client: tuple[str, int] | None = ("192.0.2.7", 5),
    extensions: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Every message with which the application answers one connection."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if kind == "websocket":
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": kind, "path": path, "headers": headers or [], "client": client, "query_string": b"",
        "extensions": extensions or {}, "scheme": "http", "server": ("app.test", 80), "http_version": "1.1",
        "raw_path": path.encode(), "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    if kind == "http":
        scope["method"] = method
    await app(scope, receive, send)
    return sent

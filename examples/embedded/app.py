"""The API, in bare ASGI. What guards it is `Guard`, and no request leaves the process for a verdict."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import msgspec

from keyledger.clock import Clock, SystemClock
from keyledger.errors import Refusal
from keyledger.verification import Verifier
from keyledger.verification.answer import Answer, answer, header, limit_headers, missing
from keyledger.verification.verdict import Verdict

Send: TypeAlias = Callable[[Any], Awaitable[None]]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
App: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]


async def greet(scope: Any, receive: Receive, send: Send) -> None:
    """`GET /`: who is calling."""
    del receive
    verdict: Verdict = scope["state"]["keyledger"]
    body = msgspec.json.encode({"hello": verdict.name, "workspace": verdict.workspace_id})
    await _answer(send, Answer(200, [header("content-type", "application/json")], body))


class Guard:
    """Lets a request through to `app` with its verdict in `scope["state"]["keyledger"]`, or answers it.

    Refusals are told as the verifier's gateway tells them. When nothing can be said the answer is 503.
    """

    def __init__(
        self, app: App, verifier: Verifier, *, scopes: Sequence[str] = (), clock: Clock | None = None
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._scopes = tuple(scopes)
        self._now = (clock or SystemClock()).now

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await _live(self._verifier, receive, send)
            return
        if scope["path"] == "/healthz":
            await _answer(send, Answer(200, []))
            return
        verdict, told = await self._judged(scope)
        if verdict is None or not verdict.valid:
            await _answer(send, told)
            return
        scope.setdefault("state", {})["keyledger"] = verdict
        limits = limit_headers(verdict.limit, self._now())

        async def send_with_limits(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *limits]}
            await send(message)

        await self._app(scope, receive, send_with_limits)

    async def _judged(self, scope: Any) -> tuple[Verdict | None, Answer]:
        tokens = {value for name, value in scope["headers"] if name == b"x-api-key"}
        if len(tokens) != 1:
            # two different keys prove nothing
            return None, missing()
        token, client = tokens.pop().decode("latin-1"), scope.get("client")
        try:
            verdict = await self._verifier.verify(
                token, scopes=self._scopes, ip=client[0] if client else None
            )
        except Refusal as refusal:
            return None, Answer(
                503, [header("retry-after", "1")], msgspec.json.encode({"error": refusal.code})
            )
        return verdict, answer(verdict, now=self._now())


async def _live(verifier: AbstractAsyncContextManager[Verifier], receive: Receive, send: Send) -> None:
    """The server's start and stop are the verifier's: it serves nobody before the keys are loaded."""
    await receive()
    async with verifier as opened:
        await opened.ready()
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def _answer(send: Send, told: Answer) -> None:
    await send({"type": "http.response.start", "status": told.status, "headers": told.headers})
    await send({"type": "http.response.body", "body": told.body})

"""Load that keeps its own books: workers that make, change and revoke keys, checkers that verify them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from msgspec import Struct

from tests.faults.history import History, Kind, Operation, Outcome
from tests.faults.rig import Rig

PATIENCE = 30.0
"""Seconds for which a command is tried again, always under the same name."""
PAUSE = 0.05
NOTHING_WRITTEN = frozenset({"unavailable", "busy", "stale"})


class _Key(Struct):
    """A key that one worker owns."""

    id: str
    tokens: list[str]


class Load:
    """Commands against key services and checks against a verifier, all of it in one history."""

    def __init__(
        self, rig: Rig, workspace: str, dice: random.Random, *, services: Sequence[int] = (0,)
    ) -> None:
        self.history = History()
        self.live: list[str] = []
        """Tokens that nobody has begun to end."""
        self.dead: list[str] = []
        self.attempts: list[tuple[float, float, int]] = []
        """Of every command: when it was sent and answered (monotonic), its status, 0 without an answer."""
        self.retried = 0
        self.replayed = 0
        self._rig = rig
        self._path = f"/v1/workspaces/{workspace}/keys"
        self._dice = dice
        self._services = services
        self._names = 0
        self._stop = asyncio.Event()
        self._http = httpx2.AsyncClient(timeout=5, trust_env=False, limits=httpx2.Limits(max_connections=64))

    @asynccontextmanager
    async def running(self, *, workers: int, checkers: int, rate: float = 20.0) -> AsyncGenerator[Load]:
        """Work for the length of the block; each checker asks `rate` times a second."""
        self._stop.clear()
        tasks = [asyncio.create_task(self._work()) for _ in range(workers)]
        tasks += [asyncio.create_task(self._check(rate)) for _ in range(checkers)]
        try:
            yield self
        finally:
            self._stop.set()
            async with asyncio.timeout(PATIENCE + 10):
                await asyncio.gather(*tasks)
            await self._http.aclose()

    async def _work(self) -> None:
        """The life of one key after another."""
        while not self._stop.is_set():
            key = await self._create()
            if key is None:
                continue
            for _ in range(self._dice.randrange(4)):
                if self._stop.is_set():
                    break
                await (self._patch(key) if self._dice.random() < 0.5 else self._rotate(key))
            if self._dice.random() < 0.8:
                await self._revoke(key)

    async def _create(self) -> _Key | None:
        body = {"name": "load", "environment": "live", "scopes": [f"n:{self._names}"]}
        done, answer = await self._command("create", "POST", self._path, body)
        if done.outcome != "acked":
            return None
        self.live.append(done.token)
        if self._dice.random() < 0.2:
            await self._replay(done, self._path, body, answer)
        return _Key(done.key_id, [done.token])

    async def _patch(self, key: _Key) -> None:
        body = {"scopes": [f"n:{self._names}"]}
        await self._command("patch", "PATCH", f"{self._path}/{key.id}", body)

    async def _rotate(self, key: _Key) -> None:
        ends, keep = ((key.tokens, 0), (key.tokens[:-1], 3600))[self._dice.random() < 0.5]
        self._forget(ends)
        path, body = f"{self._path}/{key.id}/rotate", {"overlap_seconds": keep}
        done, answer = await self._command("rotate", "POST", path, body, ends=tuple(ends))
        if done.outcome == "acked":
            self.dead += ends
            self.live.append(done.token)
            key.tokens = [*(() if keep == 0 else key.tokens[-1:]), done.token]
            if self._dice.random() < 0.2:
                await self._replay(done, path, body, answer)

    async def _revoke(self, key: _Key) -> None:
        self._forget(key.tokens)
        path = f"{self._path}/{key.id}/revoke"
        done, _ = await self._command("revoke", "POST", path, {}, ends=tuple(key.tokens))
        if done.outcome == "acked":
            self.dead += key.tokens

    def _forget(self, tokens: Sequence[str]) -> None:
        for token in tokens:
            with contextlib.suppress(ValueError):
                self.live.remove(token)

    async def _command(
        self, kind: Kind, method: str, path: str, body: Any, *, ends: tuple[str, ...] = ()
    ) -> tuple[Operation, Any]:
        """Send it until it is answered, under one name: a PATCH that is repeated changes nothing more."""
        self._names += 1
        name = f"load-{self._names}"
        started, unknown, code = time.monotonic(), False, ""
        outcome: Outcome = "refused"
        told: dict[str, Any] = {}
        while True:
            answer = await self._send(method, path, body, name)
            told = answer.json() if answer is not None else {}
            code = told.get("error", "")
            if answer is not None and answer.status_code in (200, 201):
                outcome = "acked"
                break
            unknown = unknown or answer is None or code not in NOTHING_WRITTEN
            if answer is not None and answer.status_code < 500 and code != "idempotency_in_progress":
                break
            if time.monotonic() - started > PATIENCE:
                break
            self.retried += 1
            await asyncio.sleep(PAUSE * self._dice.uniform(0.5, 1.5))
        if outcome != "acked" and unknown:
            outcome = "unknown"
        done = Operation(
            kind=kind,
            name=name,
            started=started,
            ended=time.monotonic(),
            outcome=outcome,
            key_id=told.get("id", ""),
            token=told.get("key", ""),
            ended_tokens=ends,
            position=told.get("position", 0),
            version=told.get("version", 0),
            code=code,
        )
        return self.history.add(done), told

    async def _replay(self, done: Operation, path: str, body: Any, told: Any) -> None:
        """The same request again must be answered with the same words, the token included."""
        answer = await self._send("POST", path, body, done.name)
        if answer is not None and answer.status_code in (200, 201):
            self.replayed += 1
            assert answer.json() == told, f"another answer to the same request: {done!r}"

    async def _send(self, method: str, path: str, body: Any, name: str) -> httpx2.Response | None:
        headers = {"X-API-Key": self._rig.admin_key, "X-Request-Id": name}
        if method == "POST":
            headers["Idempotency-Key"] = name
        url = self._rig.keys[self._dice.choice(self._services)].url
        began, answer = time.monotonic(), None
        with contextlib.suppress(httpx2.HTTPError):
            answer = await self._http.request(method, url + path, json=body, headers=headers)
        self.attempts.append((began, time.monotonic(), 0 if answer is None else answer.status_code))
        return answer

    async def _check(self, rate: float) -> None:
        while not self._stop.is_set():
            await asyncio.sleep(self._dice.uniform(0.5, 1.5) / rate)
            pool = self.dead if self.dead and self._dice.random() < 0.5 else self.live
            if pool:
                # the newest are where something may go wrong
                await self.check(pool[-1 - min(int(self._dice.expovariate(0.2)), len(pool) - 1)])

    async def check(self, token: str, *, cost: int = 1) -> Operation:
        """Verify one token, on the books."""
        self._names += 1
        started = time.monotonic()
        outcome: Outcome = "unknown"
        code = ""
        with contextlib.suppress(httpx2.HTTPError):
            body = {"key": token, "cost": cost}
            answer = await self._http.post(f"{self._rig.verifier.url}/v1/verify", json=body)
            outcome = "acked" if answer.status_code == 200 else "refused"
            code = answer.json().get("code") or answer.json()["error"]
        return self.history.add(
            Operation(
                kind="verify",
                name=f"check-{self._names}",
                started=started,
                ended=time.monotonic(),
                outcome=outcome,
                token=token,
                code=code,
                cost=cost,
            )
        )

"""What stands around a gateway in its tests: a verifier, the example API, and a wire to each that listens.

The key service, Postgres and NATS are those of a running system. The verifier is a process of its own, told
to believe X-Forwarded-For and to ask for a token; a second one has never heard from the key service, and so
answers 503 `stale` to everything.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from infra.local.settings import PORT_OFFSETS
from tests.support.asgi_server import free_port
from tests.support.processes import Process
from tests.support.system import System
from tests.support.wire import Headers, Message, Wire, ask

TOKEN = "a-token-for-gateways-alone"
CONTACTS = "/v1/contacts"
IDENTITY = ("x-workspace-id", "x-key-id", "x-key-name", "x-key-environment", "x-key-scopes")
LIMITS = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "ratelimit", "ratelimit-policy")
UNAVAILABLE = b'{"error":"unavailable"}'
NEW = b'{"name": "Kay", "email": "kay@example.com"}'


class Surroundings:
    """The processes behind the gateways, and the wires that lead to the verifier and to the backend."""

    def __init__(
        self,
        system: System,
        *,
        verifier_url: str,
        stale_url: str,
        api_url: str,
        verifier: Wire,
        backend: Wire,
    ) -> None:
        self.system = system
        self.verifier_url = verifier_url
        self.stale_url = stale_url
        self.api_port = int(api_url.rpartition(":")[2])
        self.verifier = verifier
        self.backend = backend

    async def key(self, *, limit: int | None = None, **fields: Any) -> dict[str, Any]:
        """A new key in a workspace of its own, known to the verifier; `limit` is that of a whole day."""
        day: dict[str, Any] = {"rate_limit": {"limit": limit, "window_seconds": 86_400}}
        workspace = await self.system.workspace(**({} if limit is None else day))
        made = await self.system.key(workspace, **fields)
        question = {"key": made["key"], "cost": 0, "min_position": made["position"]}
        answer = await self.system.http.post(
            f"{self.verifier_url}/v1/verify", json=question, headers={"X-Verifier-Token": TOKEN}
        )
        assert answer.status_code == 200, answer.text
        return made


class Gateway:
    """One gateway as its client sees it, and what has passed behind it since the last `forget`."""

    def __init__(self, name: str, port: int, around: Surroundings) -> None:
        self.name = name
        self.port = port
        self.around = around

    def forget(self) -> None:
        """Forget what has passed."""
        self.around.verifier.requests.clear()
        self.around.backend.requests.clear()

    async def ask(
        self,
        method: str = "GET",
        target: str = CONTACTS,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        *,
        key: str | None = None,
        source: str = "127.0.0.1",
    ) -> Message:
        """What the gateway answers."""
        sent: Headers = [] if key is None else [("X-API-Key", key)]
        if body is not None:
            sent.append(("Content-Type", "application/json"))
        return await ask(self.port, method, target, [*sent, *headers], body, source=source)

    @property
    def passed_on(self) -> Message:
        """The one request that the backend got."""
        (request,) = self.around.backend.requests
        return request

    @property
    def nothing_passed(self) -> bool:
        """Whether the backend was asked for nothing but what a gateway shows in its own stead."""
        return all(request.target == "/unavailable" for request in self.around.backend.requests)


@asynccontextmanager
async def surroundings(system: System, folder: Path) -> AsyncGenerator[Surroundings]:
    """Start it all."""
    token_file = folder / "token"
    token_file.write_text(TOKEN)
    password = json.loads((system.home / "nats.json").read_text())["verifier"]
    common = {
        "PATH": os.environ["PATH"],
        "KEYLEDGER_PEPPERS": str(system.home / "peppers"),
        "KEYLEDGER_SERVICE_KEY_FILE": str(system.home / "secrets" / "verifier"),
        "KEYLEDGER_VERIFIER_TOKEN_FILE": str(token_file),
        "KEYLEDGER_CLIENT_IP_HEADER": "X-Forwarded-For",
        "KEYLEDGER_TRUSTED_HOPS": "1",
        "KEYLEDGER_DRAIN_SECONDS": "0",
    }
    nats = f"nats://verifier:{password}@127.0.0.1:{system.base + PORT_OFFSETS['nats']}"
    told = {"KEYLEDGER_KEYS_URL": system.url("keys"), "KEYLEDGER_NATS": nats}
    untold = {"KEYLEDGER_KEYS_URL": f"http://127.0.0.1:{free_port()}", "KEYLEDGER_NATS": "nats://127.0.0.1:1"}
    async with AsyncExitStack() as stack:

        def start(module: str, name: str, environment: dict[str, str]) -> tuple[Process, str]:
            port = free_port()
            environment = {**common, **environment, "KEYLEDGER_PORT": str(port)}
            argv = [sys.executable, "-m", module]
            process = Process(argv, log=folder / f"{name}.log", env=environment)
            return stack.enter_context(process), f"http://127.0.0.1:{port}"

        verifier, url = start("services.verifier", "verifier", {**told, **_spool(folder, "told")})
        stale, stale_url = start("services.verifier", "stale", {**untold, **_spool(folder, "untold")})
        wire = await stack.enter_async_context(Wire(url))
        at_wire = {"KEYLEDGER_VERIFIER_URL": f"http://127.0.0.1:{wire.port}"}
        trusting = {"KEYLEDGER_TRUSTED_GATEWAYS": "127.0.0.1"}
        contacts, contacts_url = start("examples.contacts", "contacts", {**at_wire, **trusting})
        backend = await stack.enter_async_context(Wire(contacts_url))
        await verifier.wait_ready(f"{url}/readyz", within=30)
        await contacts.wait_ready(f"{contacts_url}/readyz", within=30)
        await stale.wait_ready(f"{stale_url}/healthz", within=30)
        yield Surroundings(
            system,
            verifier_url=url,
            stale_url=stale_url,
            api_url=contacts_url,
            verifier=wire,
            backend=backend,
        )


def _spool(folder: Path, name: str) -> dict[str, str]:
    own = folder / name
    own.mkdir()
    return {"KEYLEDGER_SPOOL": str(own)}


async def together(*requests: Any) -> list[Message]:
    """The answers to requests that are sent at the same time."""
    return list(await asyncio.gather(*requests))


def told_limits(answer: Message) -> list[str]:
    """The limit headers of an answer, repeated ones too."""
    return [name for name in LIMITS for _ in answer.every(name)]

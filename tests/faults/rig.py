"""The services of one log, each a process of its own that may be killed, frozen, cut off and started again.

Postgres and NATS are given. The verifier reaches NATS and the key service through gates, so that a test can
cut it off from either; so does each key service reach NATS.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from infra.local.settings import PORT_OFFSETS
from tests.support.gate import Gate
from tests.support.keys import Home, as_role, migrated
from tests.support.processes import Process
from tests.support.system import System
from tests.support.waiting import until

READY = 40.0
"""Seconds; the machine may be busy with other tests."""


class Daemon:
    """One service. It keeps its port and its log through restarts."""

    def __init__(
        self,
        module: str,
        folder: Path,
        name: str,
        environment: Mapping[str, str],
        *,
        port: int | None = None,
    ) -> None:
        self.name = name
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"{name}.log"
        self.launches = 0
        self._module = module
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONUNBUFFERED": "1",
            "KEYLEDGER_HOST": "127.0.0.1",
            "KEYLEDGER_PORT": str(self.port),
            **environment,
        }
        self._process: Process | None = None

    def launch(self) -> None:
        """Start it, without waiting for anything."""
        self.launches += 1
        argv = [sys.executable, "-m", self._module]
        self._process = Process(argv, log=self.log, env=self.environment)

    async def start(self) -> None:
        """Start it; on return it says that it is ready."""
        self.launch()
        await self.ready()

    async def ready(self, *, within: float = READY) -> None:
        """Return once it says that it is ready."""
        await self._running.wait_ready(f"{self.url}/readyz", within=within)

    def kill(self) -> None:
        """SIGKILL, and reap it."""
        self._running.kill()
        self._process = None

    def freeze(self) -> None:
        """SIGSTOP: its sockets stay open and answer nothing."""
        self._running.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._running.send(signal.SIGCONT)

    async def stop(self, *, within: float = 5.0) -> int | None:
        """SIGTERM, then whatever it takes; how it ended, None when it did not run."""
        if self._process is None:
            return None
        self.thaw()
        ended = await asyncio.to_thread(self._process.terminate, within=within)
        self._process = None
        return ended

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def _running(self) -> Process:
        assert self._process is not None, f"{self.name} does not run"
        return self._process


class Rig:
    """Key services, one verifier, one usage service if asked for, and the gates between them."""

    def __init__(self, home: Home, admin_dsn: str, nats: str, http: httpx2.AsyncClient) -> None:
        self.home = home
        self.admin_dsn = admin_dsn
        self.nats = nats
        self.http = http
        self.keys: list[Daemon] = []
        self.verifier: Daemon
        self.usage: Daemon | None = None
        self.verifier_nats: list[Gate] = []
        self.verifier_keys: Gate
        self.key_nats: list[list[Gate]] = []
        """For each key service its ways to the servers of NATS."""

    @property
    def admin_key(self) -> str:
        """The operator's credential."""
        return self.home.bootstrapped()["management_key"]

    async def call(self, method: str, path: str, body: Any = None, *, at: int = 0, **headers: str) -> Any:
        """Call a key service as the operator; the answer, whatever it says."""
        sent = {"X-API-Key": self.admin_key}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.request(method, f"{self.keys[at].url}{path}", json=body, headers=sent)

    async def ok(self, method: str, path: str, body: Any = None, *, at: int = 0, **headers: str) -> Any:
        """A call that must succeed; its JSON."""
        answer = await self.call(method, path, body, at=at, **headers)
        assert answer.status_code in (200, 201), (method, path, answer.status_code, answer.text)
        return answer.json()

    async def workspace(self) -> str:
        """A workspace whose limit is out of the way."""
        limit = {"limit": 100_000_000, "window_seconds": 60}
        return (await self.ok("POST", "/v1/workspaces", {"name": "Faults", "rate_limit": limit}))["id"]

    async def key(self, ws: str, *, at: int = 0) -> dict[str, Any]:
        """A new key, with its token under `key`."""
        body = {"name": "k", "environment": "live"}
        return await self.ok("POST", f"/v1/workspaces/{ws}/keys", body, at=at)

    async def revoke(self, ws: str, key_id: str, *, at: int = 0, **body: Any) -> dict[str, Any]:
        """Revoke a key."""
        return await self.ok("POST", f"/v1/workspaces/{ws}/keys/{key_id}/revoke", body, at=at)

    async def verify(self, token: str, **asked: Any) -> Any:
        """The verifier's answer, whatever it says."""
        body = {"key": token, "cost": 0, **asked}
        return await self.http.post(f"{self.verifier.url}/v1/verify", json=body)

    async def code(self, token: str, **asked: Any) -> str:
        """The verdict's code, or the error's."""
        answer = (await self.verify(token, **asked)).json()
        return answer.get("code") or answer["error"]

    async def readiness(self, of: Daemon | None = None) -> tuple[int, dict[str, Any]]:
        """What a service (the verifier) says of itself."""
        answer = await self.http.get(f"{(of or self.verifier).url}/readyz")
        return answer.status_code, answer.json()

    async def metric(self, of: Daemon, name: str) -> float:
        """One number of a service's metrics."""
        text = (await self.http.get(f"{of.url}/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        assert lines, f"{of.name} has no metric {name}"
        return float(lines[0].split()[1])

    async def head(self, *, at: int = 0) -> int:
        """The log's last position."""
        return (await self.ok("GET", "/v1/head", at=at))["position"]

    async def caught_up(self, position: int, *, within: float = 10.0) -> None:
        """Return once the verifier has applied this position."""

        async def applied() -> bool:
            return (await self.readiness())[1].get("position", 0) >= position

        await until(applied, within=within, describe=f"the verifier at position {position}")


def attached(system: System) -> Rig:
    """A running system as a rig that starts and ends nothing of it."""
    passwords = json.loads((system.home / "postgres.json").read_text())
    dsn = (
        f"postgresql://keyledger:{passwords['keyledger']}@127.0.0.1:{system.base + PORT_OFFSETS['postgres']}"
    )
    made = Rig(Home(system.home), f"{dsn}/postgres", "", system.http)

    def there(name: str) -> Daemon:
        return Daemon(f"services.{name}", system.home, name, {}, port=system.base + PORT_OFFSETS[name])

    made.keys, made.verifier, made.usage = [there("keys")], there("verifier"), there("usage")
    return made


@asynccontextmanager
async def rig(
    admin_dsn: str,
    nats: str,
    folder: Path,
    *,
    key_services: int = 1,
    usage: bool = False,
    replicas: int = 1,
    start: bool = True,
    max_staleness: float = 300,
    longest_transaction: float = 25,
) -> AsyncGenerator[Rig]:
    """Everything over a new database, running unless `start` is False; stopped at the end."""
    async with AsyncExitStack() as stack:
        dsn = await migrated(admin_dsn)
        home = Home.new(folder / "home")
        assert await home.bootstrap(dsn)
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=10, trust_env=False))
        made = Rig(home, admin_dsn, nats, http)
        for number in range(key_services):
            gates, url = await _gated(stack, nats)
            made.key_nats.append(gates)
            environment = {
                "KEYLEDGER_POSTGRES": dsn,
                "KEYLEDGER_NATS": url,
                "KEYLEDGER_NATS_REPLICAS": str(replicas),
                "KEYLEDGER_PEPPERS": str(home.peppers),
                "KEYLEDGER_SEAL_SECRET_FILE": str(home.seal),
                "KEYLEDGER_LONGEST_TRANSACTION": str(longest_transaction),
            }
            made.keys.append(Daemon("services.keys", folder, f"keys{number}", environment))
        made.verifier_nats, url = await _gated(stack, nats)
        made.verifier_keys = await stack.enter_async_context(Gate(made.keys[0].url))
        environment = {
            "KEYLEDGER_NATS": url,
            "KEYLEDGER_KEYS_URL": f"http://127.0.0.1:{made.verifier_keys.port}",
            "KEYLEDGER_PEPPERS": str(home.peppers),
            "KEYLEDGER_SERVICE_KEY_FILE": str(home.secrets / "verifier"),
            "KEYLEDGER_SPOOL": str(folder / "spool"),
            "KEYLEDGER_MAX_STALENESS": str(max_staleness),
            # who tests the end of it gives it time
            "KEYLEDGER_DRAIN_SECONDS": "0",
            "KEYLEDGER_LIMITS": "shared" if usage else "local",
        }
        made.verifier = Daemon("services.verifier", folder, "verifier", environment)
        daemons = [*made.keys, made.verifier]
        if usage:
            environment = {
                "KEYLEDGER_NATS": nats,
                "KEYLEDGER_POSTGRES": as_role(admin_dsn, "keyledger_usage"),
                "KEYLEDGER_KEYS_URL": made.keys[0].url,
                "KEYLEDGER_SERVICE_KEY_FILE": str(home.secrets / "usage"),
            }
            made.usage = Daemon("services.usage", folder, "usage", environment)
            daemons.append(made.usage)
        for daemon in daemons:
            stack.push_async_callback(daemon.stop)
        if start:
            for daemon in daemons:
                daemon.launch()
            for daemon in daemons:
                await daemon.ready()
        yield made


async def _gated(stack: AsyncExitStack, nats: str) -> tuple[list[Gate], str]:
    """A gate before each of the servers, and the URL that leads through them."""
    gates: list[Gate] = []
    urls: list[str] = []
    for server in nats.split(","):
        parts = urlsplit(server)
        gate = await stack.enter_async_context(Gate(server))
        user = parts.netloc.rpartition("@")[0]
        gates.append(gate)
        urls.append(parts._replace(netloc=f"{user}@127.0.0.1:{gate.port}").geturl())
    return gates, ",".join(urls)


def free_port() -> int:
    """A port that nobody listens on, below those the kernel gives to clients: a restart finds it free."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port

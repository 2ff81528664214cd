"""The whole system as `make up` starts it, in a home and on ports of its own."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx2

from infra.local.settings import PORT_OFFSETS
from tests.support.processes import Process
from tests.support.waiting import until

READY = 30.0
"""Seconds; a machine that runs other tests beside is slow. What `make up` promises is measured apart."""


class System:
    """A running system: its addresses, its operator's key, its processes."""

    def __init__(self, process: Process, home: Path, base: int, *, said_before: int = 0) -> None:
        self.process = process
        self.home = home
        self.base = base
        self._said_before = said_before
        self.http = httpx2.AsyncClient(timeout=10)

    def url(self, service: str, path: str = "") -> str:
        """An address of a service."""
        return f"http://127.0.0.1:{self.base + PORT_OFFSETS[service]}{path}"

    @property
    def bootstrap(self) -> dict[str, str]:
        """The system workspace's id and the management key."""
        return json.loads((self.home / "bootstrap.json").read_text())

    @property
    def output(self) -> str:
        """What the supervisor has said since this start."""
        return self.process.log.read_bytes()[self._said_before :].decode()

    def pid(self, name: str) -> int:
        """The process id of a server or service."""
        return int((self.home / "run" / f"{name}.pid").read_text().split()[0])

    def started_as(self, name: str) -> tuple[list[str], dict[str, str]]:
        """The command and the environment of a running service: what another one beside it is started by."""
        process = Path(f"/proc/{self.pid(name)}")
        argv = (process / "cmdline").read_bytes().decode().rstrip("\0").split("\0")
        environment = (process / "environ").read_bytes().decode().rstrip("\0").split("\0")
        return argv, dict(entry.split("=", 1) for entry in environment)

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, **headers: str
    ) -> httpx2.Response:
        """Call the key service as the operator, or with another key."""
        sent = {"X-API-Key": self.bootstrap["management_key"] if key is None else key}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.request(method, self.url("keys", path), json=body, headers=sent)

    async def workspace(self, name: str = "Acme", **fields: Any) -> str:
        """A new workspace's id."""
        made = await self.call("POST", "/v1/workspaces", {"name": name, **fields})
        assert made.status_code == 201, made.text
        return made.json()["id"]

    async def key(self, workspace: str, **fields: Any) -> dict[str, Any]:
        """A new key, with its token under `key`."""
        body = {"name": "a key", "environment": "live", **fields}
        made = await self.call("POST", f"/v1/workspaces/{workspace}/keys", body)
        assert made.status_code == 201, made.text
        return made.json()

    async def verify(self, token: str, **asked: Any) -> dict[str, Any]:
        """A verdict; waits for the position in `min_position` if given."""
        answer = await self.http.post(self.url("verifier", "/v1/verify"), json={"key": token, **asked})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def contacts(self, token: str | None, method: str = "GET") -> httpx2.Response:
        """Call the example API."""
        body = {"name": "Kay", "email": "kay@example.com"} if method == "POST" else None
        headers = {} if token is None else {"X-API-Key": token}
        return await self.http.request(
            method, self.url("contacts", "/v1/contacts"), json=body, headers=headers
        )


@contextmanager
def temporary_home() -> Generator[Path, None, None]:
    """A home that is removed with all it holds; others may pass through its folder, as Postgres must."""
    with tempfile.TemporaryDirectory(prefix="keyledger-") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder) / "home"


def free_base() -> int:
    """A port base whose ports are all free just now."""
    while True:
        base = random.randrange(20_000, 32_000, 50)
        if all(_free(base + offset) for offset in PORT_OFFSETS.values()):
            return base


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@asynccontextmanager
async def running(
    home: Path, *options: str, base: int | None = None, **environment: str
) -> AsyncGenerator[System]:
    """Start everything, wait until the supervisor says so, stop it again with SIGTERM.

    `options` are the command's.
    """
    base = base or free_base()
    env = {
        "PATH": os.environ["PATH"],
        "KEYLEDGER_HOME": str(home),
        "KEYLEDGER_PORT_BASE": str(base),
        **environment,
    }
    log = home.with_name(home.name + ".out")
    said_before = log.stat().st_size if log.exists() else 0
    with Process([sys.executable, "-m", "services.cli", "up", *options], log=log, env=env) as process:
        system = System(process, home, base, said_before=said_before)

        async def said() -> bool:
            process.check_running()
            return "Keyledger is running" in system.output

        try:
            await until(said, within=READY, describe="the whole system running")
        except AssertionError as error:
            error.add_note(process.tail())
            raise
        try:
            yield system
        finally:
            await system.http.aclose()
            process.terminate(within=15)

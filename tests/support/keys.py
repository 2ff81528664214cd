"""A key service of the tests' own: a prepared database, the real application, callers with credentials.

The application runs inside the test's event loop, without a server around it, on a real Postgres as its
run-time role and on a real NATS.
"""

import json
import secrets
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2

from keyledger.server.edge import Edge
from services.cli import provision
from services.keys import app
from services.keys.provision import bootstrap
from services.keys.settings import Settings
from services.keys.settings import read as read_settings
from tests.support import servers_fresh as fresh
from tests.support.servers import Servers

ROLE, PASSWORD = "keyledger_keys", "test"
ROLE_PASSWORDS = {"keyledger_keys": PASSWORD, "keyledger_usage": PASSWORD}
UNKNOWN_WS, UNKNOWN_KEY = "ws_" + "0" * 22, "key_" + "0" * 22


@dataclass(frozen=True)
class Home:
    """Where a service's secrets lie, and what a bootstrap wrote there."""

    folder: Path

    @property
    def peppers(self) -> Path:
        return self.folder / "peppers"

    @property
    def seal(self) -> Path:
        return self.folder / "seal"

    @property
    def out(self) -> Path:
        return self.folder / "bootstrap.json"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @classmethod
    def new(cls, folder: Path) -> "Home":
        """A home with a pepper and a seal secret of its own."""
        home = cls(folder)
        home.peppers.mkdir(parents=True)
        (home.peppers / "p1.pepper").write_text(secrets.token_hex(32))
        home.seal.write_text(secrets.token_hex(32))
        return home

    async def bootstrap(self, dsn: str, **how: Any) -> tuple[str, ...]:
        """Run the bootstrap as the run-time role; what it made."""
        return await bootstrap(
            dsn, peppers=self.peppers, seal_secret_file=self.seal, out=self.out, secrets=self.secrets, **how
        )

    def bootstrapped(self) -> dict[str, str]:
        """What the bootstrap wrote."""
        return json.loads(self.out.read_text())

    def settings(self, postgres: str, nats: str, issuer: str = "") -> Settings:
        """The service's settings with this home; users' tokens are this issuer's."""
        return read_settings(
            {
                "KEYLEDGER_POSTGRES": postgres,
                "KEYLEDGER_NATS": nats,
                "KEYLEDGER_PEPPERS": str(self.peppers),
                "KEYLEDGER_SEAL_SECRET_FILE": str(self.seal),
                "KEYLEDGER_JWT_ISSUER": issuer,
            }
        )


def as_role(admin_dsn: str, role: str = ROLE, *, port: int | None = None) -> str:
    """The same database as a run-time role, behind another port if one is given."""
    parts = urlsplit(admin_dsn)
    address = parts.netloc.rpartition("@")[2]
    if port is not None:
        address = f"127.0.0.1:{port}"
    return parts._replace(netloc=f"{role}:{PASSWORD}@{address}").geturl()


async def migrated(admin_dsn: str) -> str:
    """Bring the database up to date; its DSN for the key service's role."""
    await provision.migrate(admin_dsn, role_passwords=ROLE_PASSWORDS)
    return as_role(admin_dsn)


class Caller:
    """One who calls with one credential, or with none."""

    def __init__(self, http: httpx2.AsyncClient, key: str | None, key_id: str = "") -> None:
        self.http = http
        self.key = key
        self.key_id = key_id

    async def __call__(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx2.Response:
        """Send a request; `body` is sent as JSON."""
        sent = {} if self.key is None else {"X-API-Key": self.key}
        if body is not None:
            more["json"] = body
        return await self.http.request(method, path, headers=sent | (headers or {}), **more)

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Send a request that must succeed; its answer's JSON."""
        answer = await self(method, path, body, **more)
        assert answer.status_code in (200, 201), (method, path, answer.status_code, answer.text)
        return answer.json()


class House:
    """A running service, its operator, and what its tests need of it."""

    def __init__(
        self, edge: Edge, home: Home, admin_dsn: str, postgres: str, nats: str, http: httpx2.AsyncClient
    ) -> None:
        self.edge = edge
        self.home = home
        self.admin_dsn = admin_dsn
        self.postgres = postgres
        self.nats = nats
        self.http = http
        self.system_ws = home.bootstrapped()["workspace_id"]
        self.admin = Caller(http, home.bootstrapped()["management_key"])
        self.nobody = Caller(http, None)

    def caller(self, key: str) -> Caller:
        """One who holds this key."""
        return Caller(self.http, key)

    @property
    def follower(self) -> Caller:
        """The verifier's own key."""
        return Caller(self.http, (self.home.secrets / "verifier").read_text().strip())

    async def workspace(self, name: str = "Acme") -> str:
        """A new workspace's id."""
        return (await self.admin.ok("POST", "/v1/workspaces", {"name": name}))["id"]

    async def key(self, ws: str, **fields: Any) -> dict[str, Any]:
        """A new key of this workspace, with its token under `key`."""
        body = {"name": "k", "environment": "live", **fields}
        return await self.admin.ok("POST", f"/v1/workspaces/{ws}/keys", body)

    async def manager(self, ws: str, *scopes: str) -> Caller:
        """One who holds a key of this workspace with these scopes (`keyledger:` is put before them)."""
        made = await self.key(ws, name="manager", scopes=[f"keyledger:{scope}" for scope in scopes])
        return Caller(self.http, made["key"], made["id"])

    async def head(self) -> int:
        """The log's last position, as the service tells it."""
        return (await self.admin.ok("GET", "/v1/head"))["position"]


@asynccontextmanager
async def running(
    home: Home, admin_dsn: str, postgres: str, nats: str, issuer: str = ""
) -> AsyncGenerator[House]:
    """The service over a database that was bootstrapped into this home."""
    async with app.running(home.settings(postgres, nats, issuer)) as edge:
        served: Any = edge
        transport = httpx2.ASGITransport(served)
        async with httpx2.AsyncClient(transport=transport, base_url="http://keys.test") as http:
            yield House(edge, home, admin_dsn, postgres, nats, http)


@asynccontextmanager
async def house(servers: Servers, folder: Path, issuer: str = "") -> AsyncGenerator[House]:
    """A service on a database of its own, from nothing to running; users' tokens are this issuer's."""
    async with fresh.database(servers.postgres) as admin_dsn, fresh.streams(servers.nats):
        dsn = await migrated(admin_dsn)
        home = Home.new(folder)
        assert await home.bootstrap(dsn)
        async with running(home, admin_dsn, dsn, servers.nats, issuer) as found:
            yield found


class Keys:
    """The address of a workspace's keys, and of one of them."""

    def __init__(self, ws: str) -> None:
        self.workspace = f"/v1/workspaces/{ws}"
        self.all = f"{self.workspace}/keys"
        self.events = f"{self.workspace}/events"

    def one(self, key: str, *rest: str) -> str:
        """The address of one key, or of what is below it."""
        return "/".join([self.all, key, *rest])


def refused(answer: httpx2.Response, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    """Check that this is the contract's refusal, and nothing besides; its body."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    body: dict[str, Any] = answer.json()
    assert body["error"] == code, body
    assert body.get("field") == field, body
    assert set(body) - {"field"} == {"error", "message", "request_id"}, body
    assert body["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert ("www-authenticate" in answer.headers) == (status == 401)
    return body


@dataclass(frozen=True)
class Raw:
    """An answer, byte for byte."""

    status: int
    headers: dict[str, str]
    body: bytes


async def raw(
    edge: Any,
    method: str,
    path: str,
    *,
    query: bytes = b"",
    headers: Iterable[tuple[bytes, bytes]] = (),
    chunks: Iterable[bytes] = (b"",),
) -> Raw:
    """One request as a server hands it on, with what no client would send; its body comes in chunks."""
    parts = list(chunks)
    started: dict[str, Any] = {}
    body: list[bytes] = []

    async def receive() -> dict[str, Any]:
        if not parts:
            return {"type": "http.disconnect"}
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            body.append(message.get("body", b""))

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "root_path": "", "query_string": query, "headers": list(headers),
        "client": ("127.0.0.1", 1), "server": ("keys.test", 80), "scheme": "http", "state": {},
    }  # fmt: skip
    await edge(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in started["headers"]}
    return Raw(started["status"], found, b"".join(body))


async def everything_stored(admin_dsn: str, *only: str) -> bytes:
    """Every row of every table, or of these only, as text: what a thief of the database would read."""
    connection = await asyncpg.connect(admin_dsn, timeout=5)
    try:
        tables = await connection.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema') "
            "AND (tablename = ANY($1) OR $1 = '{}')",
            list(only),
        )
        rows = [
            str(row["row"])
            for table in tables
            for row in await connection.fetch(f"SELECT t::text AS row FROM {table['name']} t")
        ]
        # what is stored as bytes is shown in hex: show it as it is, too
        raw_bytes = [
            bytes(value)
            for table in tables
            for row in await connection.fetch(f"SELECT * FROM {table['name']}")
            for value in row.values()
            if isinstance(value, bytes)
        ]
    finally:
        await connection.close()
    return "\n".join(rows).encode() + b"\n" + b"\n".join(raw_bytes)

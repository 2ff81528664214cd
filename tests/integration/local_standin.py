"""A local run whose services are stand-ins: the real supervisor, Postgres and NATS, and a page that says 200.

`python local_standin.py up` is the run, `… serve` one service. STANDIN_DEAF names a service that ignores
SIGTERM. Everything else comes from the environment, as in the real run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import asyncpg

from infra.local.child import ChildSpec
from infra.local.errors import LocalRunError
from infra.local.home import Home
from infra.local.services import Servers, service_specs
from infra.local.settings import Settings, read_settings
from infra.local.up import up


class StandInProvision:
    """Counts in a table how often the database was prepared, and makes the roles."""

    async def migrate(self, admin_dsn: str, *, role_passwords: Mapping[str, str] | None) -> None:
        connection = await asyncpg.connect(admin_dsn)
        try:
            await connection.execute("CREATE TABLE IF NOT EXISTS start (at timestamptz DEFAULT now())")
            await connection.execute("INSERT INTO start DEFAULT VALUES")
            for role, password in (role_passwords or {}).items():
                if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
                    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
        finally:
            await connection.close()

    async def bootstrap(
        self, dsn: str, *, peppers: Path, seal_secret_file: Path, out: Path, secrets: Path, renew: bool
    ) -> Sequence[str]:
        connection = await asyncpg.connect(dsn)
        await connection.close()
        assert list(peppers.glob("*.pepper"))
        assert seal_secret_file.exists()
        assert not renew
        if out.exists():
            return ()
        out.write_text('{"workspace_id": "ws_1", "management_key": "k"}')
        (secrets / "verifier").write_text("k")
        return ("the system workspace",)

    def sign_in_link(self, public_url: str, secret_file: Path) -> str:
        assert secret_file.exists()
        return f"{public_url}/sign-in/link?token=t"


def stand_ins(settings: Settings, home: Home, servers: Servers) -> Sequence[ChildSpec]:
    """The real services' names, ports and environments, with another program."""
    deaf = os.environ.get("STANDIN_DEAF", "")
    return [
        replace(
            spec,
            argv=[sys.executable, __file__, "serve"],
            env={**spec.env, "STANDIN_DEAF": "yes" if spec.name == deaf else ""},
        )
        for spec in service_specs(settings, home, servers)
    ]


async def serve() -> None:
    """Answer every request with 200, until killed."""
    if os.environ["STANDIN_DEAF"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(
        answer, os.environ["KEYLEDGER_HOST"], int(os.environ["KEYLEDGER_PORT"])
    )
    await server.serve_forever()


def main() -> None:
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
        return
    try:
        asyncio.run(up(read_settings(os.environ), load_provision=StandInProvision, specs=stand_ins))
    except LocalRunError as error:
        sys.exit("\n".join([*error.details, f"keyledger: {error}"]))


if __name__ == "__main__":
    main()

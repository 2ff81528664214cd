"""The servers a verifier is measured beside, each on the same core: three floors, and the rivals."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from bench import installing
from bench.driving import SERVER_CORE, Target
from bench.floors import VERDICT
from bench.installing import NotInstalled
from bench.stage import on_core, say
from tests.support.debian import ProgramMissingError, from_debian
from tests.support.processes import Process
from tests.support.system import free_base
from tests.support.waiting import until

ASGI, LITESTAR, NGINX = FLOORS = ("granian, bare ASGI", "Litestar route", "nginx, static")
KEYSHIELD, AT_ONCE, BETTER_AUTH = ("keyshield, cached", "keyshield, cached, delay 0", "better-auth")
SERVERS = Path(__file__).with_name("rivals")
_CONFIGURED = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{ default_type application/json; return 200 '{body}'; }}
  }}
}}
"""


@asynccontextmanager
async def peers(bodies: Path, *, rivals: bool) -> AsyncGenerator[tuple[list[Target], dict[str, str]]]:
    """All that can be had, up and asked once; and why the others cannot."""
    base = free_base()
    starts = {
        ASGI: _granian, LITESTAR: _granian, NGINX: _nginx,
        **({KEYSHIELD: _keyshield, AT_ONCE: _keyshield, BETTER_AUTH: _better_auth} if rivals else {}),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="keyledger-peers-") as made:
        folder = Path(made)
        # nginx's worker is another user
        folder.chmod(0o755)  # noqa: ASYNC240 (once, and at once)
        async with AsyncExitStack() as stack:
            found: list[Target] = []
            missing: dict[str, str] = {}
            for number, (name, start) in enumerate(starts.items()):
                try:
                    found.append(await start(_Place(stack, folder, base + 1 + number, bodies), name))
                except (NotInstalled, ProgramMissingError, AssertionError, OSError) as error:
                    missing[name] = str(error)
                    say(f"  not measured: {name}: {error}")
            yield found, missing


class _Place(NamedTuple):
    """Where a peer is started: until when, in which folder, at which port, and what it is asked."""

    stack: AsyncExitStack
    folder: Path
    port: int
    bodies: Path

    def start(
        self, argv: Sequence[str | Path], cwd: Path, environment: Mapping[str, str] | None = None
    ) -> Process:
        """A process on the server's core."""
        log = self.folder / f"{self.port}.log"
        own = {"PATH": os.environ["PATH"], **(environment or {})}
        process = Process([*on_core(SERVER_CORE), *argv], log=log, cwd=cwd, env=own)
        return self.stack.enter_context(process)


async def _listening(process: Process, port: int, *, within: float = 30) -> None:
    async def answers() -> bool:
        process.check_running()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await until(answers, within=within, describe=process.argv[3])


async def _granian(place: _Place, name: str) -> Target:
    application = {ASGI: "bench.floors:constant", LITESTAR: "bench.floors:routed"}[name]
    argv = _granian_argv(Path(sys.executable).parent, place.port, application)
    process = place.start(argv, Path(__file__).parents[1])
    await _listening(process, place.port)
    return Target(name, place.port, "/v1/verify", place.bodies, process.pid)


def _granian_argv(tools: Path, port: int, application: str) -> list[str]:
    return [
        str(tools / "granian"), "--interface", "asgi", "--workers", "1", "--loop", "uvloop", "--no-ws",
        "--log-level", "warning", "--host", "127.0.0.1", "--port", str(port), application,
    ]  # fmt: skip


async def _nginx(place: _Place, name: str) -> Target:
    program = await asyncio.to_thread(from_debian, "nginx", "nginx-light")
    config = place.folder / "nginx.conf"
    config.write_text(_CONFIGURED.format(folder=place.folder, port=place.port, body=VERDICT.decode()))
    process = place.start([program, "-p", place.folder, "-c", config], place.folder)
    await _listening(process, place.port)
    return Target(name, place.port, "/v1/verify", place.bodies, process.pid)


async def _keyshield(place: _Place, name: str) -> Target:
    tools = await asyncio.to_thread(installing.keyshield)
    made = place.folder / f"{place.port}.tokens"
    environment = {"TOKENS": str(made), "PYTHONPATH": str(SERVERS)}
    if name == AT_ONCE:
        environment["KEYSHIELD_DELAY"] = "0"
    process = place.start(_granian_argv(tools, place.port, "keyshield_server:app"), SERVERS, environment)
    tokens = await _tokens(process, made)
    asked = [{"api_key": token, "required_scopes": ["contacts:read"]} for token in tokens]
    return Target(name, place.port, "/api-keys/verify", _written(place, asked), process.pid)


async def _better_auth(place: _Place, name: str) -> Target:
    home, environment = await asyncio.to_thread(installing.better_auth)
    made = place.folder / f"{place.port}.tokens"
    shutil.copy(SERVERS / "better_auth_server.mjs", home)
    database = str(place.folder / "better-auth.sqlite")
    process = place.start(
        ["node", home / "better_auth_server.mjs"],
        home,
        {"PATH": environment["PATH"], "PORT": str(place.port), "TOKENS": str(made), "DATABASE": database},
    )
    tokens = await _tokens(process, made)
    return Target(name, place.port, "/", _written(place, [{"key": token} for token in tokens]), process.pid)


async def _tokens(process: Process, made: Path) -> list[str]:
    async def there() -> bool:
        process.check_running()
        return await asyncio.to_thread(made.exists)

    try:
        await until(there, within=120, describe="a rival's keys")
    except AssertionError as error:
        raise NotInstalled(f"{error}; {process.tail()}") from None
    return (await asyncio.to_thread(made.read_text)).split()


def _written(place: _Place, bodies: Sequence[object]) -> Path:
    path = place.folder / f"{place.port}.bodies"
    path.write_text("\n".join(json.dumps(body) for body in bodies) + "\n")
    return path

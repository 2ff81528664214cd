"""The servers a verifier is measured beside, each on the same core: three floors, and the rivals."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench.driving import SERVER_CORE, Target
from bench.floors import VERDICT
from bench.stage import on_core, say
from tests.support.processes import Process
from tests.support.system import free_base
from tests.support.waiting import until

RIVALS = Path(__file__).with_name("rivals")
NPM = ("better-auth@1.7.25", "@better-auth/api-key@1.7.5", "better-sqlite3@12")
PYPI = ("keyshield[core,litestar]==2.0.1", "granian>=2.8", "uvloop")
INSTALL_SECONDS = 900
_NGINX = """
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


class Missing(Exception):
    """A peer that cannot be had here, and why."""


@asynccontextmanager
async def peers(bodies: Path, *, rivals: bool) -> AsyncGenerator[list[Target]]:
    """All that can be had, up and asked; what cannot is named in the progress."""
    base = free_base()
    with tempfile.TemporaryDirectory(prefix="keyledger-peers-") as made:
        folder = Path(made)
        # nginx's worker is another user
        folder.chmod(0o755)  # noqa: ASYNC240 (once, and at once)
        async with AsyncExitStack() as stack:
            found = [
                await _granian(stack, folder, "constant", base + 1, bodies),
                await _granian(stack, folder, "routed", base + 2, bodies),
                await _nginx(stack, folder, base + 3, bodies),
            ]
            for number, start in enumerate((_keyshield, _keyshield_at_once, _better_auth) if rivals else ()):
                try:
                    found.append(await start(stack, folder, base + 4 + number))
                except (Missing, AssertionError, OSError) as error:
                    say(f"  not measured: {start.__name__.strip('_')}: {error}")
            yield found


async def _start(
    stack: AsyncExitStack,
    argv: Sequence[str | Path],
    log: Path,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
) -> Process:
    own = {"PATH": f"{os.environ['PATH']}:/usr/sbin", **(environment or {})}
    return stack.enter_context(Process([*on_core(SERVER_CORE), *argv], log=log, cwd=cwd, env=own))


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


async def _granian(stack: AsyncExitStack, folder: Path, name: str, port: int, bodies: Path) -> Target:
    argv = _granian_argv(Path(sys.executable).parent, port, f"bench.floors:{name}")
    process = await _start(stack, argv, folder / f"{name}.log", Path(__file__).parents[1])
    await _listening(process, port)
    told = {"constant": "granian, bare ASGI", "routed": "Litestar route"}[name]
    return Target(told, port, "/v1/verify", bodies, process.pid)


def _granian_argv(tools: Path, port: int, application: str) -> list[str]:
    return [
        str(tools / "granian"), "--interface", "asgi", "--workers", "1", "--loop", "uvloop", "--no-ws",
        "--log-level", "warning", "--host", "127.0.0.1", "--port", str(port), application,
    ]  # fmt: skip


async def _nginx(stack: AsyncExitStack, folder: Path, port: int, bodies: Path) -> Target:
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        raise Missing("nginx is not installed")
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, port=port, body=VERDICT.decode()))
    process = await _start(stack, [nginx, "-p", folder, "-c", config], folder / "out.log", folder)
    await _listening(process, port)
    return Target("nginx, static", port, "/v1/verify", bodies, process.pid)


async def _keyshield(stack: AsyncExitStack, folder: Path, port: int) -> Target:
    return await _started_keyshield(stack, folder, port, "keyshield, cached", {})


async def _keyshield_at_once(stack: AsyncExitStack, folder: Path, port: int) -> Target:
    without = {"KEYSHIELD_DELAY": "0"}
    return await _started_keyshield(stack, folder, port, "keyshield, cached, delay 0", without)


async def _started_keyshield(
    stack: AsyncExitStack, folder: Path, port: int, name: str, environment: dict[str, str]
) -> Target:
    tools = await asyncio.to_thread(_pypi)
    made = folder / f"{port}.tokens"
    argv = _granian_argv(tools, port, "keyshield_server:app")
    process = await _start(
        stack,
        argv,
        folder / f"{port}.log",
        RIVALS,
        {"TOKENS": str(made), "PYTHONPATH": str(RIVALS), **environment},
    )
    tokens = await _tokens(process, made)
    asked = [{"api_key": token, "required_scopes": ["contacts:read"]} for token in tokens]
    return Target(name, port, "/api-keys/verify", _written(folder / f"{port}.bodies", asked), process.pid)


async def _better_auth(stack: AsyncExitStack, folder: Path, port: int) -> Target:
    place = await asyncio.to_thread(_npm)
    made = folder / f"{port}.tokens"
    environment = {"PORT": str(port), "TOKENS": str(made), "DATABASE": str(folder / "better-auth.sqlite")}
    shutil.copy(RIVALS / "better_auth_server.mjs", place)
    argv = ["node", place / "better_auth_server.mjs"]
    process = await _start(stack, argv, folder / f"{port}.log", place, environment)
    tokens = await _tokens(process, made)
    bodies = _written(folder / f"{port}.bodies", [{"key": token} for token in tokens])
    return Target("better-auth", port, "/", bodies, process.pid)


async def _tokens(process: Process, made: Path) -> list[str]:
    async def there() -> bool:
        process.check_running()
        return await asyncio.to_thread(made.exists)

    await until(there, within=120, describe="a rival's keys")
    return (await asyncio.to_thread(made.read_text)).split()


def _written(path: Path, bodies: Sequence[object]) -> Path:
    path.write_text("\n".join(json.dumps(body) for body in bodies) + "\n")
    return path


def _pypi() -> Path:
    """keyshield's own environment: where its commands are."""
    place = _cache() / "keyshield"
    if not (place / "made").exists():
        say("  installing keyshield")
        _run([sys.executable, "-m", "venv", "--clear", str(place)])
        _run([str(place / "bin" / "python"), "-m", "pip", "-q", "install", *PYPI])
        (place / "made").touch()
    return place / "bin"


def _npm() -> Path:
    """better-auth's folder, with what it needs installed."""
    if shutil.which("npm") is None:
        raise Missing("there is no npm")
    place = _cache() / "better-auth"
    if not (place / "made").exists():
        say("  installing better-auth; its SQLite is compiled, which takes two minutes")
        place.mkdir(parents=True, exist_ok=True)
        (place / "package.json").write_text('{"private": true, "type": "module"}\n')
        _run(["npm", "install", "--legacy-peer-deps", "--no-audit", "--no-fund", *NPM], place)
        _run(["npm", "rebuild", "better-sqlite3"], place)
        (place / "made").touch()
    return place


def _cache() -> Path:
    place = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "keyledger-bench"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _run(argv: Sequence[str], cwd: Path | None = None) -> None:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    if done.returncode != 0:
        raise Missing(f"{argv[0]} failed: {(done.stdout + done.stderr)[-300:]}")

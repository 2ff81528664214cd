"""What the benchmarks run on: servers of their own from the wheels, a database, the services as processes.

Postgres as it comes (fsync on), nats-server with `sync_interval: always`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from keyledger.server.seal import Sealer
from keyledger.token import Secret
from tests.support import servers_fresh as fresh
from tests.support import servers_wheels as wheels
from tests.support.keys import Home, migrated
from tests.support.processes import Process
from tests.support.system import free_base


def say(text: str) -> None:
    """Progress, beside the figures."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def on_core(core: int | None) -> list[str]:
    """What stands before a command that may run on this core alone."""
    return [] if core is None else ["taskset", "-c", str(core)]


@dataclass(frozen=True)
class Stage:
    """A bootstrapped database and a broker; `base` is the first of some free ports."""

    admin: str
    postgres: str
    nats: str
    home: Home
    base: int

    @property
    def keys_url(self) -> str:
        """Where the key service listens while it runs."""
        return f"http://127.0.0.1:{self.base + 1}"

    @property
    def verifier_url(self) -> str:
        """Where the verifier listens while it runs."""
        return f"http://127.0.0.1:{self.base + 2}"

    @property
    def sealer(self) -> Sealer:
        """What seals as the key service does."""
        return Sealer(bytes.fromhex(self.home.seal.read_text().strip()))

    @property
    def feed_key(self) -> Secret:
        """A key that may follow."""
        return Secret((self.home.secrets / "verifier").read_text().strip())

    @asynccontextmanager
    async def key_service(self) -> AsyncGenerator[Process]:
        """The key service as a process, ready."""
        environment = {
            "KEYLEDGER_POSTGRES": self.postgres,
            "KEYLEDGER_PEPPERS": str(self.home.peppers),
            "KEYLEDGER_SEAL_SECRET_FILE": str(self.home.seal),
            "KEYLEDGER_PORT": str(self.base + 1),
        }
        with self._process("services.keys", environment) as process:
            await process.wait_ready(f"{self.keys_url}/readyz", within=30)
            yield process

    @contextmanager
    def verifier(
        self,
        folder: str,
        *,
        port: int = 2,
        workers: int = 1,
        core: int | None = None,
        module: str = "services.verifier",
        **more: str,
    ) -> Generator[Process]:
        """A verifier as a process, not ready yet. What it keeps lies in this folder of the home."""
        place = self.home.folder / folder
        environment = {
            "KEYLEDGER_PEPPERS": str(self.home.peppers),
            "KEYLEDGER_KEYS_URL": self.keys_url,
            "KEYLEDGER_SERVICE_KEY_FILE": str(self.home.secrets / "verifier"),
            "KEYLEDGER_SPOOL": str(place / "spool"),
            "KEYLEDGER_STORE": str(place),
            "KEYLEDGER_PORT": str(self.base + port),
            "KEYLEDGER_WORKERS": str(workers),
            # nobody asks it any more when it is told to stop
            "KEYLEDGER_DRAIN_SECONDS": "0",
            **more,
        }
        with self._process(module, environment, core) as process:
            yield process

    def _process(self, module: str, environment: dict[str, str], core: int | None = None) -> Process:
        return Process(
            [*on_core(core), sys.executable, "-m", module],
            log=self.home.folder / f"{module}.log",
            env={"PATH": os.environ["PATH"], "KEYLEDGER_NATS": self.nats, **environment},
        )


@asynccontextmanager
async def stage() -> AsyncGenerator[Stage]:
    """Servers that are gone with all they hold at the end."""
    with tempfile.TemporaryDirectory(prefix="keyledger-bench-") as folder:
        async with wheels.postgres() as server, wheels.nats() as nats, fresh.database(server) as admin:
            dsn = await migrated(admin)
            home = Home.new(Path(folder) / "home")
            await home.bootstrap(dsn)
            yield Stage(admin, dsn, nats, home, free_base())

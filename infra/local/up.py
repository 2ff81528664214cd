"""One run from start to stop: claim the home, start the servers, provision, start the services, wait, stop.

The only knowledge of the services' code is the Provision protocol, loaded while Postgres starts: its imports
take as long as initdb does.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from infra.local.bus import Bus, embedded_bus
from infra.local.console import Console
from infra.local.errors import LocalRunError
from infra.local.home import Home
from infra.local.house import House
from infra.local.leftovers import end_left_over
from infra.local.postgres import ROLES, Postgres, embedded_postgres
from infra.local.probe import require_free_ports
from infra.local.remembered import remember
from infra.local.services import Servers, ServiceSpecs, service_specs
from infra.local.settings import Settings
from infra.local.welcome import typed, welcome

WITH_DATABASE: tuple[str, ...] = ("keys", "usage", "dashboard")
SERVERS_STOP_LAST = ("nats", "postgres")
PREDECESSOR_SECONDS = 4.0
PROVISION_SECONDS = 60.0


class Provision(Protocol):
    """What prepares the database; services.keys.provision is one."""

    async def migrate(self, admin_dsn: str, *, role_passwords: Mapping[str, str] | None) -> None:
        """Bring schema and roles up to date; None leaves the roles to the operator."""
        ...

    async def bootstrap(
        self, dsn: str, *, peppers: Path, seal_secret_file: Path, out: Path, secrets: Path, renew: bool
    ) -> Sequence[str]:
        """Make what is missing of the system workspace and the services' keys; what was made, in words.

        A service's key that was revoked is made anew only if `renew`.
        """
        ...

    def sign_in_link(self, public_url: str, secret_file: Path) -> str:
        """A link that signs this machine's user in to the dashboard, once, within five minutes."""
        ...


async def up(
    settings: Settings,
    *,
    load_provision: Callable[[], Provision],
    specs: ServiceSpecs = service_specs,
    console: Console | None = None,
    renew_service_keys: bool = False,
) -> None:
    """Run everything until SIGINT, SIGTERM or SIGHUP. Raises LocalRunError if it cannot start."""
    console = console or Console()
    with Home.claim(settings.home) as home, _signals() as signals:
        house = House(home, console)
        steps = _Run(settings, home, house, console, load_provision, specs, renew_service_keys)
        run = asyncio.create_task(steps.run())
        try:
            await _first(run, signals.stop)
            if run.done():
                run.result()
        except LocalRunError:
            raise
        except Exception as error:
            trace = home.logs / "up.log"
            trace.write_text("".join(traceback.format_exception(error)))
            raise LocalRunError(f"{type(error).__name__}: {error} (traceback in {trace})") from None
        finally:
            console.done_waiting()
            run.cancel()
            await asyncio.wait([run])
            if signals.stop.is_set():
                console.say("stopping")
            signals.hurry = house.kill
            await house.stop(SERVERS_STOP_LAST)
    console.say("stopped")


@dataclass(slots=True)
class _Run:
    """The start, step by step, and then waiting for ever."""

    settings: Settings
    home: Home
    house: House
    console: Console
    load_provision: Callable[[], Provision]
    specs: ServiceSpecs
    renew_service_keys: bool

    async def run(self) -> None:
        patience = PREDECESSOR_SECONDS if self.home.unclean else 0.0
        await end_left_over(self.home.run, patience=patience)
        await require_free_ports(self._ports(), patience=patience)
        remember(self.settings, self.home)
        if not self.settings.is_loopback:
            self.console.say(f"warning: {self.settings.host} is reachable from other machines, without TLS")
        # The import runs beside the servers' start, in a thread; what it raises is raised where it is needed.
        loading = asyncio.create_task(asyncio.to_thread(self.load_provision))
        try:
            postgres, bus = await self._servers()
            provision = await loading
            servers = await self._provision(provision, postgres, bus)
        finally:
            loading.cancel()
        children = [await self.house.start(spec) for spec in self.specs(self.settings, self.home, servers)]
        await self.house.ready(children)
        link = None
        if not self.settings.has_provider:
            link = provision.sign_in_link(self.settings.public_url, self.home.dashboard_secret)
        self.console.show(welcome(self.settings, self.home, link, typed(self.home)))
        await self.house.bound_logs()

    def _ports(self) -> Iterator[tuple[str, str, int]]:
        if self.settings.postgres is None:
            yield "postgres", self.settings.loopback, self.settings.port("postgres")
        if self.settings.nats is None:
            yield "nats", self.settings.loopback, self.settings.port("nats")
        nothing: Mapping[str, str] = dict.fromkeys(("keys", "verifier", "usage", "dashboard"), "")
        for spec in self.specs(self.settings, self.home, Servers(postgres=nothing, nats=nothing)):
            yield spec.name, self.settings.host, spec.port

    async def _servers(self) -> tuple[Postgres | None, Bus | None]:
        """Start the servers the user did not bring, and wait until they take connections."""
        host, children = self.settings.loopback, []
        bus = postgres = None
        if self.settings.nats is None:
            bus = embedded_bus(self.home, host=host, port=self.settings.port("nats"))
            children.append(await self.house.start(bus.spec()))
        if self.settings.postgres is None:
            self.console.waiting("preparing Postgres")
            postgres = embedded_postgres(self.home, host=host, port=self.settings.port("postgres"))
            if await postgres.initialise():
                self.console.say(f"made a new database in {postgres.data}")
            children.append(await self.house.start(postgres.spec()))
        await self.house.ready(children)
        return postgres, bus

    async def _provision(self, provision: Provision, postgres: Postgres | None, bus: Bus | None) -> Servers:
        """Bring the database up to date, and say how each service reaches its servers."""
        if postgres is None:
            admin, passwords = self.settings.postgres or "", None
            dsns = dict.fromkeys(WITH_DATABASE, admin)
        else:
            admin = postgres.dsn()
            passwords = {role: postgres.passwords[role] for role in ROLES}
            dsns = {name: postgres.dsn(f"keyledger_{name}") for name in WITH_DATABASE}
        self.console.waiting("preparing the database")
        began = time.monotonic()
        try:
            async with asyncio.timeout(PROVISION_SECONDS):
                await provision.migrate(admin, role_passwords=passwords)
                home = self.home
                made = await provision.bootstrap(
                    dsns["keys"],
                    peppers=home.peppers,
                    seal_secret_file=home.seal_secret,
                    out=home.bootstrap,
                    secrets=home.secrets,
                    renew=self.renew_service_keys,
                )
        except TimeoutError:
            raise LocalRunError(f"the database was not prepared within {PROVISION_SECONDS:.0f} s") from None
        news = f"; made {', '.join(made)}" if made else ""
        self.console.say(f"database is up to date ({time.monotonic() - began:.1f} s){news}")
        urls = {
            name: bus.url(name) if bus is not None else self.settings.nats or ""
            for name in ("keys", "verifier", "usage")
        }
        return Servers(postgres=dsns, nats=urls)


class _Signals:
    """The wish to stop; a Ctrl-C at least a second later means: at once.

    Sooner ones are the same wish twice: a signal to the whole group also arrives through make.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry: Callable[[], None] = lambda: None
        self._first = 0.0

    def receive(self, number: signal.Signals) -> None:
        if not self.stop.is_set():
            self._first = time.monotonic()
            self.stop.set()
        elif number is signal.SIGINT and time.monotonic() - self._first > 1.0:
            self.hurry()


@contextlib.contextmanager
def _signals() -> Generator[_Signals]:
    signals, loop = _Signals(), asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, signals.receive, number)
    try:
        yield signals
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _first(run: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Wait until the run has ended or the stop is wished for."""
    waiter = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([run, waiter], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()

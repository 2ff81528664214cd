"""The local run from outside: what it prints, leaves on disk, survives, and takes with it when it ends."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import nats
import pytest

from infra.local.accounts import STATE_ROOT
from infra.local.house import LOOK_AT_LOGS
from infra.local.log_file import LOG_BYTES
from infra.local.probe import http_get
from infra.local.settings import PORT_OFFSETS
from tests.support.command import keyledger
from tests.support.processes import Process
from tests.support.waiting import until

STAND_IN = Path(__file__).with_name("local_standin.py")
SERVICES = ("keys", "verifier", "usage", "dashboard", "contacts")


@dataclass(frozen=True, slots=True)
class Run:
    """One supervisor under test, and its home."""

    process: Process
    home: Path
    base: int

    @property
    def output(self) -> str:
        return self.process.log.read_text()

    def port(self, name: str) -> int:
        return self.base + PORT_OFFSETS[name]

    def pids(self) -> dict[str, int]:
        files = (self.home / "run").glob("*.pid")
        return {file.stem: int(words[0]) for file in files if (words := file.read_text().split())}

    async def ready(self) -> None:
        await self.says("Keyledger is running")

    async def says(self, text: str, *, within: float = 20.0) -> None:
        async def said() -> bool:
            return text in self.output

        try:
            await until(said, within=within, describe=f"{text!r} on the console")
        except AssertionError as error:
            error.add_note(self.output)
            raise

    async def ends(self, *, within: float = 10.0) -> int:
        async def ended() -> bool:
            return self.process.returncode is not None

        await until(ended, within=within, describe="the supervisor's end")
        assert self.process.returncode is not None
        return self.process.returncode

    async def query(self, sql: str) -> object:
        password = json.loads((self.home / "postgres.json").read_text())["keyledger"]
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=self.port("postgres"),
            user="keyledger",
            password=password,
            database="postgres",
        )
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()


class Runs:
    """Starts supervisors; all are gone when the test ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bases = _free_bases()
        self._runs: list[Run] = []

    def start(self, *, home: Path | None = None, base: int | None = None, **environment: str) -> Run:
        base = base or next(self._bases)
        home = home or self._folder / f"home{len(self._runs)}"
        env = {
            "PATH": os.environ["PATH"],
            "KEYLEDGER_HOME": str(home),
            "KEYLEDGER_PORT_BASE": str(base),
            **environment,
        }
        log = self._folder / f"console{len(self._runs)}.txt"
        run = Run(Process([sys.executable, STAND_IN, "up"], log=log, env=env), home, base)
        self._runs.append(run)
        return run

    def stop(self) -> None:
        for run in self._runs:
            run.process.terminate()
            memory = run.home / "postgres.path"
            if memory.exists():
                shutil.rmtree(memory.read_text().strip())
                memory.unlink()


@pytest.fixture
def runs() -> Iterator[Runs]:
    """Supervisors in a folder that Postgres's user can reach, which pytest's own is not for root's."""
    with tempfile.TemporaryDirectory(prefix="keyledger-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        started = Runs(folder)
        try:
            yield started
        finally:
            started.stop()


def _free_bases() -> Iterator[int]:
    # Below the ports that the kernel hands out, and each process of tests begins elsewhere.
    bases = range(20000, 30000, 40)
    for base in (bases[(os.getpid() + step) % len(bases)] for step in range(len(bases))):
        if all(_is_free(base + offset) for offset in PORT_OFFSETS.values()):
            yield base


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def _all_gone(pids: dict[str, int], *, within: float = 5.0) -> None:
    async def gone() -> bool:
        return not any(_lives(pid) for pid in pids.values())

    await until(gone, within=within, describe=f"end of {pids}")


async def test_everything_starts_stops_and_finds_its_data_again(runs: Runs) -> None:
    run = runs.start()
    await run.ready()
    for name in SERVICES:
        assert (await http_get("127.0.0.1", run.port(name), "/readyz"))[0] == 200
    pids = run.pids()
    assert set(pids) == {*SERVICES, "postgres", "nats"}
    run.process.send(signal.SIGTERM)
    assert await run.ends() == 0
    await _all_gone(pids, within=0.5)
    again = runs.start(home=run.home, base=run.base)
    await again.ready()
    assert await again.query("SELECT count(*) FROM start") == 2


async def test_secrets_are_for_their_owner_alone(runs: Runs) -> None:
    run = runs.start()
    await run.ready()
    files = [path for path in run.home.rglob("*") if "postgres" not in path.parts[len(run.home.parts) :][:1]]
    assert {path.name for path in files} >= {"p1.pepper", "seal.secret", "bootstrap.json", "nats.conf"}
    assert [path for path in (run.home, *files) if path.stat().st_mode & 0o007] == []
    assert [path for path in files if path.stat().st_mode & 0o077] == []
    assert len(bytes.fromhex((run.home / "peppers" / "p1.pepper").read_text())) == 32
    secrets = [*json.loads((run.home / "postgres.json").read_text()).values()]
    assert [secret for secret in secrets if secret in run.output] == []


@pytest.mark.parametrize("name", ["verifier", "nats", "postgres"])
async def test_what_dies_is_started_again_and_said(runs: Runs, name: str) -> None:
    run = runs.start()
    await run.ready()
    os.kill(run.pids()[name], signal.SIGKILL)
    await run.says(f"{name} died (SIGKILL); starting it again in")
    await run.says(f"{name} is ready again")


async def test_a_log_stays_within_its_bound_while_its_child_writes(runs: Runs) -> None:
    run = runs.start()
    await run.ready()
    log = run.home / "logs" / "verifier.log"
    with log.open("ab") as writer:
        writer.write(b"x" * (LOG_BYTES + 1))

    async def is_short() -> bool:
        return log.stat().st_size <= LOG_BYTES

    await until(is_short, within=3 * LOOK_AT_LOGS)
    assert log.with_name("verifier.log.1").stat().st_size > LOG_BYTES
    assert run.process.returncode is None


async def test_ctrl_c_reaches_the_whole_group_and_counts_once(runs: Runs) -> None:
    run = runs.start()
    await run.ready()
    pids = run.pids()
    os.killpg(run.process.pid, signal.SIGINT)
    os.killpg(run.process.pid, signal.SIGTERM)
    assert await run.ends() == 0
    await _all_gone(pids, within=0.5)
    assert "was killed" not in run.output


async def test_stopping_while_starting_leaves_nothing(runs: Runs) -> None:
    run = runs.start()
    await run.says("nats is ready")
    pids = run.pids()
    run.process.send(signal.SIGTERM)
    assert await run.ends() == 0
    await _all_gone(pids, within=0.5)


async def test_a_deaf_service_does_not_hold_up_the_stop(runs: Runs) -> None:
    run = runs.start(STANDIN_DEAF="usage")
    await run.ready()
    pids = run.pids()
    run.process.send(signal.SIGTERM)
    assert await run.ends(within=10) == 0
    assert "usage did not stop in time and was killed" in run.output
    await _all_gone(pids, within=0.5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
async def test_a_killed_supervisor_takes_its_children_along(runs: Runs) -> None:
    run = runs.start(STANDIN_DEAF="usage")
    await run.ready()
    pids = run.pids()
    deaf = pids.pop("usage")
    os.kill(run.process.pid, signal.SIGKILL)
    await _all_gone(pids)
    again = runs.start(home=run.home, base=run.base)
    await again.ready()
    assert not _lives(deaf)
    assert await again.query("SELECT count(*) FROM start") == 2


async def test_a_postmaster_file_of_another_process_is_no_obstacle(runs: Runs, tmp_path: Path) -> None:
    run = runs.start()
    await run.ready()
    run.process.send(signal.SIGTERM)
    await run.ends()
    # Of the same user as Postgres: a process that it may not signal would not impress it.
    user = "nobody" if os.geteuid() == 0 else None
    with Process(["sleep", "60"], log=tmp_path / "sleep.txt", user=user) as other:
        data = run.home / "postgres"
        lines = [
            str(other.pid),
            str(data),
            "1700000000",
            str(run.port("postgres")),
            "",
            "127.0.0.1",
            "",
            "ready",
        ]
        (data / "postmaster.pid").write_text("\n".join(lines) + "\n")
        await runs.start(home=run.home, base=run.base).ready()
        other.check_running()


async def test_a_taken_port_is_named_before_anything_starts(runs: Runs) -> None:
    run = runs.start()
    await run.ready()
    other = runs.start(base=run.base)
    assert await other.ends() == 1
    assert f"{run.port('keys')} (keys, on 127.0.0.1)" in other.output
    assert "KEYLEDGER_PORT_BASE" in other.output
    assert "Traceback" not in other.output


async def test_a_run_is_found_by_its_home_alone(runs: Runs) -> None:
    run = runs.start(KEYLEDGER_HOST="127.0.0.2")
    await run.ready()
    link = (await keyledger("login", home=run.home)).good().strip()
    assert link.startswith(f"http://127.0.0.2:{run.base}/sign-in/link?token=")
    seen = (await keyledger("doctor", home=run.home)).good()
    for name in ("nats", "postgres"):
        assert f"listens on 127.0.0.2:{run.port(name)}" in seen
    assert f"http://127.0.0.2:{run.port('keys')} answers 200" in seen
    assert f"`KEYLEDGER_HOME={run.home} " in run.output, "what another link is asked for with"
    other = await keyledger("login", home=run.home, KEYLEDGER_PORT_BASE="9000")
    assert other.good().startswith("http://127.0.0.2:9000/")


async def test_a_home_serves_one_run_and_two_homes_run_side_by_side(runs: Runs) -> None:
    first, second = runs.start(), runs.start()
    await asyncio.gather(first.ready(), second.ready())
    third = runs.start(home=first.home)
    assert await third.ends() == 1
    assert f"(pid {first.process.pid})" in third.output
    assert "KEYLEDGER_HOME" in third.output


async def test_a_database_and_a_bus_of_ones_own_win(runs: Runs, database: str, nats_url: str) -> None:
    run = runs.start(KEYLEDGER_POSTGRES=database, KEYLEDGER_NATS=nats_url)
    await run.ready()
    assert set(run.pids()) == set(SERVICES)
    assert not (run.home / "postgres.json").exists()


async def test_a_user_of_the_bus_says_only_what_its_service_says(runs: Runs) -> None:
    run = runs.start()
    await run.ready()
    password = json.loads((run.home / "nats.json").read_text())["verifier"]
    refusals: list[Exception] = []

    async def note(error: Exception) -> None:
        refusals.append(error)

    async def refused() -> bool:
        return bool(refusals)

    url = f"nats://verifier:{password}@127.0.0.1:{run.port('nats')}"
    client = await nats.connect(url, error_cb=note, inbox_prefix=b"_INBOX_verifier", allow_reconnect=False)
    await client.publish("kl.head", b"")
    await client.flush()
    assert refusals == []
    await client.publish("kl.live.made-up", b"")
    await until(refused, describe="a refusal to publish")
    await client.close()


async def test_the_bus_has_no_anonymous_user(runs: Runs) -> None:
    run = runs.start()
    await run.ready()
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", run.port("nats"))
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        assert b"Authorization Violation" in await reader.readline()
        writer.close()
        await writer.wait_closed()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps a home that Postgres's user cannot reach")
async def test_a_closed_home_keeps_its_folders_modes_and_its_data(runs: Runs, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    run = runs.start(home=closed / "home")
    await run.ready()
    assert Path((run.home / "postgres.path").read_text().strip()).parent == STATE_ROOT
    assert closed.stat().st_mode & 0o777 == 0o700
    assert run.home.stat().st_mode & 0o777 == 0o700
    run.process.send(signal.SIGTERM)
    assert await run.ends() == 0
    again = runs.start(home=run.home, base=run.base)
    await again.ready()
    assert await again.query("SELECT count(*) FROM start") == 2

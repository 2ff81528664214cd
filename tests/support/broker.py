"""A nats-server of one test's own: it may be killed, frozen, and started again on its port and data."""

import secrets
import signal
import socket
import sysconfig
from pathlib import Path

from tests.support import servers_options as options
from tests.support.processes import Process
from tests.support.servers_ready import PATIENCE, nats_answers
from tests.support.waiting import until


class Broker:
    """As a context manager it is dead at the end of the block. It is not started by itself."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.password = secrets.token_hex(16)
        self.url = f"nats://{options.NATS_USER}:{self.password}@127.0.0.1:{self.port}"
        self.store = folder / "store"
        """Its files: may be damaged or deleted while it is dead."""
        self._folder = folder
        self._process: Process | None = None

    async def start(self) -> None:
        """Start it; on return it greets."""
        conf = self._folder / "nats.conf"
        listen = f'listen: "127.0.0.1:{self.port}"'
        conf.write_text(options.nats_conf(listen=listen, store=str(self.store), password=self.password))
        program = Path(sysconfig.get_path("scripts")) / "nats-server"
        process = Process([program, "-c", conf], log=self._folder / "nats.log")
        self._process = process

        async def greets() -> bool:
            process.check_running()
            return await nats_answers("127.0.0.1", self.port)

        await until(greets, within=PATIENCE)

    def freeze(self) -> None:
        """Stop it in its tracks (SIGSTOP): its sockets stay open and answer nothing."""
        self._running().send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self._running().send(signal.SIGCONT)

    def kill(self) -> None:
        """End it by SIGKILL; what it had not synced is as a dead process leaves it."""
        self._running().kill()
        self._process = None

    def _running(self) -> Process:
        assert self._process is not None, "the broker does not run"
        return self._process

    def __enter__(self) -> "Broker":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()

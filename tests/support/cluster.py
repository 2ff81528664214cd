"""Three nats-servers of one test's own that form a cluster: each may be killed, wiped and started again."""

import json
import secrets
import shutil
import signal
import socket
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import Self

from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import BusUnavailable
from tests.support import servers_options as options
from tests.support.processes import Process
from tests.support.servers_ready import PATIENCE, nats_answers
from tests.support.waiting import until

NODES = 3


class Node:
    """One server of a cluster. It keeps its name, its ports and its store."""

    def __init__(self, name: str, folder: Path, password: str) -> None:
        self.name = name
        self.store = folder / name
        self.port, self.route = _free_port(), _free_port()
        self.url = f"nats://{options.NATS_USER}:{password}@127.0.0.1:{self.port}"
        self._folder = folder
        self._password = password
        self._process: Process | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None

    def launch(self, routes: list[int]) -> None:
        """Start it, without waiting for anything."""
        others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        listen = (
            f'server_name: {self.name}\nlisten: "127.0.0.1:{self.port}"\n'
            f'cluster {{ name: tests, listen: "127.0.0.1:{self.route}", routes: [{others}] }}'
        )
        conf = self._folder / f"{self.name}.conf"
        conf.write_text(options.nats_conf(listen=listen, store=str(self.store), password=self._password))
        program = Path(sysconfig.get_path("scripts")) / "nats-server"
        self._process = Process([program, "-c", conf], log=self._folder / f"{self.name}.log")

    async def greets(self) -> bool:
        """Whether it answers at its port."""
        if self._process is not None:
            self._process.check_running()
        return await nats_answers("127.0.0.1", self.port)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None, f"{self.name} does not run"
        self._process.send(number)

    def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def wipe(self) -> None:
        """Delete everything it has stored; it must be dead."""
        assert self._process is None, f"{self.name} runs"
        shutil.rmtree(self.store)


class Cluster:
    """As a context manager all of it is dead at the end of the block. It is not started by itself."""

    def __init__(self, folder: Path) -> None:
        password = secrets.token_hex(16)
        self.nodes = [Node(f"n{number}", folder, password) for number in range(1, NODES + 1)]
        self.url = ",".join(node.url for node in self.nodes)

    async def start(self) -> None:
        """Start what does not run; on return all greet, and JetStream has a leader."""
        routes = [node.route for node in self.nodes]
        for node in self.nodes:
            if not node.runs:
                node.launch(routes)
        for node in self.nodes:
            await until(node.greets, within=PATIENCE, describe=f"{node.name} greets")
        bus = await NatsBus.connect(self.url, name="cluster")
        try:

            async def led() -> bool:
                try:
                    answer = await bus.request("$JS.API.INFO", b"", timeout=1)
                except BusUnavailable:
                    return False
                return "error" not in json.loads(answer.body)

            await until(led, within=PATIENCE, describe="JetStream has a leader")
        finally:
            await bus.close()

    async def leader_of(self, stream: str) -> Node:
        """The node that leads this stream, once one does."""
        bus = await NatsBus.connect(self.url, name="cluster")
        try:

            async def leader() -> Node | None:
                try:
                    answer = await bus.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=1)
                except BusUnavailable:
                    return None
                name = json.loads(answer.body).get("cluster", {}).get("leader")
                return next((node for node in self.nodes if node.name == name), None)

            return await until(leader, within=PATIENCE, describe=f"{stream} has a leader")
        finally:
            await bus.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""A verifier of several processes: one follows, two serve, and what dies is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from keyledger.events import KeyRevoked
from keyledger.verification.bus import NatsBus
from tests.contract.test_verifier_process import KEY, KeyService, keys, ready, verifier_process
from tests.support.followed_log import WORKSPACE, key_created, key_id, token, workspace_created
from tests.support.memory_grants import granting
from tests.support.waiting import until

__all__ = ["keys"]

Keys = tuple[KeyService, NatsBus, str]


class Verifier:
    """Its parent, and how to ask whichever process answers."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    def children(self) -> list[int]:
        """The processes it has started."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def projector(self) -> int:
        """The one that follows."""
        return next(pid for pid in self.children() if b"KEYLEDGER_WORKER=-" in _environment(pid))

    def serving(self) -> list[int]:
        """The ones that serve."""
        return [pid for pid in self.children() if b"KEYLEDGER_WORKER=-" not in _environment(pid)]

    async def ask(self, **asked: Any) -> dict[str, Any]:
        """A verdict over a connection of its own, so of any of the processes."""
        async with httpx2.AsyncClient(base_url=self.url, timeout=10, trust_env=False) as client:
            return (await client.post("/v1/verify", json=asked)).json()

    async def get(self, path: str) -> httpx2.Response:
        """As `ask`, any path."""
        async with httpx2.AsyncClient(base_url=self.url, timeout=10, trust_env=False) as client:
            return await client.get(path)


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


@asynccontextmanager
async def two_workers(folder: Path, nats: str, url: str, **more: str) -> AsyncGenerator[Verifier]:
    more = {"KEYLEDGER_WORKERS": "2", "KEYLEDGER_LIMITS": "shared", **more}
    async with (
        granting(nats),
        verifier_process(folder, nats=nats, keys_url=url, **more) as (process, client),
    ):
        verifier = Verifier(process, str(client.base_url))
        await until(lambda: ready(client), within=30, describe="the verifier is ready")

        async def all_there() -> bool:
            return len(verifier.serving()) == 2

        await until(all_there)
        # both have answered
        for _ in range(20):
            await until(lambda: _serves(verifier), within=20, describe="every worker is ready")
        yield verifier


async def _serves(verifier: Verifier) -> bool:
    return (await verifier.get("/readyz")).status_code == 200


async def revoke(keys: Keys) -> int:
    """Revoke the key, and tell it live; its position."""
    service, bus, _ = keys
    event = service.log.append(KEY, KeyRevoked())
    await bus.publish(
        f"kl.live.{service.log.epoch.line.hex()}.{WORKSPACE}.{KEY}", msgspec.msgpack.encode(event)
    )
    return event.position


async def test_what_is_revoked_is_refused_by_all_and_a_limit_is_shared_exactly(
    keys: Keys, nats_url: str, tmp_path: Path
) -> None:
    service = keys[0]
    other = "ws_0000000000000000000002"
    service.log.append(other, workspace_created(7, 86_400), workspace=other)
    service.log.append(key_id(2), key_created(2), workspace=other)
    async with two_workers(tmp_path, nats_url, keys[2]) as verifier:
        spent = Counter([(await verifier.ask(key=token(2)))["code"] for _ in range(80)])
        assert spent == {"VALID": 7, "RATE_LIMITED": 73}
        assert (await verifier.ask(key=token(2), cost=0))["rate_limit"]["limit"] == 7
        assert {(await verifier.ask(key=token(1)))["code"] for _ in range(20)} == {"VALID"}
        position = await revoke(keys)
        told = [await verifier.ask(key=token(1), min_position=position) for _ in range(20)]
        assert {(each["code"], each["position"]) for each in told} == {("REVOKED", position)}

        async def receipt() -> bool:
            return position in service.applied

        await until(receipt)

        async def all_stand_there() -> bool:
            told = [(await verifier.get("/readyz")).json() for _ in range(10)]
            return {(each["status"], each["position"], each["head"]) for each in told} == {
                ("ready", position, position)
            }

        # on a busy machine the sign of life of who follows may be late for a moment
        await until(all_stand_there)
        verifier.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(verifier.process.wait(), 20)
    assert verifier.process.returncode == 0
    counted = Counter[str]()
    for use in service.uses:
        counted[use.outcome] += use.count
    assert counted == {"VALID": 27, "RATE_LIMITED": 73, "REVOKED": 20}


async def test_the_projector_is_replaced_when_it_dies_and_when_it_is_silent(
    keys: Keys, nats_url: str, tmp_path: Path
) -> None:
    async with two_workers(tmp_path, nats_url, keys[2]) as verifier:
        for number in (signal.SIGKILL, signal.SIGSTOP):
            before = verifier.projector()
            os.kill(before, number)

            async def replaced(before: int = before) -> bool:
                return all(pid != before for pid in verifier.children()) and len(verifier.children()) == 3

            # five seconds of silence, and those it had for its start
            await until(replaced, within=30)
            assert {(await verifier.ask(key=token(1)))["code"] for _ in range(10)} == {"VALID"}
        position = await revoke(keys)

        async def refused() -> bool:
            told = [await verifier.ask(key=token(1), min_position=position) for _ in range(10)]
            return {each.get("code") for each in told} == {"REVOKED"}

        await until(refused, within=20)


async def test_a_worker_that_dies_is_replaced_and_nobody_is_turned_away(
    keys: Keys, nats_url: str, tmp_path: Path
) -> None:
    async with two_workers(tmp_path, nats_url, keys[2]) as verifier:
        before = verifier.serving()[0]
        os.kill(before, signal.SIGKILL)
        # who connects while there is one less waits for the next one
        told = [(await verifier.ask(key=token(1)))["code"] for _ in range(40)]
        assert set(told) == {"VALID"}
        assert before not in verifier.children()
        parent = verifier.process.pid
        children = verifier.children()
        os.kill(parent, signal.SIGKILL)

        async def all_gone() -> bool:
            return not any(_runs(pid) for pid in children)

        # nobody is left behind without a parent
        await until(all_gone, within=20)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_nobody_is_let_in_who_would_wait_in_vain(keys: Keys, nats_url: str, tmp_path: Path) -> None:
    async with two_workers(tmp_path, nats_url, keys[2], KEYLEDGER_DRAIN_SECONDS="0.1") as verifier:
        port = httpx2.URL(verifier.url).port
        # half of a request keeps one of them for a while after both have ceased to accept
        _, slow = await asyncio.open_connection("127.0.0.1", port)
        slow.write(b"GET /healthz HTTP/1.1\r\n")
        await slow.drain()
        assert (await verifier.get("/healthz")).status_code == 200
        verifier.process.send_signal(signal.SIGTERM)

        async def refused() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return True
            writer.close()
            return False

        await until(refused, within=3)
        assert verifier.process.returncode is None, "it was still at work"
        slow.close()
        assert await asyncio.wait_for(verifier.process.wait(), 20) == 0


async def test_any_worker_tells_what_all_of_them_counted(keys: Keys, nats_url: str, tmp_path: Path) -> None:
    async with two_workers(tmp_path, nats_url, keys[2]) as verifier:

        async def asked(times: int) -> None:
            for _ in range(times):
                assert (await verifier.ask(key=token(1)))["code"] == "VALID"

        async def told(valid: int) -> list[dict[str, float]]:
            """What `/metrics` says, asked so often that each of the workers has answered."""
            seen: list[dict[str, float]] = []
            for _ in range(20):
                text = (await verifier.get("/metrics")).text
                seen.append(dict(samples(text)))
                assert seen[-1]['keyledger_verify_total{code="VALID"}'] == valid
                assert seen[-1]["keyledger_verify_duration_seconds_count"] == valid
                assert seen[-1]['keyledger_verify_duration_seconds_bucket{le="+Inf"}'] == valid
            return seen

        await asked(30)
        before = await told(30)
        spent = before[-1]["process_cpu_seconds_total"]
        assert spent >= before[0]["process_cpu_seconds_total"] > 0
        assert before[-1]["process_resident_memory_bytes"] > 3 * (10 << 20)
        for killed in verifier.serving():
            os.kill(killed, signal.SIGKILL)
            await asked(5)
        assert len(verifier.serving()) <= 2
        after = await told(40)
        # what the dead had used is still there
        assert after[0]["process_cpu_seconds_total"] >= spent
        position = await revoke(keys)
        await verifier.ask(key=token(1), min_position=position)
        seen = dict(samples((await verifier.get("/metrics")).text))
        assert (seen["keyledger_position"], seen["keyledger_head_position"]) == (position, position)
        assert 0 <= seen["keyledger_age_seconds"] < 5
        assert seen["keyledger_granter_away"] == 0


def samples(text: str) -> Iterator[tuple[str, float]]:
    """The lines of an exposition."""
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            yield name, float(value)


async def test_a_folder_that_cannot_be_used_is_named(keys: Keys, nats_url: str, tmp_path: Path) -> None:
    store = tmp_path / "taken"
    store.write_text("")
    for workers in ("1", "2"):
        more = {"KEYLEDGER_STORE": str(store), "KEYLEDGER_WORKERS": workers, "KEYLEDGER_LIMITS": "shared"}
        async with verifier_process(tmp_path, nats=nats_url, keys_url=keys[2], **more) as (process, _):
            output, _ = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 2
        assert str(store).encode() in output
        assert b"Traceback" not in output

"""F23: Postgres is restored to an earlier point. What was denied since stays denied until it is accepted."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest

from keyledger.clock import SECOND, rfc3339
from tests.faults import checker
from tests.faults.conftest import Figures
from tests.faults.history import read_log
from tests.faults.rig import Daemon, Rig, rig
from tests.support.broker import Broker
from tests.support.command import Done, keyledger
from tests.support.servers_wheels import RestorablePostgres, restorable_postgres
from tests.support.waiting import until


class Denied:
    """Keys that are denied after the backup, each in its own way, and some that are not."""

    def __init__(self, made: Rig) -> None:
        self._made = made
        self.ws = ""
        self.other_ws = ""
        self.gone: dict[str, str] = {}
        self.keys: dict[str, dict[str, Any]] = {}

    async def create(self) -> None:
        """Before the backup."""
        self.ws, self.other_ws = await self._made.workspace(), await self._made.workspace()
        for name in ("revoked", "disabled", "rotated", "expired", "revoked before", "untouched"):
            self.keys[name] = await self._made.key(self.ws)
        self.keys["suspended"] = await self._made.key(self.other_ws)
        self.keys["manager"] = await self._manager(self.ws)
        for name in ("deleted", "deleted twice"):
            ws = self.gone[name] = await self._made.workspace()
            self.keys[name] = await self._made.key(ws)
        self.keys["manager of deleted"] = await self._manager(self.gone["deleted"])
        await self._made.revoke(self.ws, self.keys["revoked before"]["id"])

    async def deny(self) -> int:
        """After it; the last position."""
        await self._made.revoke(self.ws, self.keys["revoked"]["id"])
        await self._made.revoke(self.ws, self.keys["manager"]["id"])
        await self._made.ok("PATCH", self._path("disabled"), {"enabled": False})
        await self._made.ok("POST", f"{self._path('rotated')}/rotate")
        soon = rfc3339(time.time_ns() // 1000 + SECOND // 2)
        await self._made.ok("PATCH", self._path("expired"), {"expires_at": soon})
        # what is revoked there as well goes with all else of it, and the deletion stands for both
        await self._made.revoke(self.gone["deleted"], self.keys["deleted"]["id"])
        for ws in self.gone.values():
            await self.delete(ws)
        return await self.suspend()

    async def delete(self, ws: str) -> int:
        """A workspace, until the stream tells nothing of it but that; the position."""
        answer = await self._made.call("DELETE", f"/v1/workspaces/{ws}")
        assert answer.status_code == 202, answer.text
        connection = await asyncpg.connect(self._made.admin_dsn, timeout=5)
        try:

            async def purged() -> bool:
                done = "SELECT rows_gone AND purged FROM ledger.erasure WHERE workspace_id = $1"
                return bool(await connection.fetchval(done, ws))

            await until(purged, within=15, describe="an erased workspace")
        finally:
            await connection.close()
        return answer.json()["position"]

    async def suspend(self) -> int:
        """The other workspace; the position."""
        suspended = {"suspended": True}
        return (await self._made.ok("PATCH", f"/v1/workspaces/{self.other_ws}", suspended))["position"]

    async def codes(self, verifier: Daemon | None = None) -> Mapping[str, str]:
        """What a verifier says to each of them."""
        url = (verifier or self._made.verifier).url
        found: dict[str, str] = {}
        for name, key in self.keys.items():
            body = {"key": key["key"], "cost": 0}
            answer = (await self._made.http.post(f"{url}/v1/verify", json=body)).json()
            found[name] = answer.get("code") or answer["error"]
        return found

    async def managed(self, ws: str, by: str) -> int:
        """The status of an answer to one who manages this workspace."""
        url = f"{self._made.keys[0].url}/v1/workspaces/{ws}/keys"
        return (await self._made.http.get(url, headers={"X-API-Key": self.keys[by]["key"]})).status_code

    async def _manager(self, ws: str) -> dict[str, Any]:
        body = {"name": "manager", "environment": "live", "scopes": ["keyledger:keys:read"]}
        return await self._made.ok("POST", f"/v1/workspaces/{ws}/keys", body)

    def _path(self, name: str) -> str:
        return f"/v1/workspaces/{self.ws}/keys/{self.keys[name]['id']}"


class Watch:
    """Presents all of them again and again, and keeps what was accepted that should not be."""

    def __init__(self, denied: Denied) -> None:
        self.accepted: list[str] = []
        self.rounds = 0
        self.over = False
        self._denied = denied

    async def run(self) -> None:
        while not self.over:
            try:
                codes = await self._denied.codes()
            except httpx2.HTTPError:
                # the verifier is gone, as it is when the test has failed
                return
            self.accepted += [name for name in DENIED if codes[name] == "VALID"]
            self.rounds += 1


DENIED = {
    "revoked": "REVOKED",
    "disabled": "DISABLED",
    "rotated": "REVOKED",
    "expired": "EXPIRED",
    "suspended": "WORKSPACE_SUSPENDED",
    "manager": "REVOKED",
    "deleted": "NOT_FOUND",
    "deleted twice": "NOT_FOUND",
    "manager of deleted": "NOT_FOUND",
}
ALWAYS = {"revoked before": "REVOKED", "untouched": "VALID"}
LATE = {"late": "REVOKED", "late deleted": "NOT_FOUND"}


@asynccontextmanager
async def restorable(
    nats: str, folder: Path, *, key_services: int = 2
) -> AsyncGenerator[tuple[Rig, RestorablePostgres]]:
    async with (
        restorable_postgres() as postgres,
        rig(postgres.dsn, nats, folder, key_services=key_services) as made,
    ):
        yield made, postgres


@asynccontextmanager
async def another_verifier(made: Rig, folder: Path) -> AsyncGenerator[Daemon]:
    """One that starts now and has seen nothing of what was."""
    settings = made.verifier.environment | {"KEYLEDGER_SPOOL": str(folder / "spool2")}
    del settings["KEYLEDGER_PORT"]
    daemon = Daemon("services.verifier", folder, "verifier2", settings)
    try:
        await daemon.start()
        yield daemon
    finally:
        await daemon.stop()


async def ready(made: Rig) -> None:
    for daemon in (*made.keys, made.verifier):
        await daemon.ready()


async def in_epoch(made: Rig, number: int) -> str:
    """Return once the verifier is in this epoch and ready; the epoch."""

    async def swapped() -> str | None:
        status, body = await made.readiness()
        return body["epoch"] if status == 200 and body["epoch"].startswith(f"{number}-") else None

    return await until(swapped, within=20, describe=f"the verifier in epoch {number}")


@pytest.mark.timeout(180)
async def test_what_was_denied_before_a_restore_stays_denied_until_it_is_accepted(
    figures: Figures, nats_url: str, folder: Path
) -> None:
    async with restorable(nats_url, folder) as (made, postgres):
        denied = Denied(made)
        await denied.create()
        backed_up = await made.head()
        await postgres.back_up()
        await ready(made)
        await made.caught_up(await denied.deny())

        async def all_denied() -> bool:
            return await denied.codes() == DENIED | ALWAYS

        await until(all_denied)
        watch = Watch(denied)
        watching = asyncio.create_task(watch.run())
        lost_position = await made.head()
        await postgres.restore()
        restored = time.monotonic()
        epoch = await in_epoch(made, 2)
        rebuilt_after = time.monotonic() - restored
        await ready(made)

        # every process agrees on one new epoch, and on what was lost
        for at in range(len(made.keys)):
            newest, first = (await made.ok("GET", "/v1/epochs", at=at))["epochs"]
            assert (newest["number"], first["number"]) == (2, 1)
            assert newest["base_position"] == backed_up
            assert epoch == f"2-{newest['line']}"
            assert newest["accepted_at"] is None
            lost = {(each.get("key_id") or each["workspace_id"], each["what"]) for each in newest["lost"]}
            assert lost == {
                (denied.keys["revoked"]["id"], "revoked"),
                (denied.keys["manager"]["id"], "revoked"),
                (denied.keys["disabled"]["id"], "disabled"),
                (denied.keys["rotated"]["id"], "retired"),
                (denied.keys["expired"]["id"], "expired"),
                (denied.other_ws, "suspended"),
                (denied.gone["deleted"], "deleted"),
                (denied.gone["deleted twice"], "deleted"),
            }
        assert await denied.codes() == DENIED | ALWAYS

        async with another_verifier(made, folder) as young:
            assert await denied.codes(young) == DENIED | ALWAYS
            assert await denied.managed(denied.ws, "manager") == 401
            assert await denied.managed(denied.gone["deleted"], "manager of deleted") == 401
            # life goes on meanwhile, denials included, and they are told at once
            fresh = await made.key(denied.ws)
            receipt = (await made.revoke(denied.ws, fresh["id"], wait=10))["receipt"]
            assert (len(receipt["applied"]), receipt["pending"]) == (2, [])
            assert await denied.codes(young) == DENIED | ALWAYS
            watch.over = True
            await watching
            assert watch.accepted == []
            assert watch.rounds > 10

            async def command(*words: str) -> Done:
                url = made.keys[1].url
                return await keyledger("epoch", *words, home=made.home.folder, KEYLEDGER_KEYS_URL=url)

            told = (await command("status")).good()
            assert "REFUSED until accepted" in told
            of_keys = ("revoked", "manager", "disabled", "rotated", "expired")
            assert all(denied.keys[name]["id"] in told for name in of_keys)
            assert all(f"deleted    every key of {ws}" in told for ws in denied.gone.values())
            # what the operator deletes again stays deleted; the rest is back
            await denied.delete(denied.gone["deleted twice"])
            assert "409 conflict" in (await command("accept", "--number", "1")).failed()
            assert "epoch 2 is accepted" in (await command("accept")).good()
            for verifier in (made.verifier, young):

                async def as_the_log_says(verifier: Daemon = verifier) -> bool:
                    allowed = dict.fromkeys(DENIED, "VALID") | {"deleted twice": "NOT_FOUND"}
                    return await denied.codes(verifier) == allowed | ALWAYS

                await until(as_the_log_says)
            assert await denied.managed(denied.ws, "manager") == 200
            assert await denied.managed(denied.gone["deleted"], "manager of deleted") == 200
            assert (await made.ok("GET", "/v1/epochs"))["epochs"][0]["accepted_at"] is not None
        # who stopped in order said so, and is not waited for
        receipt = (await made.revoke(denied.ws, denied.keys["untouched"]["id"], wait=10))["receipt"]
        assert (len(receipt["applied"]), receipt["pending"]) == (1, [])
        log = await read_log(made.admin_dsn)
        checker.hold(checker.log_violations(log))
        assert len(log.lines) == 2
        # the words about the epoch are part of the log, and no state comes of them
        for words in (["audit", "verify"], ["project", "rebuild", "--only", "state"], ["audit", "verify"]):
            place = {"KEYLEDGER_POSTGRES": made.admin_dsn, "KEYLEDGER_SEAL_SECRET_FILE": str(made.home.seal)}
            (await keyledger(*words, home=folder, **place)).good()
        figures(lost_events=lost_position - backed_up, rebuilt_after_s=rebuilt_after)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_a_second_restore_to_before_the_first_one_forgets_no_denial(
    figures: Figures, nats_url: str, folder: Path
) -> None:
    async with restorable(nats_url, folder, key_services=1) as (made, postgres):
        denied = Denied(made)
        await denied.create()
        denied.keys["late"] = await made.key(denied.ws)
        late_ws = await made.workspace()
        denied.keys["late deleted"] = await made.key(late_ws)
        await postgres.back_up()
        await ready(made)
        await made.caught_up(await denied.deny())
        first = ""
        for again in range(2):
            if again:
                # denied in the telling that the second restore forgets altogether
                await made.caught_up((await made.revoke(denied.ws, denied.keys["late"]["id"]))["position"])
                await made.caught_up(await denied.delete(late_ws))
            await postgres.restore()
            await ready(made)

            async def another(before: str = first) -> str | None:
                status, body = await made.readiness()
                epoch = body.get("epoch") or ""
                return epoch if status == 200 and epoch.startswith("2-") and epoch != before else None

            first = await until(another, within=20, describe=f"epoch 2, restore {again}")
            late = LATE if again else dict.fromkeys(LATE, "VALID")
            assert await denied.codes() == DENIED | ALWAYS | late
        async with another_verifier(made, folder) as young:
            assert await denied.codes(young) == DENIED | ALWAYS | LATE
        newest = (await made.ok("GET", "/v1/epochs"))["epochs"][0]
        figures(lost=len(newest["lost"]), epoch=first)


@pytest.mark.long
@pytest.mark.timeout(180)
async def test_with_the_stream_lost_as_well_a_verifier_that_was_there_refuses_still(
    figures: Figures, folder: Path
) -> None:
    (folder / "nats").mkdir()
    with Broker(folder / "nats") as broker:
        await broker.start()
        async with restorable(broker.url, folder, key_services=1) as (made, postgres):
            denied = Denied(made)
            await denied.create()
            await postgres.back_up()
            await ready(made)
            await made.caught_up(await denied.deny())
            epoch = (await made.readiness())[1]["epoch"]
            broker.kill()
            shutil.rmtree(broker.store)
            await postgres.restore()
            began = time.monotonic()
            await broker.start()
            await ready(made)

            async def rebuilt() -> bool:
                return await made.metric(made.verifier, "keyledger_rebuilds_total") >= 1

            await until(rebuilt, within=20)
            assert await denied.codes() == DENIED | ALWAYS
            # nobody can know that the log went back, so it is the same telling still; and it can be accepted
            assert (await made.readiness())[1]["epoch"] == epoch
            await made.ok("POST", "/v1/epochs/accept", {"number": 1})

            async def as_the_log_says() -> bool:
                return await denied.codes() == dict.fromkeys(DENIED, "VALID") | ALWAYS

            await until(as_the_log_says)
            figures(rebuilt_after_s=time.monotonic() - began)

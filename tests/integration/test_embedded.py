"""The library in a caller's own process, on a real key service and a real NATS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from keyledger.errors import Refusal
from keyledger.verification import Verifier
from keyledger.verification.limits import FixedWindow
from tests.support.asgi_server import serving
from tests.support.keys import House, Keys, house
from tests.support.memory_grants import granting
from tests.support.servers import Servers
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("embedded") / "home") as found:
        yield found


@pytest.fixture
async def keys_url(here: House) -> AsyncIterator[str]:
    async with serving(here.edge) as url:
        yield url


def verifier(here: House, keys_url: str, folder: Path, **more: Any) -> Verifier:
    # there is no usage service here that would grant
    asked: dict[str, Any] = {
        "peppers": here.home.peppers,
        "folder": folder,
        "limits": FixedWindow(),
        **more,
    }
    secrets = here.home.secrets
    return Verifier(
        keys_url=keys_url,
        service_key=(secrets / "verifier").read_text().strip(),
        prove_key=(secrets / "verifier-prove").read_text().strip(),
        nats=here.nats,
        **asked,
    )


async def test_it_follows_reads_writes_and_obeys(here: House, keys_url: str, tmp_path: Path) -> None:
    async with verifier(here, keys_url, tmp_path) as opened:
        await opened.ready(10)
        assert opened.state in ("ready", "degraded")
        key = await here.key(await here.workspace(), scopes=["read"])
        verdict = await opened.verify(key["key"], scopes=["read"], min_position=key["position"])
        assert (verdict.code, verdict.key_id) == ("VALID", key["id"])
        path = Keys(key["workspace_id"]).one(key["id"], "revoke")
        revoked = await here.admin.ok("POST", path, {"wait": 5})
        assert len(revoked["receipt"]["applied"]) == 1
        assert opened.check(key["key"], scopes=["read"]).code == "REVOKED"


async def test_who_comes_in_the_middle_of_a_cell_has_tokens_once_it_is_ready(
    here: House, keys_url: str, tmp_path: Path
) -> None:
    async with granting(here.nats):
        key = await here.key(await here.workspace())
        for name in ("first", "second"):
            async with verifier(here, keys_url, tmp_path / name, limits=None) as opened:
                await opened.ready(10)
                await opened.reached(key["position"])
                assert [opened.check(key["key"]).code for _ in range(50)] == ["VALID"] * 50


async def test_another_thread_asks_the_loop(here: House, keys_url: str, tmp_path: Path) -> None:
    async with verifier(here, keys_url, tmp_path) as opened:
        await opened.ready(10)
        key = await here.key(await here.workspace())
        await opened.reached(key["position"])
        loop = asyncio.get_running_loop()

        def elsewhere() -> str:
            asked = asyncio.run_coroutine_threadsafe(opened.verify(key["key"]), loop)
            return asked.result(5).code

        assert await asyncio.to_thread(elsewhere) == "VALID"


async def test_a_pepper_that_comes_into_the_folder_is_held(
    here: House, keys_url: str, tmp_path: Path
) -> None:
    """Before it came nobody here could tell the key: that is `busy`, and never that there is no such key."""
    peppers = tmp_path / "peppers"
    peppers.mkdir()
    (peppers / "p9.pepper").write_text("ab" * 32)
    key = await here.key(await here.workspace())
    async with verifier(here, keys_url, tmp_path, peppers=peppers) as opened:
        await opened.ready(10)
        await opened.reached(key["position"])
        with pytest.raises(Refusal) as refusal:
            opened.check(key["key"])
        assert refusal.value.code == "busy"
        (peppers / "p1.pepper").write_text((here.home.peppers / "p1.pepper").read_text())

        async def held() -> bool:
            with suppress(Refusal):
                return opened.check(key["key"]).valid
            return False

        await until(held, within=5, describe="the pepper that came into the folder")


async def test_uses_that_were_not_recorded_outlive_the_process(
    here: House, keys_url: str, tmp_path: Path
) -> None:
    """The first has no broker to tell; the second one finds its batch in the folder and sends it."""
    key = await here.key(await here.workspace())
    async with Verifier(
        keys_url=keys_url,
        service_key=(here.home.secrets / "verifier").read_text().strip(),
        nats="nats://127.0.0.1:1",
        peppers=here.home.peppers,
        folder=tmp_path,
        limits=FixedWindow(),
    ) as opened:
        await opened.ready(10)
        assert (await opened.verify(key["key"], min_position=key["position"])).valid
    spool = tmp_path / "spool"
    assert len(list(spool.glob("*.uses"))) == 1
    async with verifier(here, keys_url, tmp_path):

        async def sent() -> bool:
            return not list(spool.glob("*.uses"))

        await until(sent, within=10, describe="the batch of the process before")

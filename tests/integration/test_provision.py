"""The first start: one system workspace, keys for their owner only, and what was interrupted is taken up."""

import asyncio
import stat
from pathlib import Path

import asyncpg
import pytest

from services.keys.provision import SERVICE_SCOPES, AlreadyBootstrapped
from tests.support.keys import Home, Keys, migrated, running
from tests.support.servers import Servers

DAY_AND_MORE = 25 * 3600 * 1_000_000


@pytest.fixture
async def dsn(database: str) -> str:
    return await migrated(database)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.new(tmp_path / "home")


def files(home: Home) -> dict[str, str]:
    """What was written, by file."""
    paths = [home.out, *home.secrets.iterdir()]
    return {path.name: path.read_text() for path in paths}


async def position(dsn: str) -> int:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        return await connection.fetchval("SELECT position FROM ledger.log_head")
    finally:
        await connection.close()


async def test_a_bootstrap_writes_keys_that_only_their_owner_reads(dsn: str, home: Home) -> None:
    assert await home.bootstrap(dsn) is True
    assert set(home.bootstrapped()) == {"workspace_id", "management_key"}
    assert {path.name for path in home.secrets.iterdir()} == set(SERVICE_SCOPES)
    for path in (home.out, *home.secrets.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.secrets.stat().st_mode) == 0o700
    assert len(set(files(home).values())) == len(SERVICE_SCOPES) + 1


async def test_a_bootstrap_that_is_complete_does_nothing(dsn: str, home: Home) -> None:
    await home.bootstrap(dsn)
    before, head = files(home), await position(dsn)
    assert await home.bootstrap(dsn) is False
    assert (files(home), await position(dsn)) == (before, head)


@pytest.mark.parametrize("lost", [["bootstrap.json"], ["verifier"], ["bootstrap.json", "verifier", "usage"]])
async def test_what_was_lost_within_a_day_is_written_again_the_same(
    dsn: str, home: Home, lost: list[str]
) -> None:
    await home.bootstrap(dsn)
    before, head = files(home), await position(dsn)
    for path in (home.out, *home.secrets.iterdir()):
        if path.name in lost:
            path.unlink()
    assert await home.bootstrap(dsn) is True
    assert (files(home), await position(dsn)) == (before, head)


async def test_without_resuming_nothing_is_written_again(dsn: str, home: Home) -> None:
    await home.bootstrap(dsn, resume=False)
    home.out.unlink()
    assert await home.bootstrap(dsn, resume=False) is False
    assert not home.out.exists()


async def test_a_key_is_never_shown_again_after_its_day(database: str, dsn: str, home: Home) -> None:
    await home.bootstrap(dsn)
    home.out.unlink()
    admin = await asyncpg.connect(database, timeout=5)
    await admin.execute("UPDATE ledger.idempotency SET kept_until = kept_until - $1", DAY_AND_MORE)
    await admin.close()
    before = await position(dsn)
    with pytest.raises(AlreadyBootstrapped):
        await home.bootstrap(dsn)
    assert await position(dsn) == before


async def test_with_another_seal_secret_nothing_is_told(dsn: str, home: Home, tmp_path: Path) -> None:
    await home.bootstrap(dsn)
    stranger = Home.new(tmp_path / "stranger")
    with pytest.raises(AlreadyBootstrapped):
        await stranger.bootstrap(dsn)


async def test_two_at_once_make_one_system_workspace(dsn: str, home: Home) -> None:
    answers = await asyncio.gather(*(home.bootstrap(dsn) for _ in range(3)), return_exceptions=True)
    assert True in answers
    assert await position(dsn) == 1 + 1 + len(SERVICE_SCOPES)
    connection = await asyncpg.connect(dsn, timeout=5)
    system = "SELECT count(*) FROM ledger.state WHERE body @> '{\"system\": true}'"
    assert await connection.fetchval(system) == 1
    await connection.close()


async def test_each_service_has_a_key_with_the_one_scope_it_needs(
    database: str, dsn: str, home: Home, servers: Servers
) -> None:
    await home.bootstrap(dsn)
    async with running(home, database, dsn, servers.nats) as here:
        listed = await here.admin.ok("GET", Keys(here.system_ws).all)
        scopes = {key["name"]: key["scopes"] for key in listed["keys"]}
        assert scopes == {
            "management": ["keyledger:admin"],
            **{f"{service} service": [scope] for service, scope in SERVICE_SCOPES.items()},
        }
        assert {key["created_by"] for key in listed["keys"]} == {"system"}
        events = (await here.admin.ok("GET", Keys(here.system_ws).events))["events"]
        assert {(event["actor"], event["request_id"]) for event in events} == {("system", "bootstrap")}
        assert (await here.follower("GET", "/v1/feed")).status_code == 200

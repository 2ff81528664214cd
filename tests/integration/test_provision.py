"""The first start: one system workspace, keys for their owner only, and what was interrupted is taken up."""

import asyncio
import shutil
import stat
from pathlib import Path

import asyncpg
import pytest

from infra.local.errors import LocalRunError
from keyledger.server.seal import Sealer
from services.cli import provision
from services.keys.provision import SERVICE_SCOPES, AlreadyBootstrapped, ServiceKeyRevoked
from tests.support.keys import Home, Keys, migrated, running
from tests.support.servers import Servers
from tests.support.waiting import until

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


async def a_day_later(database: str) -> None:
    """The answers that are kept now are kept no longer."""
    admin = await asyncpg.connect(database, timeout=5)
    await admin.execute("UPDATE ledger.idempotency SET kept_until = kept_until - $1", DAY_AND_MORE)
    await admin.close()


async def test_a_bootstrap_writes_keys_that_only_their_owner_reads(dsn: str, home: Home) -> None:
    assert await home.bootstrap(dsn) == ("the system workspace",)
    assert set(home.bootstrapped()) == {"workspace_id", "management_key"}
    assert {path.name for path in home.secrets.iterdir()} == set(SERVICE_SCOPES)
    for path in (home.out, *home.secrets.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.secrets.stat().st_mode) == 0o700
    assert len(set(files(home).values())) == len(SERVICE_SCOPES) + 1


async def test_a_bootstrap_that_is_complete_does_nothing(dsn: str, home: Home) -> None:
    await home.bootstrap(dsn)
    before, head = files(home), await position(dsn)
    assert await home.bootstrap(dsn) == ()
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
    assert await home.bootstrap(dsn)
    assert (files(home), await position(dsn)) == (before, head)


async def test_without_resuming_nothing_is_written_again(dsn: str, home: Home) -> None:
    await home.bootstrap(dsn, resume=False)
    home.out.unlink()
    assert await home.bootstrap(dsn, resume=False) == ()
    assert not home.out.exists()


async def test_a_key_is_never_shown_again_after_its_day(database: str, dsn: str, home: Home) -> None:
    await home.bootstrap(dsn)
    home.out.unlink()
    await a_day_later(database)
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
    answers = await asyncio.gather(*(home.bootstrap(dsn) for _ in range(3)))
    assert ("the system workspace",) in answers
    assert await position(dsn) == 1 + 1 + len(SERVICE_SCOPES)
    connection = await asyncpg.connect(dsn, timeout=5)
    system = "SELECT count(*) FROM ledger.state WHERE body @> '{\"system\": true}'"
    assert await connection.fetchval(system) == 1
    await connection.close()


async def test_a_step_that_another_bootstrap_is_in_the_middle_of_is_waited_for(
    database: str, dsn: str, home: Home
) -> None:
    step = Sealer(bytes.fromhex(home.seal.read_text())).name("bootstrap", "key verifier service")
    other = await asyncpg.connect(database, timeout=5)
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 7))", step.hex())
        bootstrapping = asyncio.create_task(home.bootstrap(dsn))

        async def was_told_so() -> bool:
            return await other.fetchval(
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'keyledger-bootstrap' "
                "AND query LIKE '%ledger.append%' AND state = 'idle' AND EXISTS "
                "(SELECT FROM ledger.state WHERE kind = 'workspace')"
            )

        await until(was_told_so)
        assert await position(dsn) == 1, "the workspace is there, the key is not"
    await other.close()
    assert await bootstrapping == ("the system workspace",)


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


async def test_a_missing_service_key_is_made_anew_after_its_day(
    database: str, dsn: str, home: Home, servers: Servers
) -> None:
    """A home that was made before the service had a key; or the file was lost, or is empty."""
    await home.bootstrap(dsn)
    await a_day_later(database)
    before, head = files(home), await position(dsn)
    (home.secrets / "verifier-prove").unlink()
    (home.secrets / "usage").write_text("")
    assert await home.bootstrap(dsn) == ("a key for verifier-prove", "a key for usage")
    after = files(home)
    changed = {name for name in before if after[name] != before[name]}
    assert (changed, after.keys()) == ({"verifier-prove", "usage"}, before.keys())
    assert await position(dsn) == head + 2
    for name in changed:
        assert stat.S_IMODE((home.secrets / name).stat().st_mode) == 0o600
    async with running(home, database, dsn, servers.nats) as here:
        for name, may, may_not in (
            ("verifier-prove", "keyledger:prove", "keyledger:feed:read"),
            ("usage", "keyledger:feed:read", "keyledger:prove"),
        ):
            service = here.caller(after[name].strip())
            asked = {"workspace_id": here.system_ws, "scope": may}
            assert (await service("POST", "/v1/authorize", asked)).status_code == 200
            assert (await service("POST", "/v1/authorize", asked | {"scope": may_not})).status_code == 403
        old = await here.caller(before["usage"].strip())("GET", "/v1/head")
        assert old.status_code == 200, "another host may still use the former"
    assert await home.bootstrap(dsn) == ()


async def test_a_key_that_was_made_anew_is_told_again_within_its_day(
    database: str, dsn: str, home: Home
) -> None:
    await home.bootstrap(dsn)
    await a_day_later(database)
    told: set[str] = set()
    for _ in range(3):
        (home.secrets / "verifier").unlink()
        await home.bootstrap(dsn)
        told.add((home.secrets / "verifier").read_text())
    assert len(told) == 1


async def test_two_at_once_make_one_missing_key(database: str, dsn: str, home: Home, tmp_path: Path) -> None:
    """Two hosts with the same secrets, each with files of its own."""
    await home.bootstrap(dsn)
    await a_day_later(database)
    shutil.copytree(home.folder, tmp_path / "other")
    homes, head = [home, Home(tmp_path / "other")], await position(dsn)
    for each in homes:
        (each.secrets / "verifier-prove").unlink()
    made = await asyncio.gather(*(each.bootstrap(dsn) for each in homes))
    assert made == [("a key for verifier-prove",)] * 2
    assert files(homes[0]) == files(homes[1])
    assert await position(dsn) == head + 1


@pytest.mark.parametrize("within_a_day", [True, False])
async def test_a_service_key_that_was_revoked_is_made_anew_only_on_request(
    database: str, dsn: str, home: Home, servers: Servers, within_a_day: bool
) -> None:
    await home.bootstrap(dsn)
    revoked = (home.secrets / "verifier-prove").read_text()
    async with running(home, database, dsn, servers.nats) as here:
        keys = Keys(here.system_ws)
        named = (await here.admin.ok("GET", keys.all, params={"search": "verifier-prove service"}))["keys"]
        assert len(named) == 1
        await here.admin.ok("POST", keys.one(named[0]["id"], "revoke"))
    if not within_a_day:
        await a_day_later(database)
    assert await home.bootstrap(dsn) == (), "a file that is there is not looked into"
    (home.secrets / "verifier-prove").unlink()
    head = await position(dsn)
    with pytest.raises(ServiceKeyRevoked, match="--renew-service-keys"):
        await home.bootstrap(dsn)
    assert await position(dsn) == head
    assert not (home.secrets / "verifier-prove").exists()
    assert await home.bootstrap(dsn, renew=True) == ("a key for verifier-prove",)
    renewed = (home.secrets / "verifier-prove").read_text()
    assert renewed != revoked
    async with running(home, database, dsn, servers.nats) as here:
        asked = {"workspace_id": here.system_ws, "scope": "keyledger:prove"}
        answer = await here.caller(renewed.strip())("POST", "/v1/authorize", asked)
        assert answer.status_code == 200
    # what is told again within the day is the new one, never the one that was revoked
    (home.secrets / "verifier-prove").unlink()
    assert await home.bootstrap(dsn) == ("a key for verifier-prove",)
    assert (home.secrets / "verifier-prove").read_text() == renewed


async def test_nothing_is_made_in_a_database_that_is_another_homes(
    database: str, dsn: str, home: Home, tmp_path: Path
) -> None:
    await home.bootstrap(dsn)
    await a_day_later(database)
    head = await position(dsn)
    stranger = Home.new(tmp_path / "stranger")
    stranger.out.write_text('{"workspace_id": "ws_elsewhere", "management_key": "k"}')
    with pytest.raises(AlreadyBootstrapped, match=r"bootstrap\.json"):
        await stranger.bootstrap(dsn)
    stranger.out.write_text(home.out.read_text())
    with pytest.raises(AlreadyBootstrapped, match="seal secret"):
        await stranger.bootstrap(dsn)
    assert await position(dsn) == head
    assert not stranger.secrets.exists()


async def test_the_local_run_is_told_in_a_sentence(database: str, dsn: str, home: Home) -> None:
    await home.bootstrap(dsn)
    await a_day_later(database)
    home.out.unlink()
    with pytest.raises(LocalRunError, match=r"^the system workspace exists already"):
        await provision.bootstrap(
            dsn, peppers=home.peppers, seal_secret_file=home.seal, out=home.out, secrets=home.secrets
        )

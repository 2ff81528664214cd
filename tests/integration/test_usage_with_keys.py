"""The usage service behind the real key service, both as processes, through the library's own client."""

import json
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
import msgspec
import nats
import pytest

from keyledger.client.http import KeyledgerClient, KeyledgerError
from keyledger.clock import SystemClock
from keyledger.server.ids import new_id
from keyledger.server.postgres import migrate
from keyledger.verification.ports import USES_SUBJECT
from keyledger.wire import Use, UseBatch
from services.keys import provision
from services.usage.domain.period import MINUTE
from tests.support.asgi_server import free_port
from tests.support.issuing import Issuer, issuing
from tests.support.processes import Process
from tests.support.servers import Servers
from tests.support.waiting import until

ROOT = Path(provision.__file__).parents[1]
PASSWORD = "usagetests"


class House:
    """Two services and an administrator."""

    def __init__(self, keys_url: str, usage_url: str, nats_url: str, key: str) -> None:
        self.keys_url, self.usage_url, self.nats_url, self.key = keys_url, usage_url, nats_url, key
        self.admin = self.client(key)

    def client(self, key: str) -> KeyledgerClient:
        """A caller of both services."""
        return KeyledgerClient(self.keys_url, key, usage_url=self.usage_url)

    async def report(self, *uses: Use) -> None:
        """Report uses as a verifier that has just started does, twice, since its first answer may be lost."""
        client = await nats.connect(self.nats_url, connect_timeout=5, allow_reconnect=False)
        body = msgspec.msgpack.encode(UseBatch(secrets.token_hex(8), 0, uses))
        for _ in range(2):
            answer = await client.request(USES_SUBJECT, body, timeout=5)
            assert msgspec.msgpack.decode(answer.data) == 1
        await client.close()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as found:
        yield found


@pytest.fixture
async def house(
    database: str, servers: Servers, clean_streams: None, tmp_path: Path, issuer: Issuer
) -> AsyncIterator[House]:
    folders = [ROOT / service / "adapters" / "migrations" for service in ("keys", "usage")]
    await migrate(
        database, folders, role_passwords=dict.fromkeys(("keyledger_keys", "keyledger_usage"), PASSWORD)
    )
    peppers, seal, bootstrap = tmp_path / "peppers", tmp_path / "seal.secret", tmp_path / "bootstrap.json"
    peppers.mkdir()
    (peppers / "p1.pepper").write_text(secrets.token_hex(32))
    seal.write_text(secrets.token_hex(32))
    assert await provision.bootstrap(
        database, peppers=peppers, seal_secret_file=seal, out=bootstrap, secrets=tmp_path / "secrets"
    )
    ports = {service: free_port() for service in ("keys", "usage")}
    own: dict[str, dict[str, str]] = {
        "keys": {"KEYLEDGER_PEPPERS": str(peppers), "KEYLEDGER_SEAL_SECRET_FILE": str(seal)},
        "usage": {
            "KEYLEDGER_KEYS_URL": f"http://127.0.0.1:{ports['keys']}",
            "KEYLEDGER_SERVICE_KEY_FILE": str(tmp_path / "secrets" / "usage"),
        },
    }
    own["keys"]["KEYLEDGER_JWT_ISSUER"] = issuer.url
    with ExitStack() as stack:
        for service, port in ports.items():
            env = {
                "KEYLEDGER_PORT": str(port),
                "KEYLEDGER_POSTGRES": _as_role(database, f"keyledger_{service}"),
                "KEYLEDGER_NATS": servers.nats,
                **own[service],
            }
            argv = [sys.executable, "-m", f"services.{service}"]
            process = stack.enter_context(Process(argv, log=tmp_path / service, env=env))
            await process.wait_ready(f"http://127.0.0.1:{port}/readyz")
        key = json.loads(bootstrap.read_text())["management_key"]
        urls = [f"http://127.0.0.1:{port}" for port in ports.values()]
        house = House(urls[0], urls[1], servers.nats, key)
        async with house.admin:
            yield house


def _as_role(dsn: str, role: str) -> str:
    parts = urlsplit(dsn)
    return parts._replace(netloc=f"{role}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}").geturl()


async def test_what_a_verifier_reports_is_read_back_once(house: House) -> None:
    workspace = await house.admin.workspaces.create("Acme")
    key = await house.admin.keys.create(workspace.id, name="billing", environment="live")
    unused = await house.admin.keys.create(workspace.id, name="unused", environment="test")
    now = SystemClock().now()
    minute = now - now % MINUTE
    await house.report(
        Use(workspace.id, key.id, "live", minute, "VALID", 3, 5, now),
        Use(workspace.id, key.id, "live", minute, "RATE_LIMITED", 2, 0, now),
    )

    async def counted() -> bool:
        return (await house.admin.usage.series(workspace.id)).totals.count > 0

    await until(counted)
    series = await house.admin.usage.series(workspace.id, granularity="minute", group_by=["key", "outcome"])
    assert [(point.key, point.outcome, point.count, point.cost) for point in series.series] == [
        (key.id, "RATE_LIMITED", 2, 0),
        (key.id, "VALID", 3, 5),
    ]
    assert (series.totals.count, series.totals.cost) == (5, 5)
    used = await house.admin.usage.series(workspace.id, key.id)
    assert used.last_used_at is not None
    assert abs(used.last_used_at - datetime.now(UTC)) < timedelta(minutes=2)
    nothing = await house.admin.usage.series(workspace.id, unused.id)
    assert (nothing.series, nothing.last_used_at) == ([], None)
    last = await house.admin.usage.last_used(workspace.id, [key.id, unused.id])
    assert last == {key.id: used.last_used_at, unused.id: None}


async def refusal(calling: Awaitable[Any]) -> tuple[int, str]:
    with pytest.raises(KeyledgerError) as caught:
        await calling
    return caught.value.status, caught.value.code


async def test_a_user_reads_the_usage_of_their_workspace_until_the_moment_they_may_not(
    house: House, issuer: Issuer
) -> None:
    """Nothing that the key service allows a user is remembered, whoever asked a moment ago."""
    ada, bob = new_id("user"), new_id("user")
    everyone = KeyledgerClient(house.keys_url, usage_url=house.usage_url)
    workspace = await everyone.acting_for(issuer.token(ada)).workspaces.create("Acme")
    other = await everyone.acting_for(issuer.token(bob)).workspaces.create("Other")
    owner = everyone.acting_for(issuer.token(ada, workspace.id))
    await owner.members.put(workspace.id, bob, "viewer")
    session = new_id("ses")
    viewer = everyone.acting_for(issuer.token(bob, workspace.id, sid=session))
    key = await owner.keys.create(workspace.id, name="k", environment="live")
    for reader in (owner, viewer):
        assert (await reader.usage.series(workspace.id)).totals.count == 0
        assert (await reader.usage.series(workspace.id, key.id)).last_used_at is None
        assert await reader.usage.last_used(workspace.id, [key.id]) == {key.id: None}
        assert (await reader.usage.rate_limit(workspace.id)).limit == 1000
        assert await refusal(reader.usage.series(other.id)) == (404, "not_found")
    stranger = everyone.acting_for(issuer.token(bob, other.id))
    assert await refusal(stranger.usage.series(workspace.id)) == (404, "not_found")
    assert await refusal(stranger.usage.series(other.id, key.id)) == (404, "not_found")
    expired = everyone.acting_for(issuer.token(ada, workspace.id, iat=1, exp=2))
    assert await refusal(expired.usage.series(workspace.id)) == (401, "invalid_api_key")

    assert await viewer.end_session() == session
    for call in (viewer.usage.series(workspace.id), viewer.keys.page(workspace.id)):
        assert await refusal(call) == (401, "invalid_api_key")
    again = everyone.acting_for(issuer.token(bob, workspace.id))
    await again.usage.series(workspace.id)
    await owner.members.remove(workspace.id, bob)
    assert await refusal(again.usage.series(workspace.id)) == (404, "not_found")
    both = [("X-API-Key", house.key), ("Authorization", f"Bearer {issuer.token(ada, workspace.id)}")]
    async with httpx2.AsyncClient() as http:
        answer = await http.get(f"{house.usage_url}/v1/workspaces/{workspace.id}/usage", headers=both)
    assert (answer.status_code, answer.json()["field"]) == (400, "Authorization")
    await everyone.close()


async def test_the_counters_of_a_deleted_workspace_are_erased(house: House, database: str) -> None:
    """The use log tells of it; the workspace beside it keeps its own."""
    gone, kept = await house.admin.workspaces.create("Gone"), await house.admin.workspaces.create("Kept")
    now = SystemClock().now()
    uses = [
        Use(each.id, "key_" + "1" * 22, "live", now - now % MINUTE, "VALID", 1, 1, now)
        for each in (gone, kept)
    ]
    connection = await asyncpg.connect(database, timeout=5)

    async def counted() -> list[str]:
        rows = await connection.fetch(
            "SELECT workspace_id FROM usage.use_minute UNION ALL SELECT workspace_id FROM usage.use_hour "
            "UNION ALL SELECT workspace_id FROM usage.use_day "
            "UNION ALL SELECT workspace_id FROM usage.key_last_used"
        )
        return sorted(row["workspace_id"] for row in rows)

    async def both() -> bool:
        return await counted() == sorted([gone.id, kept.id] * 4)

    async def one() -> bool:
        return await counted() == [kept.id] * 4

    await house.report(*uses)
    await until(both)
    async with httpx2.AsyncClient(base_url=house.keys_url, trust_env=False) as http:
        key = {"X-API-Key": house.key}
        assert (await http.delete(f"/v1/workspaces/{gone.id}", headers=key)).status_code == 202
    await until(one, within=10)
    await house.report(*uses)

    async def all_folded() -> bool:
        left = "SELECT u.position - p.position FROM ledger.use_head u, usage.progress p"
        return await connection.fetchval(left) == 0

    await until(all_folded)
    assert await counted() == [kept.id] * 4
    await _refused(house.admin, gone.id, None, 404, "not_found")
    await connection.close()


async def test_another_workspace_is_not_found_and_a_missing_scope_is_forbidden(house: House) -> None:
    mine = await house.admin.workspaces.create("Mine")
    theirs = await house.admin.workspaces.create("Theirs")
    foreign = await house.admin.keys.create(theirs.id, name="k", environment="live")
    scopes = ("keyledger:usage:read", "keyledger:keys:read")
    reader = await house.admin.keys.create(mine.id, name="reader", environment="live", scopes=scopes)
    other = await house.admin.keys.create(mine.id, name="other", environment="live", scopes=("*",))
    async with house.client(reader.key.reveal()) as client:
        assert (await client.usage.series(mine.id)).totals.count == 0
        for workspace_id, key_id in ((theirs.id, None), (theirs.id, foreign.id), (mine.id, foreign.id)):
            await _refused(client, workspace_id, key_id, 404, "not_found")
    async with house.client(other.key.reveal()) as client:
        await _refused(client, mine.id, None, 403, "insufficient_permissions")
    async with house.client("cvtk_live_nonsense") as client:
        await _refused(client, mine.id, None, 401, "invalid_api_key")


async def _refused(
    client: KeyledgerClient, workspace_id: str, key_id: str | None, status: int, code: str
) -> None:
    with pytest.raises(KeyledgerError) as caught:
        await client.usage.series(workspace_id, key_id)
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.request_id


async def test_the_client_speaks_the_key_services_language(house: House) -> None:
    made = await house.admin.workspaces.create("Acme")
    changed = await house.admin.workspaces.patch(made.id, name="Acme & Söhne", if_match=f'"{made.version}"')
    assert (await house.admin.workspaces.get(made.id)).name == changed.name
    assert made.id in [workspace.id async for workspace in house.admin.workspaces.list()]
    key = await house.admin.keys.create(
        made.id,
        name="k",
        environment="live",
        scopes=["a"],
        allowed_ips=["192.0.2.0/24"],
        metadata={"x": "y"},
        expires_at=datetime.now(UTC) + timedelta(days=1),
        external_id="customer-7",
    )
    patched = await house.admin.keys.patch(made.id, key.id, {"expires_at": None, "name": "renamed"})
    assert (patched.expires_at, patched.name, patched.metadata) == (None, "renamed", {"x": "y"})
    rotated = await house.admin.keys.rotate(made.id, key.id, overlap_seconds=60)
    assert rotated.id == key.id
    assert rotated.key.reveal() != key.key.reveal()
    assert [each.id async for each in house.admin.keys.list(made.id, external_id="customer-7")] == [key.id]
    assert (await house.admin.keys.get(made.id, key.id)).version == rotated.version
    revoked = await house.admin.keys.revoke(made.id, key.id, reason="leaked", wait=0.1)
    assert revoked.status == "revoked"
    history = [event.type async for event in house.admin.keys.events(made.id, key.id)]
    assert history == ["key_created", "key_changed", "key_rotated", "key_revoked"]
    with pytest.raises(KeyledgerError) as caught:
        await house.admin.keys.rotate(made.id, key.id)
    assert (caught.value.status, caught.value.code) == (409, "key_revoked")


async def test_the_same_words_for_whatever_is_not_there(house: House) -> None:
    mine = await house.admin.workspaces.create("Mine")
    bodies: list[dict[str, Any]] = []
    async with httpx2.AsyncClient(base_url=house.usage_url, trust_env=False) as http:
        key = (
            await house.admin.keys.create(
                mine.id, name="r", environment="live", scopes=["keyledger:usage:read"]
            )
        ).key
        http.headers["X-API-Key"] = key.reveal()
        for path in (
            "nonsense/usage",
            f"ws_{'0' * 21}7/usage",
            f"{mine.id}/keys/nonsense/usage",
            f"{mine.id}/nothing",
        ):
            answer = await http.get(f"/v1/workspaces/{path}", headers={"X-Request-Id": "same"})
            assert answer.status_code == 404
            bodies.append(answer.json())
    assert all(body == bodies[0] for body in bodies)

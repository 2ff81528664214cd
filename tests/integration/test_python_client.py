"""The Python client against the real key service: every call of the contract that callers have."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from keyledger.client.http import KeyledgerClient, KeyledgerError
from keyledger.client.records import ForeignKey
from keyledger.events import RateLimit
from tests.support.keys import House, house
from tests.support.servers import Servers


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("client")) as found:
        yield found


def client_of(here: House, key: str) -> KeyledgerClient:
    served: Any = here.edge
    return KeyledgerClient("http://keys.test", key, transport=httpx2.ASGITransport(served), attempts=1)


@pytest.fixture
async def client(here: House) -> AsyncIterator[KeyledgerClient]:
    async with client_of(here, here.admin.key or "") as found:
        yield found


async def test_a_workspace_lives_and_is_forgotten(client: KeyledgerClient) -> None:
    made = await client.workspaces.create("Acme", rate_limit=RateLimit(7, 60))
    changed = await client.workspaces.patch(made.id, name="Acme Ltd", if_match=f'"{made.version}"')
    assert (changed.name, changed.rate_limit.limit) == ("Acme Ltd", 7)
    assert await client.workspaces.get(made.id) == changed
    assert made.id in [workspace.id async for workspace in client.workspaces.list()]
    with pytest.raises(KeyledgerError, match="precondition_failed"):
        await client.workspaces.delete(made.id, if_match=f'"{made.version}"')
    gone = await client.workspaces.delete(made.id, if_match=f'"{changed.version}"')
    assert gone.id == made.id
    assert gone.position > (changed.position or 0)
    with pytest.raises(KeyledgerError, match="not_found"):
        await client.workspaces.get(made.id)
    with pytest.raises(KeyledgerError, match="not_found"):
        await client.workspaces.delete(made.id)


async def test_a_key_lives_and_ends(client: KeyledgerClient) -> None:
    ws = (await client.workspaces.create("Acme")).id
    created = await client.keys.create(ws, name="k", environment="live", metadata={"a": "b"})
    rotated = await client.keys.rotate(
        ws, created.id, overlap_seconds=60, retire="on_first_use", if_match=f'"{created.version}"'
    )
    assert rotated.key.reveal() != created.key.reveal()
    assert rotated.previous_valid_until is not None
    changed = await client.keys.patch(ws, created.id, {"name": "n"})
    with pytest.raises(KeyledgerError, match="precondition_failed"):
        await client.keys.revoke(ws, created.id, if_match=f'"{created.version}"')
    revoked = await client.keys.revoke(ws, created.id, reason="r", wait=0.1, if_match=f'"{changed.version}"')
    assert revoked.status == "revoked"
    assert revoked.receipt is not None
    assert revoked.receipt.certain_by is not None
    assert (await client.keys.get(ws, created.id)).status == "revoked"
    assert (await client.keys.get(ws, created.id, as_of=changed.position)).status == "active"
    assert [key.name async for key in client.keys.list(ws, as_of=created.position)] == ["k"]
    assert [key.name async for key in client.keys.list(ws, status="revoked")] == ["n"]
    history = [event.type async for event in client.keys.events(ws, created.id)]
    assert history == ["key_created", "key_rotated", "key_changed", "key_revoked"]
    assert len([event async for event in client.keys.events(ws)]) == 1 + len(history)


async def test_keys_of_another_system_are_taken_over(here: House, client: KeyledgerClient) -> None:
    ws = (await client.workspaces.create("Acme")).id
    tokens = [f"sk-{ws}-{number}" for number in range(2)]
    done = await client.keys.import_foreign(
        ws,
        [
            ForeignKey(
                name="plain", environment="live", plaintext=tokens[0], scopes=("keyledger:keys:read",)
            ),
            ForeignKey(
                name="hashed",
                environment="test",
                sha256=hashlib.sha256(tokens[1].encode()).hexdigest(),
                rate_limit=RateLimit(5, 60),
                external_id="u1",
            ),
        ],
    )
    assert [one.key.name for one in done.results] == ["plain", "hashed"]
    hashed = done.results[1].key
    assert (hashed.rate_limit, hashed.external_id, hashed.environment) == (RateLimit(5, 60), "u1", "test")
    async with client_of(here, tokens[0]) as holder:
        assert (await holder.keys.get(ws, hashed.id)) == hashed
        rights = await holder.authorize(ws, "keyledger:keys:read", key_id=hashed.id)
        assert (rights.principal, rights.workspace_id) == (done.results[0].key.id, ws)
        with pytest.raises(KeyledgerError, match="insufficient_permissions"):
            await holder.authorize(ws, "keyledger:keys:write")
    with pytest.raises(KeyledgerError, match="conflict") as caught:
        await client.keys.import_foreign(
            ws, [ForeignKey(name="again", environment="live", plaintext=tokens[1])]
        )
    assert caught.value.field == "keys[0].plaintext"
    head = await client.head(nonce="n")
    assert (head.position, head.writable, head.nonce) == (done.position, True, "n")
    assert done.epoch == f"{head.epoch.number}-{head.epoch.line}"

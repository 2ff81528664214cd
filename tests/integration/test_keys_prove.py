"""Proving secrets over HTTP, and the peppers they are digested under: lost, rotated, retired."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from keyledger.token import checksum
from services.keys.provision import SERVICE_SCOPES
from tests.support import servers_fresh as fresh
from tests.support.keys import Caller, Home, House, Keys, house, migrated, refused, running
from tests.support.servers import Servers
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("prove")) as found:
        yield found


def prover(here: House) -> Caller:
    """The verifier's key for proofs, which can do nothing else."""
    return here.caller((here.home.secrets / "verifier-prove").read_text().strip())


def wrong(token: str) -> str:
    """A token of the same key with another secret, and the checksum that belongs to it."""
    text = token[:-38] + "0" * 32
    return text + checksum(text)


async def events(here: House, made: dict[str, Any]) -> list[dict[str, Any]]:
    path = Keys(made["workspace_id"]).one(made["id"], "events")
    return (await here.admin.ok("GET", path))["events"]


async def test_a_secret_is_proven_and_every_other_text_is_nobodys(here: House) -> None:
    made = await here.key(await here.workspace())
    proven = await prover(here).ok("POST", "/v1/prove", {"key": made["key"]})
    assert proven == {
        "proven": True,
        "key_id": made["id"],
        "position": made["position"],
        "epoch": made["epoch"],
    }
    for text in (wrong(made["key"]), made["key"][:-1], "sk-unknown", "", "x" * 513, "é\0"):
        assert await prover(here).ok("POST", "/v1/prove", {"key": text}) == {"proven": False}
    assert [event["type"] for event in await events(here, made)] == ["key_created"], "its digest was there"


async def test_an_imported_token_is_proven_too(here: House) -> None:
    at, token = Keys(await here.workspace()), "sk-imported-and-proven"
    item = {"name": "k", "environment": "live", "sha256": hashlib.sha256(token.encode()).hexdigest()}
    done = await here.admin.ok("POST", f"{at.all}/import", {"keys": [item]})
    proven = await prover(here).ok("POST", "/v1/prove", {"key": token})
    assert (proven["proven"], proven["key_id"]) == (True, done["results"][0]["key"]["id"])


async def test_only_a_key_with_the_scope_has_anything_proven(here: House) -> None:
    refused(await here.nobody("POST", "/v1/prove", {"key": "a"}), 401, "missing_api_key")
    refused(await here.follower("POST", "/v1/prove", {"key": "a"}), 403, "insufficient_permissions")
    refused(await prover(here)("GET", "/v1/feed"), 403, "insufficient_permissions")
    ws = await here.workspace()
    asked = {"name": "k", "environment": "live", "scopes": ["keyledger:prove"]}
    refused(await here.admin("POST", Keys(ws).all, asked), 400, "invalid_request", "scopes")
    for body in ({}, {"key": 5}, {"key": "a", "more": 1}):
        answer = await prover(here)("POST", "/v1/prove", body)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_peppers_are_for_operators(here: House) -> None:
    manager = await here.manager(await here.workspace(), "keys:write", "keys:read")
    for caller in (manager, here.follower, prover(here)):
        refused(await caller("GET", "/v1/peppers"), 403, "insufficient_permissions")
        refused(await caller("POST", "/v1/peppers/p1/retire"), 403, "insufficient_permissions")
    told = await here.admin.ok("GET", "/v1/peppers")
    assert told == {"active": "p1", "held": ["p1"], "retired": [], "verifiers": [], "left": 0}
    refused(await here.admin("POST", "/v1/peppers/p1/retire", {"force": True}), 409, "conflict")
    refused(await here.admin("POST", "/v1/peppers/p7/retire", {"force": True}), 404, "not_found")


async def test_a_pepper_is_lost_and_everybody_gets_in(servers: Servers, tmp_path: Path) -> None:
    async with fresh.database(servers.postgres) as admin_dsn, fresh.streams(servers.nats):
        dsn = await migrated(admin_dsn)
        home = Home.new(tmp_path / "home")
        assert await home.bootstrap(dsn)
        foreign = "sk-foreign-and-kept"
        async with running(home, admin_dsn, dsn, servers.nats) as before:
            made = await before.key(await before.workspace(), scopes=["keyledger:keys:read"])
            at = Keys(made["workspace_id"])
            item = {"name": "f", "environment": "live", "plaintext": foreign}
            await before.admin.ok("POST", f"{at.all}/import", {"keys": [item]})
        (home.peppers / "p1.pepper").unlink()
        (home.peppers / "p2.pepper").write_text("2" * 64)
        async with running(home, admin_dsn, dsn, servers.nats) as after:
            left = (await after.admin.ok("GET", "/v1/peppers"))["left"]
            assert left >= len(SERVICE_SCOPES) + 2
            holder = after.caller(made["key"])
            refused(await after.caller(wrong(made["key"]))("GET", at.all), 401, "invalid_api_key")
            assert (await holder("GET", at.all)).status_code == 200

            async def digested() -> bool:
                return (await events(after, made))[-1]["data"] == {"secret": 1, "peppers": ["p2"]}

            await until(digested, describe="a digest under the new pepper")
            recorded = (await events(after, made))[-1]
            assert (recorded["type"], recorded["actor"]) == ("secret_digested", made["id"])
            proven = await prover(after).ok("POST", "/v1/prove", {"key": foreign})
            assert proven["proven"]
            assert await prover(after).ok("POST", "/v1/prove", {"key": foreign}) == proven
            assert await prover(after).ok("POST", "/v1/prove", {"key": wrong(made["key"])}) == {
                "proven": False
            }
            new = await after.key(made["workspace_id"])
            proven = await prover(after).ok("POST", "/v1/prove", {"key": new["key"]})
            assert proven["position"] == new["position"], "made under the pepper there is"

            async def moved() -> bool:
                # the verifier's and the usage service's own keys were not used yet, all others were
                return (await after.admin.ok("GET", "/v1/peppers"))["left"] == 2

            await until(moved, describe="those that were used have moved")

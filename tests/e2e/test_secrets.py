"""Secrets through the real processes: foreign keys, a pepper rotated under a running system, a first use."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import Counter
from typing import Any

from infra.local.home import write_private
from keyledger.token import checksum
from tests.support.command import keyledger
from tests.support.system import System, running, temporary_home
from tests.support.waiting import until


async def test_an_imported_key_is_verified_and_counted_like_any_other(system: System) -> None:
    ws = await system.workspace()
    tokens = [f"sk-{ws}-{number}" for number in range(3)]
    keys: list[dict[str, Any]] = [
        {"name": "plain", "environment": "live", "plaintext": tokens[0]},
        {"name": "hex", "environment": "test", "sha256": hashlib.sha256(tokens[1].encode()).hexdigest()},
    ]
    done = await system.call("POST", f"/v1/workspaces/{ws}/keys/import", {"keys": keys})
    assert done.status_code == 201, done.text
    position = done.json()["position"]
    for token, name in ((tokens[0], "plain"), (tokens[1], "hex")):
        verdict = await system.verify(token, min_position=position)
        assert (verdict["code"], verdict["name"]) == ("VALID", name)
    assert (await system.verify(tokens[2]))["code"] == "NOT_FOUND"
    assert (await system.verify("x" * 513))["code"] == "MALFORMED"
    assert (await system.contacts(tokens[0])).status_code == 200
    assert (await system.contacts(tokens[2])).json() == {"error": "invalid_api_key"}
    key_id = done.json()["results"][0]["key"]["id"]
    rotated = (await system.call("POST", f"/v1/workspaces/{ws}/keys/{key_id}/rotate")).json()
    assert (await system.verify(rotated["key"], min_position=rotated["position"]))["code"] == "VALID"
    assert (await system.verify(tokens[0]))["code"] == "REVOKED"


async def test_the_first_use_of_a_new_secret_ends_the_old_one(system: System) -> None:
    ws = await system.workspace()
    created = await system.key(ws)
    place = f"/v1/workspaces/{ws}/keys/{created['id']}"
    asked = {"overlap_seconds": 3600, "retire": "on_first_use"}
    rotated = (await system.call("POST", f"{place}/rotate", asked)).json()
    await system.verify(rotated["key"], min_position=rotated["position"], cost=0)
    assert (await system.verify(created["key"]))["code"] == "VALID", "a look at the new one is no use of it"
    assert (await system.verify(rotated["key"]))["code"] == "VALID"

    async def ended() -> bool:
        return (await system.verify(created["key"], cost=0))["code"] == "REVOKED"

    await until(ended, within=5, describe="the old secret ends")
    assert (await system.verify(rotated["key"]))["code"] == "VALID"
    history = (await system.call("GET", f"{place}/events")).json()["events"]
    assert [event["type"] for event in history] == ["key_created", "key_rotated", "secret_retired"]
    shown = (await system.call("GET", place)).json()
    assert [secret["hint"][-4:] for secret in shown["secrets"]] == [rotated["key"][-4:]]


async def test_a_pepper_is_rotated_under_a_running_system_and_keys_move_as_they_are_used() -> None:
    with temporary_home() as home:
        async with running(home) as system:
            base = str(system.base)
            ws = await system.workspace()
            keys = [await system.key(ws) for _ in range(3)]
            await system.verify(keys[0]["key"], min_position=keys[-1]["position"])

            async def status() -> tuple[str, int]:
                told = (await keyledger("pepper", "status", home=home, KEYLEDGER_PORT_BASE=base)).good()
                active = re.search(r"active +(\S+)", told)
                left = re.search(r"(\d+) keys have no digest", told)
                assert active is not None
                assert left is not None
                return active.group(1), int(left.group(1))

            assert await status() == ("p1", 0)
            assert "p2" in (await keyledger("pepper", "rotate", home=home, KEYLEDGER_PORT_BASE=base)).good()

            async def activated() -> bool:
                return (await status())[0] == "p2"

            await until(activated, within=20, describe="p2 is active")
            before = (await status())[1]
            new = await system.key(ws)
            assert (await system.verify(new["key"], min_position=new["position"]))["code"] == "VALID"

            async def moved() -> bool:
                # one that is used before its verifier knows of p2 moves with a later use
                for key in keys[:2]:
                    assert (await system.verify(key["key"]))["code"] == "VALID"
                return [await _peppers(system, ws, key) for key in keys] == [["p2"], ["p2"], []]

            await until(moved, within=20, describe="the two keys that were used have moved")
            # the services' own keys move when they are used, too, which may be long from now
            assert 1 <= (await status())[1] <= before - 2
            refused = (
                await keyledger("pepper", "retire", "p1", home=home, KEYLEDGER_PORT_BASE=base)
            ).failed()
            assert "have no digest under the active pepper" in refused
            assert (
                await keyledger("pepper", "retire", "p1", "--force", home=home, KEYLEDGER_PORT_BASE=base)
            ).good()
            assert sorted(path.name for path in (home / "peppers").iterdir()) == ["p2.pepper"]

            async def gone() -> bool:
                told = (await keyledger("pepper", "status", home=home, KEYLEDGER_PORT_BASE=base)).good()
                return re.search(r"verifier-\w+ holds p2$", told, re.MULTILINE) is not None

            await until(gone, within=10, describe="the verifier has dropped p1")
            for key in (*keys, new):
                assert (await system.verify(key["key"], cost=0))["code"] == "VALID"
            assert (await system.contacts(keys[2]["key"])).status_code == 200
            wrong = keys[0]["key"][:-7] + new["key"][-7:]
            assert (await system.verify(wrong))["code"] == "MALFORMED"
            assert await _peppers(system, ws, keys[2]) == ["p2"]


async def _peppers(system: System, ws: str, key: dict[str, Any]) -> list[str]:
    """The peppers under which the key's secret was digested after its creation."""
    path = f"/v1/workspaces/{ws}/keys/{key['id']}/events"
    history = (await system.call("GET", path)).json()["events"]
    return [
        name for event in history if event["type"] == "secret_digested" for name in event["data"]["peppers"]
    ]


async def test_with_the_pepper_lost_altogether_every_key_still_works() -> None:
    with temporary_home() as home:
        async with running(home) as system:
            ws = await system.workspace()
            tokens = await _many_keys(system, ws, 1000)
            foreign = "sk-foreign-and-kept"
            item = {"name": "foreign", "environment": "live", "plaintext": foreign}
            done = await system.call("POST", f"/v1/workspaces/{ws}/keys/import", {"keys": [item]})
            assert done.status_code == 201
        (home / "peppers" / "p1.pepper").unlink()
        write_private(home / "peppers" / "p2.pepper", "2" * 64)
        async with running(home) as system:
            for token in tokens[:2]:
                assert (await system.verify(_with_secret(token, "0" * 32)))["code"] == "NOT_FOUND"
            began = time.monotonic()
            codes = await _codes(system, tokens)
            took = time.monotonic() - began
            assert codes == {"VALID": 1000}
            again = time.monotonic()
            assert await _codes(system, tokens) == {"VALID": 1000}
            print(
                f"pepper lost: 1,000 keys proven in {took:.1f} s by 16 callers; "
                f"the same again took {time.monotonic() - again:.1f} s"
            )
            assert (await system.verify("sk-nobodys"))["code"] == "NOT_FOUND"
            assert (await system.verify(foreign))["code"] == "VALID"
            assert (await system.contacts(foreign)).status_code == 200
            assert (await system.call("GET", f"/v1/workspaces/{ws}/keys")).status_code == 200


async def _many_keys(system: System, ws: str, count: int) -> list[str]:
    room = asyncio.Semaphore(16)

    async def one() -> str:
        async with room:
            return (await system.key(ws))["key"]

    return await asyncio.gather(*(one() for _ in range(count)))


async def _codes(system: System, tokens: list[str]) -> dict[str, int]:
    room = asyncio.Semaphore(16)

    async def one(token: str) -> str:
        async with room:
            return (await system.verify(token, cost=0))["code"]

    return dict(Counter(await asyncio.gather(*(one(token) for token in tokens))))


def _with_secret(token: str, secret: str) -> str:
    """A token of the same key with another secret, and the checksum that belongs to it."""
    text = token[:-38] + secret
    return text + checksum(text)

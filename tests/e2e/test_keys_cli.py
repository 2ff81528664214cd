"""`keyledger keys` beside a running system, as an operator or a script uses it."""

import json
from datetime import UTC, datetime, timedelta

from tests.support.command import Done, keyledger
from tests.support.system import System
from tests.support.waiting import until


async def test_a_key_is_made_listed_rotated_and_revoked_from_the_terminal(system: System) -> None:
    async def run(*words: str) -> Done:
        return await keyledger(*words, home=system.home, KEYLEDGER_PORT_BASE=str(system.base))

    ws = await system.workspace("Terminal [bold]")
    assert next(
        line.split()[1:] for line in (await run("keys", "workspaces")).good().splitlines() if ws in line
    ) == ["Terminal", "[bold]", "1,000", "per", "60", "s"]
    here = ("--workspace", ws)
    made = await run(
        "keys", "create", "billing", *here, "--environment", "live", "--scopes", "contacts:read, x",
        "--limit", "500/60", "--expires", "2100-01-01T00:00:00Z", "--external-id", "cust-7",
    )  # fmt: skip
    token = made.good().strip()
    key = next(word.rstrip(":") for word in made.err.split() if word.startswith("key_"))
    assert token not in made.err
    shown = (await run("keys", "show", key, *here)).good()
    for part in ("billing", "contacts:read x", "500 per 60 s", "2100-01-01T00:00:00Z", "cust-7", token[-4:]):
        assert part in shown
    assert token not in shown
    assert key in (await run("keys", "list", *here, "--status", "active", "--search", "bill")).good()
    assert key not in (await run("keys", "list", *here, "--environment", "test")).good()

    rotated = await run("keys", "rotate", key, *here, "--overlap", "3600")
    assert rotated.good().strip() != token
    assert "the old secret is good until" in rotated.err
    said = (await run("keys", "revoke", key, *here, "--reason", "leaked")).good()
    assert "refused by verifier-" in said
    for each in (token, rotated.out.strip()):
        assert (await system.verify(each))["code"] == "REVOKED"
    listed = json.loads((await run("keys", "list", *here, "--json")).good())["keys"]
    alone = json.loads((await run("keys", "show", key, *here, "--json")).good())
    assert [each["id"] for each in listed] == [key] == [alone["id"]]
    assert alone["secrets"][-1]["hint"].endswith(rotated.out.strip()[-4:])
    found = json.loads((await run("keys", "events", key, *here, "--json")).good())["events"]
    assert [each["type"] for each in found] == ["key_created", "key_rotated", "key_revoked"]
    assert ws in [
        each["id"] for each in json.loads((await run("keys", "workspaces", "--json")).good())["workspaces"]
    ]
    told = (await run("keys", "events", key, *here)).good()
    types = [line.split()[2] for line in told.splitlines() if "key_" in line and "position" not in line]
    assert types == ["key_created", "key_rotated", "key_revoked"]


async def test_what_another_limit_would_have_meant_is_asked_of_every_workspace_at_once(
    system: System,
) -> None:
    ws = await system.workspace("Busy")
    key = await system.key(ws)
    for _ in range(3):
        assert (await system.verify(key["key"], min_position=key["position"]))["valid"]
    now = datetime.now(UTC)
    span = (
        "--from",
        f"{now - timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        "--to",
        f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
    )

    async def told() -> bool:
        # nothing says where it runs but its home
        said = (await keyledger("what-if", "--limit", "1/60", *span, home=system.home)).good()
        return key["id"] in said and f"{ws} Busy" in said

    await until(told, within=30, describe="the refusals of a limit that was not in force")


async def test_what_is_refused_is_a_sentence_that_names_the_field(system: System) -> None:
    async def failed(*words: str) -> str:
        return (
            await keyledger("keys", *words, home=system.home, KEYLEDGER_PORT_BASE=str(system.base))
        ).failed()

    ws = await system.workspace()
    new = ("create", "n", "--workspace", ws, "--environment", "live")
    assert "--workspace is an id" in await failed("list", "--workspace", "ws_1/../x")
    assert "--limit: A limit is written units/seconds" in await failed(*new, "--limit", "many")
    assert "400 invalid_request (expires_at)" in await failed(*new, "--expires", "tomorrow")
    assert "404 not_found" in await failed("show", "key_" + "0" * 22, "--workspace", ws)

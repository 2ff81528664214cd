"""`keyledger audit` on a real database: what was tampered with is named, and an export cannot be outlived."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import Done, keyledger
from tests.support.keys import House, Keys, as_role, house
from tests.support.servers import Servers
from tests.support.tampering import rechain, superuser, tamper


class Scene:
    """A service with a short history: a key created, changed, rotated; another one; the first one revoked.

    `at` names their positions: `made`, `changed`, `rotated`, `other`, `last`.
    """

    def __init__(self, found: House, folder: Path) -> None:
        self.house = found
        self.folder = folder
        self.audit_key = folder / "audit.key"
        self.audit_key.write_text(secrets.token_hex(32))
        self.key_id = ""
        self.at: dict[str, int] = {}

    async def act(self) -> None:
        ws = await self.house.workspace()
        made = await self.house.key(ws, name="billing", metadata={"team": "a"}, allowed_ips=["10.0.0.0/8"])
        self.key_id = made["id"]
        names = ("made", "changed", "rotated", "other", "last")
        self.at = {name: made["position"] + step for step, name in enumerate(names)}
        at = Keys(ws).one(self.key_id)
        await self.house.admin.ok("PATCH", at, {"scopes": ["contacts:read"], "external_id": "cus_1"})
        await self.house.admin.ok("POST", f"{at}/rotate", {"overlap_seconds": 60})
        await self.house.key(ws, name="other")
        await self.house.admin.ok("POST", f"{at}/revoke", {"reason": "leaked"})

    async def run(self, *words: str | Path, seal: bool = True, **environment: str | Path) -> Done:
        """The command against this database, as the run-time role."""
        more = {"KEYLEDGER_SEAL_SECRET_FILE": self.house.home.seal} if seal else {}
        return await keyledger(
            *words,
            home=self.folder / "none",
            **{
                "KEYLEDGER_POSTGRES": self.house.postgres,
                "KEYLEDGER_AUDIT_KEY_FILE": self.audit_key,
                **more,
                **environment,
            },
        )

    async def tamper(self, statement: str, *arguments: Any) -> None:
        await tamper(self.house.admin_dsn, statement, *arguments)

    async def export(self, name: str = "head.json", *words: str) -> Path:
        out = self.folder / name
        (await self.run("audit", "export", "--out", out, *words)).good()
        return out


@pytest.fixture
async def scene(servers: Servers, tmp_path: Path) -> AsyncIterator[Scene]:
    async with house(servers, tmp_path / "home") as found:
        scene = Scene(found, tmp_path)
        await scene.act()
        yield scene


async def test_an_untouched_log_verifies_with_the_seal_secret_and_without(scene: Scene) -> None:
    head = await scene.house.head()
    said = (await scene.run("audit", "verify")).good()
    assert f"position {head}" in said
    assert "streams are what the log says\n" in said
    said = (await scene.run("audit", "verify", seal=False)).good()
    assert "but for what is sealed" in said


async def test_an_operators_own_login_can_verify_without_the_seal_secret(scene: Scene) -> None:
    async with superuser(scene.house.admin_dsn) as admin:
        login = f"auditor_{secrets.token_hex(4)}"
        await admin.execute(f"CREATE ROLE {login} LOGIN PASSWORD 'test' IN ROLE keyledger_operator")
    dsn = as_role(scene.house.admin_dsn, login)
    assert "but for what is sealed" in (await scene.run("audit", "verify", "--dsn", dsn, seal=False)).good()
    assert "the database refuses" in (await scene.run("audit", "verify", "--dsn", dsn)).failed()
    async with superuser(scene.house.admin_dsn) as admin:
        await admin.execute(f"DROP ROLE {login}")


async def test_a_deleted_workspace_still_verifies(scene: Scene) -> None:
    ws = await scene.house.workspace("gone")
    await scene.house.key(ws)
    answer = await scene.house.admin("DELETE", f"/v1/workspaces/{ws}")
    assert answer.status_code == 202
    assert "2 of deleted workspaces" in (await scene.run("audit", "verify")).good()


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        (
            "UPDATE ledger.event SET data = data || ' ' WHERE position = {changed}",
            "position {changed}: expected hash",
        ),
        (
            "UPDATE ledger.event SET actor = 'user_nobody' WHERE position = {made}",
            "position {made}: expected hash",
        ),
        (
            "UPDATE ledger.event SET hash = sha256('x') WHERE position = {rotated}",
            "position {rotated}: expected hash",
        ),
        (
            "DELETE FROM ledger.event WHERE position = {changed}",
            "position {changed}: expected an event, found the next one",
        ),
        (
            "DELETE FROM ledger.event WHERE position >= {other}",
            "the head's position: expected {rotated}, found {last}",
        ),
        ("UPDATE ledger.log_head SET hash = sha256('x')", "the head's hash: expected"),
        ("UPDATE ledger.log_head SET position = {last} + 1", "the head's position: expected {last}, found"),
        ("UPDATE ledger.log_head SET epoch_number = 2", "the head's epoch: expected 1-"),
        ("UPDATE ledger.epoch SET line = sha256('x')", "position 1: expected hash"),
        (
            "UPDATE ledger.event SET version = -1 WHERE position = {changed}",
            "position {changed}: expected numbers",
        ),
    ],
)
async def test_what_was_done_to_the_log_is_named(scene: Scene, statement: str, named: str) -> None:
    await scene.tamper(statement.format(**scene.at))
    named = named.format(**scene.at)
    assert f"DIFFERENCE at {named}" in (await scene.run("audit", "verify")).failed()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("body = jsonb_set(body, '{name}', '\"x\"')", 'name: expected "billing", found "x"'),
        ("body = body - 'revoked_at'", "revoked_at: expected"),
        ("body = jsonb_set(body, '{scopes}', '[\"*\"]')", 'scopes.0: expected "contacts:read", found "*"'),
        ("body = body #- '{secrets,0,proof}'", "secrets.0.proof: expected something of fingerprint"),
        ("body = body || '{\"admin\": true}'", "admin: expected nothing, found true"),
        ("version = version + 1", "version: expected 4, found 5"),
        ("position = 1", "position: expected {last}, found 1"),
        ("workspace_id = 'ws_x'", "workspace_id: expected"),
    ],
)
async def test_what_was_done_to_a_state_is_named(scene: Scene, change: str, named: str) -> None:
    await scene.tamper(f"UPDATE ledger.state SET {change} WHERE stream_id = $1", scene.key_id)
    named = named.replace("{last}", str(scene.at["last"]))
    assert f"DIFFERENCE at state of {scene.key_id}, {named}" in (await scene.run("audit", "verify")).failed()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE ledger.membership SET role = 'owner'", '"role":"viewer"'),
        ("UPDATE ledger.membership SET since = since - 1", "found {{"),
        ("DELETE FROM ledger.membership", "found nothing"),
        (
            "INSERT INTO ledger.membership VALUES ('{ws}', 'user_x', 'owner', 1, 'key_1', 2)",
            "member user_x of {ws}: expected nothing",
        ),
        (
            "UPDATE ledger.state SET body = jsonb_set(body, '{{members,{user},role}}', '\"owner\"')",
            'members.{user}.role: expected "viewer", found "owner"',
        ),
    ],
)
async def test_what_was_done_to_a_member_is_named(scene: Scene, change: str, named: str) -> None:
    ws, user = await scene.house.workspace(), "user_" + "1" * 22
    await scene.house.admin.ok("PUT", f"/v1/workspaces/{ws}/members/{user}", {"role": "viewer"})
    (await scene.run("audit", "verify")).good()
    await scene.tamper(change.format(ws=ws, user=user))
    said = (await scene.run("audit", "verify")).failed()
    assert "DIFFERENCE at" in said
    assert named.format(ws=ws, user=user) in said


async def test_a_lost_and_an_invented_state_are_named(scene: Scene) -> None:
    invented = "key_" + "z" * 22
    await scene.tamper(
        "INSERT INTO ledger.state SELECT $1, kind, workspace_id, 1, 1, 1, body FROM ledger.state LIMIT 1",
        invented,
    )
    said = (await scene.run("audit", "verify")).failed()
    assert f"state of {invented}: expected nothing, found version 1" in said
    await scene.tamper("DELETE FROM ledger.state WHERE stream_id = ANY($1)", [invented, scene.key_id])
    said = (await scene.run("audit", "verify")).failed()
    assert f"state of {scene.key_id}: expected version 4, found nothing" in said


async def test_a_version_that_was_skipped_is_named_although_the_chain_was_recomputed(scene: Scene) -> None:
    await scene.tamper("UPDATE ledger.event SET version = 9 WHERE position = $1", scene.at["changed"])
    await rechain(scene.house.admin_dsn)
    said = (await scene.run("audit", "verify")).failed()
    assert (
        f"position {scene.at['rotated']}, stream {scene.key_id}: expected version 2, found version 3" in said
    )


async def test_sealed_text_that_was_replaced_is_named_although_the_chain_was_recomputed(scene: Scene) -> None:
    await scene.tamper(
        "UPDATE ledger.event SET data = (SELECT data FROM ledger.event WHERE position = $1)"
        " WHERE position = $2",
        scene.at["other"],
        scene.at["made"],
    )
    await rechain(scene.house.admin_dsn)
    said = (await scene.run("audit", "verify")).failed()
    assert f"position {scene.at['made']}, stream" in said
    assert "expected sealed text that opens" in said


async def test_a_lost_data_key_and_a_wrong_seal_secret_are_told_apart(scene: Scene) -> None:
    other = scene.folder / "other.seal"
    other.write_text(secrets.token_hex(32))
    said = (await scene.run("audit", "verify", seal=False, KEYLEDGER_SEAL_SECRET_FILE=other)).failed()
    assert "the seal secret does not open the data key of ws_" in said
    await scene.tamper("DELETE FROM ledger.workspace_key")
    assert "the data key of ws_" in (await scene.run("audit", "verify")).failed()
    (await scene.run("audit", "verify", seal=False)).good()


async def test_an_export_holds_and_goes_on_holding_while_the_log_grows(scene: Scene) -> None:
    plain = await scene.export()
    assert "hashes" not in plain.read_text().replace('"hashes": null', "").replace("hashes_sha256", "")
    full = await scene.export("full.json", "--with-hashes")
    await scene.house.workspace("later")
    for file in (plain, full):
        said = (await scene.run("audit", "check", file)).good()
        assert "the log still is what was signed, up to position {last}".format(**scene.at) in said


async def test_a_rewritten_database_is_found_out_by_an_earlier_export(scene: Scene) -> None:
    """Even by its owner, who recomputed the chain and the states: nothing inside the database shows it."""
    plain, full = await scene.export(), await scene.export("full.json", "--with-hashes")
    await scene.tamper(
        "UPDATE ledger.event"
        " SET data = convert_to(replace(convert_from(data, 'UTF8'), 'contacts:read', '*'), 'UTF8')"
        " WHERE position = $1",
        scene.at["changed"],
    )
    await scene.tamper(
        "UPDATE ledger.state SET body = jsonb_set(body, '{scopes}', '[\"*\"]') WHERE stream_id = $1",
        scene.key_id,
    )
    await rechain(scene.house.admin_dsn)
    (await scene.run("audit", "verify")).good()
    assert (
        f"DIFFERENCE at position {scene.at['last']}: expected hash"
        in (await scene.run("audit", "check", plain)).failed()
    )
    assert (
        f"DIFFERENCE at position {scene.at['changed']}: expected hash"
        in (await scene.run("audit", "check", full)).failed()
    )


async def test_a_change_that_leaves_the_last_hash_is_found_by_the_same_check(scene: Scene) -> None:
    plain = await scene.export()
    await scene.tamper("UPDATE ledger.event SET at = at + 1 WHERE position = $1", scene.at["changed"])
    assert (
        f"DIFFERENCE at position {scene.at['changed']}" in (await scene.run("audit", "check", plain)).failed()
    )


async def test_a_log_that_lost_its_end_is_found_by_an_export(scene: Scene) -> None:
    plain = await scene.export()
    await scene.tamper("DELETE FROM ledger.event WHERE position > $1", scene.at["rotated"])
    await scene.tamper(
        "UPDATE ledger.log_head h SET position = e.position, hash = e.hash FROM ledger.event e"
        " WHERE e.position = $1",
        scene.at["rotated"],
    )
    assert (
        f"position {scene.at['last']}: expected an event"
        in (await scene.run("audit", "check", plain)).failed()
    )


async def test_an_export_is_checked_offline_under_a_pinned_key(scene: Scene) -> None:
    file = await scene.export("full.json", "--with-hashes")
    pinned = (await scene.run("audit", "public-key")).good().strip()

    async def check(path: Path = file, key: str = pinned) -> Done:
        return await keyledger("audit", "check", path, "--public-key", key, home=scene.folder / "none")

    assert "is good" in (await check()).good()
    assert "not by" in (await check(key="00" * 32)).failed()
    assert "64 hex" in (await check(key="zz")).failed()
    unpinned = await keyledger("audit", "check", file, home=scene.folder / "none")
    assert "whose signature" in unpinned.failed()

    content = json.loads(file.read_text())
    for name, changed in {
        "position": {**content, "head": {**content["head"], "position": 12}},
        "hash": {**content, "head": {**content["head"], "hash": "00" * 32}},
        "signature": {**content, "signature": "00" * 64},
        "hashes": {**content, "hashes": "AAAA" + content["hashes"][4:]},
        "more": {**content, "more": 1},
    }.items():
        edited = scene.folder / f"{name}.json"
        edited.write_text(json.dumps(changed))
        assert "proves nothing" in (await check(edited)).failed(), name
    forger = scene.folder / "forger.key"
    forger.write_text(secrets.token_hex(32))
    forged = scene.folder / "forged.json"
    (await scene.run("audit", "export", "--out", forged, KEYLEDGER_AUDIT_KEY_FILE=forger)).good()
    assert "it was signed by the key" in (await check(forged)).failed()


async def test_the_commands_say_what_is_missing(scene: Scene) -> None:
    none = scene.folder / "none"
    assert "KEYLEDGER_POSTGRES" in (await keyledger("audit", "verify", home=none)).failed()
    there = scene.folder / "there.json"
    there.write_text("")
    assert "cannot be written" in (await scene.run("audit", "export", "--out", there)).failed()
    away = await keyledger("audit", "verify", "--dsn", "postgresql://u:p@127.0.0.1:1/d", home=none)
    assert "does not answer" in away.failed()

"""A home of an earlier version: a key that its services need by now is made at the next start."""

from __future__ import annotations

import asyncpg
import pytest

from services.cli.places import Places
from tests.support.system import System, running, temporary_home

DAYS = 3 * 24 * 3600 * 1_000_000


async def some_days_pass(system: System) -> None:
    """What a bootstrap made is told no more."""
    places = Places({"KEYLEDGER_HOME": str(system.home), "KEYLEDGER_PORT_BASE": str(system.base)})
    admin = await asyncpg.connect(places.database(None, owner=True), timeout=5)
    await admin.execute("UPDATE ledger.idempotency SET kept_until = kept_until - $1", DAYS)
    await admin.close()


async def revoke(system: System, service: str) -> None:
    """End a service's key, as its operator does."""
    keys = f"/v1/workspaces/{system.bootstrap['workspace_id']}/keys"
    named = (await system.call("GET", f"{keys}?search={service}%20service")).json()["keys"]
    done = await system.call("POST", f"{keys}/{named[0]['id']}/revoke")
    assert done.status_code == 200


@pytest.mark.timeout(180)
async def test_a_missing_service_key_is_made_at_the_next_start_unless_it_was_revoked() -> None:
    with temporary_home() as home:
        file = home / "secrets" / "verifier-prove"
        async with running(home) as first:
            assert "made the system workspace" in first.output
            await some_days_pass(first)
        file.unlink()
        async with running(home, base=first.base) as second:
            assert "; made a key for verifier-prove\n" in second.output
            assert file.stat().st_mode & 0o777 == 0o600
            proven = await second.call("POST", "/v1/prove", {"key": "x"}, key=file.read_text().strip())
            assert proven.json() == {"proven": False}
            await revoke(second, "verifier-prove")
            await some_days_pass(second)
        file.unlink()
        with pytest.raises(AssertionError):
            async with running(home, base=first.base):
                pass
        said = home.with_name("home.out").read_text().splitlines()
        assert said[-1].startswith("keyledger: the key of verifier-prove was revoked"), said[-5:]
        assert not file.exists()
        async with running(home, "--renew-service-keys", base=first.base) as third:
            assert "; made a key for verifier-prove\n" in third.output

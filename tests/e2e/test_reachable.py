"""Beyond loopback the verifier asks its callers for a token, and the example API has it."""

from __future__ import annotations

import httpx2

from tests.support.system import running, temporary_home


async def test_beyond_loopback_the_verifier_wants_its_token_and_the_example_brings_it() -> None:
    with temporary_home() as home:
        async with running(home, KEYLEDGER_HOST="0.0.0.0") as system:
            created = await system.key(await system.workspace())
            answer = await system.http.post(
                system.url("verifier", "/v1/verify"), json={"key": created["key"]}
            )
            assert (answer.status_code, answer.json()["error"]) == (401, "missing_api_key")
            token = (home / "verifier.token").read_text().strip()
            for given, status in ((token, 200), (token[::-1], 401)):
                answer = await system.http.post(
                    system.url("verifier", "/v1/verify"),
                    json={"key": created["key"], "min_position": created["position"]},
                    headers={"X-Verifier-Token": given},
                )
                assert answer.status_code == status
            assert (await system.contacts(created["key"])).status_code == httpx2.codes.OK
        for file in ("verifier.token", "seal.secret", "bootstrap.json"):
            assert (home / file).stat().st_mode & 0o777 == 0o600

"""Without a provider: a link that the local run prints signs in whoever opens it first, on this machine."""

import asyncio
import re
import sys
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from services.cli.provision import sign_in_link
from tests.browser.conftest import Somebody
from tests.support.browsing import REFRESH, Person, person
from tests.support.openid import Provider
from tests.support.system import System

COMMAND = ".venv/bin/keyledger"
LINK = re.compile(r"http://\S+/sign-in/link\?token=\S+")


async def login(system: System, **environment: str) -> tuple[int, str]:
    """What `keyledger login` says, and its exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.cli", "login",
        env={"KEYLEDGER_HOME": str(system.home), "KEYLEDGER_PORT_BASE": str(system.base), **environment},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, output.decode()


async def link(system: System) -> str:
    code, said = await login(system)
    assert code == 0, said
    found = LINK.search(said)
    assert found is not None, said
    return found[0]


async def is_out(somebody: Person) -> None:
    assert await somebody.cookie() is None
    assert await somebody.cookie(REFRESH) is None


async def test_the_link_that_make_up_prints_signs_in_once(system: System, browser: Browser) -> None:
    home = system.url("dashboard")
    found = LINK.search(system.output)
    assert found is not None, "make up printed no link"
    async with person(browser, home) as local, person(browser, home) as late:
        # a preview of the address does not use it up
        previewed = await local.context.request.head(found[0], max_redirects=0)
        assert "set-cookie" not in previewed.headers
        await local.page.goto(found[0])
        await expect(local.page.get_by_role("heading", level=1)).to_have_text("API keys")
        claims = await local.claims()
        members = await system.call("GET", f"/v1/workspaces/{claims['ws']}/members")
        assert [(each["user"], each["role"]) for each in members.json()["members"]] == [
            (claims["sub"], "owner")
        ]
        # it is no longer in the address, so neither in the history nor in a referrer
        assert "token" not in local.page.url
        answer = await late.page.goto(found[0])
        assert answer is not None
        assert 400 <= answer.status < 500
        await is_out(late)
    # nor does it stand in a log
    token = found[0].partition("token=")[2]
    logs = "".join(file.read_text() for file in (system.home / "logs").glob("dashboard*"))
    assert token not in logs


async def test_keyledger_login_makes_a_new_link_for_the_same_person(system: System, browser: Browser) -> None:
    found: list[str] = []
    for _ in range(2):
        async with person(browser, system.url("dashboard")) as local:
            await local.page.goto(await link(system))
            await expect(local.page.get_by_role("heading", level=1)).to_have_text("API keys")
            claims = await local.claims()
            found.append(f"{claims['sub']} {claims['ws']}")
    assert found[0] == found[1]


@pytest.mark.parametrize("token", ["", "x", "a" * 43, "%00", "a" * 5000])
async def test_a_guessed_link_signs_nobody_in(system: System, browser: Browser, token: str) -> None:
    async with person(browser, system.url("dashboard")) as guesser:
        answer = await guesser.goes_to(f"/sign-in/link?token={token}")
        assert 400 <= answer.status < 500
        await is_out(guesser)
        # how it can be typed where everything was started
        await expect(guesser.page.get_by_text(f"{COMMAND} login")).to_be_visible()
        await guesser.goes_to("/sign-in")
        await expect(guesser.page.get_by_text(f"{COMMAND} login")).to_be_visible()


async def test_with_a_provider_no_link_signs_in(
    house: System, somebody: Somebody, provider: Provider, tmp_path: Path
) -> None:
    assert LINK.search(house.output) is None
    # told of the provider again, or by what the run was told of
    for environment in (provider.environment(tmp_path), {}):
        code, said = await login(house, **environment)
        assert code == 0
        assert LINK.search(said) is None
        assert house.url("dashboard", "/sign-in") in said
    # one that was made all the same, with the secret of this very dashboard
    made = sign_in_link(house.url("dashboard"), house.home / "dashboard.secret")
    async with somebody() as stranger:
        await stranger.page.goto(made)
        await expect(stranger.page.get_by_role("heading", level=1)).to_have_text("Sign in")
        await is_out(stranger)

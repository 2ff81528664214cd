"""People in a workspace: invited, given a role, removed; and one person in several workspaces."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Locator, expect

from tests.browser.conftest import Somebody
from tests.support.accessibility import violations
from tests.support.browsing import WRITES, Person
from tests.support.system import System

KEYS = "/settings/api-keys"
FORM = {**WRITES, "Content-Type": "application/x-www-form-urlencoded"}
Crowd = Callable[..., Awaitable[Person]]


@pytest.fixture
async def owner(somebody: Somebody) -> AsyncIterator[Person]:
    async with somebody(locale="en-GB") as cleo:
        await cleo.signs_in("cleo")
        await cleo.makes_workspace("Company")
        yield cleo


async def invites(owner: Person, role: str, note: str = "") -> str:
    """Make an invitation on the page; its link."""
    await owner.goes_to("/settings/members")
    await owner.page.get_by_role("button", name="Invite somebody").click()
    dialog = owner.page.get_by_role("dialog")
    await dialog.get_by_label("Who is it for?").fill(note)
    await dialog.get_by_role("radio", name=re.compile(f"^{role}", re.IGNORECASE)).check()
    await dialog.get_by_role("button", name="Make the link").click()
    await expect(dialog.get_by_text("This link will not be shown again.")).to_be_visible()
    link = await dialog.locator("#token").inner_text()
    await dialog.get_by_role("button", name="Done").click()
    return link


async def accepts(guest: Person, link: str, account: str) -> None:
    """Open the link as somebody who is not signed in, and come in."""
    await guest.page.goto(link)
    if not await guest.cookie():
        await expect(guest.page.get_by_text("You are invited to a workspace.")).to_be_visible()
        await guest.page.get_by_role("link", name=re.compile("sign in|continue", re.IGNORECASE)).first.click()
        await guest.tells_the_provider(account)
        await guest.page.wait_for_url(f"{guest.home}/**")
    await guest.page.get_by_role("button", name=re.compile("accept|join", re.IGNORECASE)).click()
    await guest.page.wait_for_url(re.compile("/settings/"))


async def bearer(system: System, somebody: Person, method: str, path: str) -> int:
    """What the key service answers to this person's JWT, without the dashboard."""
    headers = {"Authorization": f"Bearer {await somebody.cookie()}"}
    body = {"name": "by hand", "environment": "test"} if method == "POST" else None
    return (
        await system.http.request(method, system.url("keys", path), headers=headers, json=body)
    ).status_code


def row(owner: Person, name: str) -> Locator:
    return owner.page.get_by_role("row").filter(has_text=name)


async def removes(owner: Person, name: str) -> None:
    """By the button, and yes to the question."""
    await row(owner, name).get_by_role("button", name=re.compile("^Remove")).click()
    await owner.page.get_by_role("alertdialog").get_by_role("button", name="Remove them").click()


async def test_somebody_is_invited_grows_and_is_removed(
    owner: Person, crowd: Crowd, house: System, screenshots: Path
) -> None:
    workspace = (await owner.claims())["ws"]
    keys = f"/v1/workspaces/{workspace}/keys"
    link = await invites(owner, "viewer", "Dan")
    dan = await crowd(locale="en-GB")
    await accepts(dan, link, "dan")
    assert (await dan.claims())["ws"] == workspace

    # a viewer looks, and changes nothing, not even by hand
    await dan.goes_to(KEYS)
    await expect(dan.page.get_by_role("heading", level=1)).to_have_text("API keys")
    await expect(dan.page.get_by_role("link", name=re.compile("^Create"))).to_have_count(0)
    status, _ = await dan.call("POST", KEYS, FORM, "name=x&environment=live&access=all&once=x")
    assert status in {403, 422}
    assert await bearer(house, dan, "GET", keys) == 200
    assert await bearer(house, dan, "POST", keys) == 403

    # a role holds at once, with the same JWT
    jwt = await dan.cookie()
    await owner.goes_to("/settings/members")
    await owner.page.get_by_label("Role of Dan Example").select_option("member")
    await expect(owner.page.get_by_role("status").first).to_be_visible()
    assert await bearer(house, dan, "POST", keys) == 201
    assert await dan.cookie() == jwt
    await dan.goes_to(KEYS)
    await expect(dan.page.get_by_role("link", name=re.compile("^Create")).first).to_be_visible()
    await expect(dan.page.locator(".me")).to_contain_text("Member")
    assert await dan.cookie() == jwt

    # an owner is made only after a question, and a choice that is taken back is shown as it was
    role = owner.page.get_by_label("Role of Dan Example")
    await role.select_option("owner")
    asked = owner.page.get_by_role("alertdialog")
    await expect(asked).to_contain_text("Make Dan Example an owner?")
    assert not await violations(owner.page)
    await owner.photographs(screenshots, "members-question")
    await asked.get_by_role("button", name="Cancel").click()
    await expect(asked).to_be_hidden()
    await expect(role).to_have_value("member")
    await expect(role).to_be_focused()

    # out at once, in every open page and by hand
    await dan.goes_to(KEYS)
    await removes(owner, "Dan Example")
    await expect(row(owner, "Dan Example")).to_have_count(0)
    assert await bearer(house, dan, "GET", keys) == 404
    usage = house.url("usage", f"/v1/workspaces/{workspace}/usage")
    refused = await house.http.get(usage, headers={"Authorization": f"Bearer {await dan.cookie()}"})
    assert refused.status_code == 404
    await dan.goes_to(KEYS)
    assert "by hand" not in await dan.page.inner_text("body")
    await expect(dan.page).to_have_url(re.compile("/workspaces"))
    await expect(dan.page.get_by_text("You are no longer a member of the workspace")).to_be_visible()
    assert not await violations(dan.page)
    await dan.photographs(screenshots, "workspaces-out")
    # what happened stands in the trail
    await owner.goes_to("/settings/activity")
    told = await owner.page.locator("#entries").inner_text()
    assert "Dan Example" in told


async def test_an_invitation_works_once(owner: Person, crowd: Crowd) -> None:
    link = await invites(owner, "member")
    # who is in already does not use it up
    shown = await owner.context.new_page()
    await shown.goto(link)
    await expect(shown.get_by_role("heading", level=1)).to_contain_text("already")
    assert not await violations(shown)
    await shown.get_by_role("button", name=re.compile("^Open")).click()
    await shown.wait_for_url(re.compile("/settings/api-keys"))
    first, second = await crowd(), await crowd()
    await accepts(first, link, "eve")
    await second.signs_in("finn")
    answer = await second.page.goto(link)
    assert answer is not None
    assert answer.status in {404, 410}
    assert owner.workspace not in await second.page.inner_text("body")


async def test_an_invitation_that_is_withdrawn_or_whose_maker_has_gone_is_void(
    owner: Person, crowd: Crowd
) -> None:
    withdrawn = await invites(owner, "admin", "withdrawn one")
    await owner.page.get_by_role("button", name=re.compile("^Withdraw")).click()
    await expect(owner.page.get_by_text("withdrawn one")).to_have_count(0)
    other = await crowd()
    await other.signs_in("finn")
    answer = await other.page.goto(withdrawn)
    assert answer is not None
    assert answer.status in {404, 410}

    admin = await crowd(locale="en-GB")
    await accepts(admin, await invites(owner, "admin"), "gus")
    left_behind = await invites(admin, "member")
    await owner.goes_to("/settings/members")
    await removes(owner, "Gus Example")
    await expect(owner.page.get_by_label("Role of Gus Example")).to_have_count(0)
    await other.page.goto(left_behind)
    if await other.page.get_by_role("button", name=re.compile("accept|join", re.IGNORECASE)).count():
        await other.page.get_by_role("button", name=re.compile("accept|join", re.IGNORECASE)).click()
        await other.page.wait_for_load_state("networkidle")
    await other.goes_to("/workspaces")
    assert owner.workspace not in await other.page.inner_text("body")


async def test_nobody_gives_more_than_they_have(owner: Person, crowd: Crowd, house: System) -> None:
    admin = await crowd(locale="en-GB")
    await accepts(admin, await invites(owner, "admin"), "dan")
    await admin.goes_to("/settings/members")
    await admin.page.get_by_role("button", name="Invite somebody").click()
    await expect(admin.page.get_by_role("radio", name=re.compile("^Owner"))).to_have_count(0)
    status, _ = await admin.call("POST", "/settings/members/invitations", FORM, "role=owner&note=")
    assert status in {403, 422}
    theirs, mine = (await owner.claims()), (await admin.claims())
    for user, path in ((mine["sub"], "role"), (theirs["sub"], "role"), (theirs["sub"], "remove")):
        status, text = await admin.call("POST", f"/settings/members/{user}/{path}", FORM, "role=owner")
        assert status in {403, 422} or "alert" in text
    members = (await house.call("GET", f"/v1/workspaces/{theirs['ws']}/members")).json()["members"]
    assert {member["user"]: member["role"] for member in members} == {
        theirs["sub"]: "owner", mine["sub"]: "admin",
    }  # fmt: skip


async def test_the_last_owner_cannot_leave(owner: Person, house: System) -> None:
    claims = await owner.claims()
    await owner.goes_to("/settings/members")
    leave = owner.page.get_by_role("button", name="Leave")
    if await leave.count():
        await leave.click()
        await owner.page.get_by_role("alertdialog").get_by_role("button", name="Leave the workspace").click()
        await expect(owner.page.get_by_role("alert")).to_be_visible()
    for path, body in (("remove", ""), ("role", "role=viewer")):
        await owner.call("POST", f"/settings/members/{claims['sub']}/{path}", FORM, body)
    members = (await house.call("GET", f"/v1/workspaces/{claims['ws']}/members")).json()["members"]
    assert [(member["user"], member["role"]) for member in members] == [(claims["sub"], "owner")]
    await owner.goes_to(KEYS)
    await expect(owner.page.get_by_role("heading", level=1)).to_have_text("API keys")


async def test_switching_workspaces_gives_another_jwt(owner: Person, house: System) -> None:
    first, name = await owner.claims(), owner.workspace
    await house.key(first["ws"], name="key of the first")
    await owner.makes_workspace("Second company")
    second = await owner.claims()
    assert second["ws"] != first["ws"]
    assert (second["sub"], second["sid"]) == (first["sub"], first["sid"])
    await owner.goes_to(KEYS)
    assert "key of the first" not in await owner.page.inner_text("main")
    await owner.page.locator("details.switcher summary").click()
    await owner.page.locator("details.switcher").get_by_role("button", name=name, exact=True).click()
    await expect(owner.page.get_by_role("link", name="key of the first")).to_be_visible()
    assert (await owner.claims())["ws"] == first["ws"]

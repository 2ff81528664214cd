"""A key's whole life as its owner sees it: made, copied, used, rotated, looked back at, revoked."""

import asyncio
import csv
import io
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.conftest import Somebody
from tests.support.accessibility import violations
from tests.support.browsing import Person
from tests.support.system import System
from tests.support.waiting import until

KEYS = "/settings/api-keys"
OVERLAP = 6
"""Seconds: long enough to use both secrets, short enough to wait for its end."""


@pytest.fixture
async def ben(somebody: Somebody) -> AsyncIterator[Person]:
    async with somebody(locale="en-GB") as arrived:
        await arrived.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=arrived.home)
        await arrived.signs_in("ben")
        await arrived.makes_workspace("Journeys")
        yield arrived


async def copied(ben: Person, button: str) -> str:
    """What a button puts into the clipboard."""
    await ben.page.get_by_role("button", name=button).click()
    await expect(ben.page.get_by_role("status").filter(has_text="copied")).to_be_visible()
    return await ben.page.evaluate("navigator.clipboard.readText()")


async def created(ben: Person, name: str, environment: str = "Live") -> str:
    """A key made on the page; its token."""
    await ben.goes_to(KEYS)
    await ben.page.get_by_role(
        "link", name=re.compile("create (a|the first) key", re.IGNORECASE)
    ).first.click()
    await ben.page.get_by_label("Name", exact=True).fill(name)
    await ben.page.get_by_text(environment, exact=True).click()
    await ben.page.get_by_role("button", name="Create key").click()
    await expect(ben.page.get_by_text("This key will not be shown again.")).to_be_visible()
    return await ben.page.locator("#token").inner_text()


async def shell(command: str) -> str:
    """What a snippet that was copied into a shell says."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, (command, errors.decode())
    return output.decode()


async def test_the_life_of_a_key(ben: Person, house: System, screenshots: Path) -> None:
    page = ben.page

    # made, shown once, copied, used as the page says
    token = await created(ben, "billing")
    assert token.startswith("cvtk_live_")
    assert await copied(ben, "Copy key") == token
    await ben.photographs(screenshots, "created")
    # what is shown holds the token only where it was just made
    assert json.loads(await shell(await page.locator("#try-curl").inner_text()))["valid"] is True
    assert (await house.contacts(token)).status_code == 200
    await page.get_by_role("link", name="Go to the key").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("billing")
    assert await copied(ben, "Copy the key id") == page.url.rsplit("/", 1)[1]
    key_page = page.url
    assert token not in await page.content()
    await page.go_back()
    assert token not in await page.content()

    # its use is told, without a reload
    await page.goto(ben.home + KEYS)
    row = page.get_by_role("row").filter(has_text="billing")
    await expect(row.get_by_text(re.compile("ago|now|second"))).to_be_visible(timeout=20_000)
    assert "Ben Example" in await row.inner_text()

    # rotated: both secrets work, until the overlap ends
    await page.goto(key_page)
    await page.get_by_role("button", name="Rotate").first.click()
    dialog = page.get_by_role("dialog")
    await dialog.locator("#overlap option").first.evaluate(f"(option) => option.value = '{OVERLAP}'")
    await dialog.get_by_label("Old secret expires").select_option(str(OVERLAP))
    await dialog.get_by_role("button", name="Rotate key").click()
    await expect(dialog.get_by_text("is accepted until")).to_be_visible()
    after = await dialog.locator("#token").inner_text()
    assert after != token
    assert (await house.contacts(after)).status_code == 200
    assert (await house.contacts(token)).status_code == 200
    await ben.photographs(screenshots, "rotated")
    await dialog.get_by_role("button", name="I have saved the new key").click()
    await expect(dialog).to_be_hidden()

    async def ended() -> bool:
        return (await house.contacts(token)).status_code == 401

    await until(ended, within=OVERLAP + 5)
    assert (await house.contacts(after)).status_code == 200

    # revoked: by its typed name alone, and refused at once
    await page.goto(key_page)
    await page.get_by_role("button", name="Revoke").first.click()
    assert await dialog.get_by_label("Reason").input_value() == "", "nobody has chosen one"
    await dialog.get_by_label("Reason").select_option(index=1)
    await dialog.get_by_label("Type the key’s name to confirm").fill("bill")
    await dialog.get_by_role("button", name="Revoke key").click()
    await expect(dialog.get_by_role("alert")).to_be_visible()
    assert (await house.contacts(after)).status_code == 200
    assert await dialog.get_by_label("Reason").input_value() == "No longer needed"
    await dialog.get_by_label("Type the key’s name to confirm").fill("billing")
    await dialog.get_by_role("button", name="Revoke key").click()
    await expect(dialog.get_by_text(re.compile(r"[Rr]efused everywhere after \d+ ms"))).to_be_visible()
    assert (await house.contacts(after)).status_code == 401
    await ben.photographs(screenshots, "revoked")
    await dialog.get_by_role("button", name="Done").click()
    await expect(page.get_by_text("Revoked").first).to_be_visible()
    await expect(page.get_by_role("button", name="Rotate")).to_have_count(0)

    # its history, newest first, and the key as it was
    history = page.locator("ol.chain > li.link")
    await expect(history).to_have_count(3)
    assert "revoked" in await history.nth(0).inner_text()
    assert "created" in await history.nth(2).inner_text()
    assert "Ben Example" in await history.nth(2).inner_text()
    await history.nth(2).get_by_role("link", name=re.compile("^View")).click()
    await expect(page.get_by_text("You are viewing the past.")).to_be_visible()
    assert "Active" in await page.locator("dl.facts").inner_text()
    await ben.photographs(screenshots, "time-travel")

    # the workspace's trail tells the same
    await page.goto(f"{ben.home}/settings/activity")
    entries = page.locator("#entries > li.link")
    assert "revoked" in await entries.nth(0).inner_text()
    assert "billing" in await entries.nth(0).inner_text()
    jsonl = await ben.context.request.get(f"{ben.home}/settings/activity/export.jsonl")
    told = [json.loads(line) for line in (await jsonl.text()).splitlines()]
    types = [line["type"] for line in told]
    assert {"workspace_created", "key_created", "key_rotated", "key_revoked"} <= set(types)
    sheet = await ben.context.request.get(f"{ben.home}/settings/activity/export.csv")
    assert len(list(csv.DictReader(io.StringIO(await sheet.text())))) == len(told)


async def test_a_token_that_is_shown_once_is_not_lost_by_a_slip(ben: Person, screenshots: Path) -> None:
    """Escape, the cross and a click beside the dialog ask first; only an answer closes it."""
    page, dialog = ben.page, ben.page.get_by_role("dialog")
    await created(ben, "slippery")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Key created")
    assert await violations(page) == []
    await page.get_by_role("link", name="Go to the key").click()
    await page.get_by_role("button", name="Rotate").first.click()
    await dialog.get_by_role("button", name="Rotate key").click()
    token = dialog.locator("#token")
    await expect(token).to_be_visible()
    question = dialog.get_by_role("alertdialog")
    await expect(question).to_be_hidden()
    for slip in ("Escape", "Escape", "beside", "cross"):
        if slip == "beside":
            await page.mouse.click(3, 3)
        elif slip == "cross":
            await dialog.get_by_role("button", name="Close", exact=True).first.click()
        else:
            await page.keyboard.press("Escape")
        await expect(token).to_be_visible()
    await expect(question).to_contain_text("cannot be shown again")
    assert await violations(page) == []
    await ben.photographs(screenshots, "rotated-asked")
    await dialog.get_by_role("button", name="Not yet").click()
    await expect(question).to_be_hidden()
    await expect(token).to_be_focused()
    await page.keyboard.press("Escape")
    await question.get_by_role("button", name="Close").click()
    await expect(dialog).to_be_hidden()
    await expect(token).to_have_count(0)


async def test_where_nobody_can_travel_to_is_said_beside_the_field(ben: Person, house: System) -> None:
    key = await house.key((await ben.claims())["ws"], name="young")
    await ben.goes_to(f"{KEYS}/{key['id']}")
    field = ben.page.get_by_label("Date and time")
    await field.fill("2020-02-03T04:05:06")
    await ben.page.get_by_role("button", name="View").click()
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(ben.page.get_by_text("did not exist yet")).to_be_visible()
    assert await field.input_value() == "2020-02-03T04:05:06"
    await expect(ben.page.get_by_role("heading", level=1)).to_have_text("young")


async def test_uses_appear_in_the_chart_and_the_sheet(ben: Person, house: System) -> None:
    token = await created(ben, "counted")
    for _ in range(5):
        assert (await house.contacts(token)).status_code == 200

    async def counted() -> bool:
        await ben.goes_to("/settings/usage?range=1h")
        totals = ben.page.locator("dl.totals")
        # before the first use there are none, and the page says how to make one
        return await totals.count() > 0 and "Allowed\n5" in await totals.inner_text()

    await until(counted, within=20)
    await expect(ben.page.locator("#chart canvas")).to_be_visible()
    await expect(ben.page.get_by_role("row").filter(has_text="counted")).to_be_visible()
    sheet = await ben.context.request.get(f"{ben.home}/settings/usage.csv?range=1h")
    rows = list(csv.DictReader(io.StringIO(await sheet.text())))
    assert sum(int(row["count"]) for row in rows) == 5
    await ben.goes_to("/settings/rate-limit")
    await expect(ben.page.locator("#gauge")).to_contain_text("used")


async def test_keys_are_found_and_filtered(ben: Person, house: System) -> None:
    workspace = (await ben.claims())["ws"]
    for name, environment in (("alpha", "live"), ("beta", "test"), ("gamma", "test")):
        await house.key(workspace, name=name, environment=environment)
    page, names = ben.page, ben.page.locator("tbody td.name a")
    await ben.goes_to(KEYS)
    await expect(names).to_have_text(["gamma", "beta", "alpha"])
    await page.get_by_label("Search").fill("bet")
    await expect(names).to_have_text(["beta"])
    await page.get_by_label("Search").fill("")
    await expect(names).to_have_count(3)
    shown = await page.locator("tbody td.name code").nth(2).inner_text()
    await page.get_by_label("Search").fill(shown[-4:])
    await expect(names).to_have_text(["alpha"])
    await page.get_by_label("Search").fill("")
    await page.get_by_text("Test", exact=True).click()
    await expect(names).to_have_text(["gamma", "beta"])
    assert "environment=test" in page.url
    await page.get_by_label("Status").select_option("revoked")
    await expect(page.get_by_role("heading", name="No keys found")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("heading", name="No keys found")).to_be_visible()
    await page.get_by_role("link", name="Show all keys").click()
    await expect(names).to_have_count(3)


async def test_what_is_wrong_with_a_form_stands_beside_it(ben: Person, screenshots: Path) -> None:
    """And what was typed is still there; nothing is run that was typed."""
    name = '<img src=x onerror="alert(1)">'
    page = ben.page
    await ben.goes_to(f"{KEYS}/new")
    await page.get_by_label("Name", exact=True).fill(name)
    await page.get_by_label("Allowed addresses").fill("10.0.0.5/24")
    await page.get_by_label("Rate limit").first.fill("0")
    await page.get_by_role("button", name="Create key").click()
    await expect(page.get_by_role("alert")).to_contain_text("2 fields")
    assert await violations(page) == []
    await ben.photographs(screenshots, "create-refused")
    await expect(page.get_by_label("Allowed addresses")).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_label("Rate limit").first).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_text("Did you mean 10.0.0.0/24?")).to_be_visible()
    await page.get_by_label("Rate limit").first.fill("")
    assert await page.get_by_label("Name", exact=True).input_value() == name
    await page.get_by_label("Allowed addresses").fill("192.0.2.1")
    await page.get_by_role("button", name="Create key").click()
    await expect(page.get_by_text("This key will not be shown again.")).to_be_visible()
    await ben.goes_to(KEYS)
    await expect(page.get_by_role("link", name=name)).to_be_visible()


async def test_a_key_is_made_once_however_often_the_button_is_pressed(ben: Person) -> None:
    await ben.goes_to(f"{KEYS}/new")
    await ben.page.get_by_label("Name", exact=True).fill("once")
    await ben.page.get_by_role("button", name="Create key").dblclick()
    await expect(ben.page.get_by_text("This key will not be shown again.")).to_be_visible()
    await ben.goes_to(KEYS)
    await expect(ben.page.locator("tbody td.name a")).to_have_count(1)


async def test_all_of_it_by_keyboard(ben: Person, house: System) -> None:
    """From the list to a key that is revoked, without a pointer; the focus is always somewhere to be seen."""
    page, press = ben.page, ben.page.keyboard.press
    await ben.goes_to(KEYS)
    await press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
    await press("Enter")
    await reach(ben, "Create a key", "Create the first key")
    await press("Enter")
    await page.wait_for_url("**/new")
    await reach(ben, "Name")
    await page.keyboard.type("typed")
    await reach(ben, "Create key")
    await press("Enter")
    await expect(page.get_by_text("This key will not be shown again.")).to_be_visible()
    token = await page.locator("#token").inner_text()
    # the focus stands at what has just appeared
    assert "is ready" in await page.evaluate("document.activeElement.textContent")
    await reach(ben, "Copy key")
    await press("Space")
    await expect(page.get_by_role("status").filter(has_text="copied")).to_be_visible()
    await reach(ben, "Go to the key")
    await press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("typed")
    await reach(ben, "Revoke")
    await press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    await press("Escape")
    await expect(dialog).to_be_hidden()
    assert (await page.evaluate("document.activeElement.textContent")).strip() == "Revoke"
    await press("Enter")
    assert (await page.evaluate(_NAME))[0].startswith("Reason")
    await page.keyboard.type("Leaked")
    await reach(ben, "Type the key’s name to confirm")
    await page.keyboard.type("typed")
    await press("Enter")
    await expect(dialog.get_by_text(re.compile(r"[Rr]efused everywhere"))).to_be_visible()
    assert (await house.contacts(token)).status_code == 401


_NAME = """
(() => {
    const at = document.activeElement;
    const label = at.labels && at.labels.length ? at.labels[0] : at;
    const outline = getComputedStyle(at);
    return [label.textContent.trim().replace(/\\s+/g, " "),
        outline.outlineStyle !== "none" || outline.boxShadow !== "none" || at.matches("h1,h2,p,input")];
})()
"""


async def reach(ben: Person, *names: str) -> None:
    """Go on with the tabulator until the focus stands there."""
    for _ in range(80):
        await ben.page.keyboard.press("Tab")
        name, seen = await ben.page.evaluate(_NAME)
        assert seen or name == "", f"the focus is not to be seen at {name!r}"
        if name in names:
            return
    raise AssertionError(f"{names} cannot be reached by keyboard")

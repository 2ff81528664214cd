"""Workspace and members, by their addresses."""

from urllib.parse import urlencode

import httpx2
import msgspec

from keyledger.events import Quota
from tests.support.dashboard_pages import ACME, ADA, BOB, PART, Pages

MEMBERS = "/settings/members"


async def test_the_workspace_shows_its_limits_and_is_renamed(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    pages.backend.spaces[ACME] = msgspec.structs.replace(
        pages.backend.spaces[ACME], quota=Quota(50_000, "month"), suspended=True
    )
    text = (await browser.get("/settings/workspace")).text
    for expected in ("1,000 per minute", "50,000 per month", "This workspace is suspended", "Acme &amp; Co"):
        assert expected in text
    body = urlencode({"name": "Acme <2>"}).encode()
    done = await browser.post("/settings/workspace", content=body, headers=PART)
    assert "is called <strong>Acme &lt;2&gt;</strong> now" in done.text
    wrong = await browser.post("/settings/workspace", content=b"name=+", headers=PART)
    assert wrong.status_code == 422
    assert 'id="name-wrong"' in wrong.text
    pages.sees_as(BOB, "member")
    assert "Save the name" not in (await browser.get("/settings/workspace")).text


async def test_workspaces_are_chosen_and_made_without_being_in_one(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    pages.visitor = msgspec.structs.replace(pages.visitor, workspace_id=None, role=None)
    text = (await browser.get("/workspaces")).text
    assert "Choose a workspace" in text
    assert f'value="{ACME}"' in text
    assert "Acme &amp; Co" in (await browser.get("/workspaces/menu", headers=PART)).text
    body = urlencode({"name": "Second", "once": "w" * 20}).encode()
    for _ in range(2):
        made = await browser.post("/workspaces", content=body, headers=PART)
        assert "<strong>Second</strong> is ready" in made.text
    assert len(pages.backend.spaces) == 2
    wrong = await browser.post("/workspaces", content=b"name=", headers=PART)
    assert wrong.status_code == 422
    pages.backend.spaces.clear()
    assert "Welcome" in (await browser.get("/workspaces")).text


async def test_members_are_shown_and_their_roles_changed(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.sees_as(BOB, "member")
    pages.visitor = msgspec.structs.replace(pages.visitor, user_id=ADA, role="owner")
    text = (await browser.get(MEMBERS)).text
    assert "Bob &lt;b&gt;Builder&lt;/b&gt;" in text
    assert text.count("<select") == 1, "nobody changes their own role by a slip"
    done = await browser.post(f"{MEMBERS}/{BOB}/role", content=b"role=admin", headers=PART)
    assert "Admin from now on." in done.text
    wrong = await browser.post(f"{MEMBERS}/{BOB}/role", content=b"role=king", headers=PART)
    assert wrong.status_code == 422
    assert "There is no such role." in wrong.text
    out = await browser.post(f"{MEMBERS}/{BOB}/remove", content=b"", headers=PART)
    assert "is out." in out.text
    gone = await browser.post(f"{MEMBERS}/{BOB}/remove", content=b"", headers=PART)
    assert gone.status_code == 404
    assert (await browser.post(f"{MEMBERS}/user_x/remove", content=b"", headers=PART)).status_code == 404


async def test_an_admin_is_not_offered_the_owners(pages: Pages, browser: httpx2.AsyncClient) -> None:
    pages.sees_as(BOB, "admin")
    text = (await browser.get(MEMBERS)).text
    assert f"/settings/members/{ADA}/" not in text
    assert 'value="owner"' not in text


async def test_the_last_owner_is_told_why_they_cannot_leave(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    stays = await browser.post(f"{MEMBERS}/{ADA}/remove", content=b"", headers=PART)
    assert stays.status_code == 422
    assert 'role="alert"' in stays.text
    assert "The last owner cannot leave." in stays.text
    pages.sees_as(BOB, "owner")
    leaves = await browser.post(f"{MEMBERS}/{BOB}/remove", content=b"", headers=PART)
    assert leaves.headers["hx-redirect"] == "/workspaces"


async def test_an_invitation_s_link_is_shown_once(pages: Pages, browser: httpx2.AsyncClient) -> None:
    body = urlencode({"role": "viewer", "note": "Grace <g>"}).encode()
    made = await browser.post(f"{MEMBERS}/invitations", content=body, headers=PART)
    assert "https://keys.example.com/invitations/secret-1" in made.text
    assert made.headers["cache-control"] == "no-store"
    text = (await browser.get(MEMBERS)).text
    assert "secret-1" not in text
    assert "Grace &lt;g&gt;" in text
    id_ = pages.accounts.open[0].id
    gone = await browser.post(f"{MEMBERS}/invitations/{id_}/withdraw", content=b"", headers=PART)
    assert "The invitation is void." in gone.text
    again = await browser.post(f"{MEMBERS}/invitations/{id_}/withdraw", content=b"", headers=PART)
    assert again.status_code == 404
    assert (
        await browser.post(f"{MEMBERS}/invitations/nonsense/withdraw", content=b"", headers=PART)
    ).status_code == 404


async def test_who_may_not_manage_sees_members_and_no_invitations(
    pages: Pages, browser: httpx2.AsyncClient
) -> None:
    await browser.post(f"{MEMBERS}/invitations", content=b"role=viewer&note=for+Grace", headers=PART)
    pages.sees_as(BOB, "member")
    text = (await browser.get(MEMBERS)).text
    assert "Ada Lovelace" in text
    assert "for Grace" not in text
    assert "Invite somebody" not in text

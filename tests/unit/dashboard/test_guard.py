"""Who is let in as what, from one request to the next; and what is asked for beside its address."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from keyledger.errors import invalid_session
from tests.support.clock import ManualClock
from tests.support.dashboard import JWT, PAGE, Browser, Dashboard, in_memory
from tests.support.dashboard_backend import MemoryBackend, made_id
from tests.support.tokens import claims
from tests.unit.dashboard.test_sessions import link, signed_in

MEMBERS = "/settings/members"
PART = {"HX-Request": "true"}
DATA = {"Accept": "application/json", "Sec-Fetch-Dest": "empty"}


class World:
    """A dashboard, and the key service as its pages and its guard see it."""

    def __init__(self, dashboard: Dashboard, backend: MemoryBackend, clock: ManualClock) -> None:
        self.dashboard, self.backend, self.clock = dashboard, backend, clock
        self.workspace = made_id("ws", 0)

    async def browser(self) -> Browser:
        """The local user's, in their workspace."""
        browser = await signed_in(self.dashboard, self.clock)
        self.backend.space(0, "Acme", claims(browser.cookies[JWT])["sub"])
        return browser

    def grants(self, browser: Browser, role: str) -> None:
        """Give the browser's user another role."""
        user = claims(browser.cookies[JWT])["sub"]
        self.dashboard.memberships.members[self.workspace][user] = role
        members = self.backend.members_of[self.workspace]
        members[user] = msgspec.structs.replace(members[user], role=role)

    def removes(self, browser: Browser) -> None:
        """Let the browser's user be a member no more."""
        user = claims(browser.cookies[JWT])["sub"]
        del self.dashboard.memberships.members[self.workspace][user]
        del self.backend.members_of[self.workspace][user]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    clock, backend = ManualClock(), MemoryBackend()
    async with in_memory(clock, backend=backend) as dashboard:
        yield World(dashboard, backend, clock)


async def test_a_page_shows_the_role_of_now(world: World) -> None:
    browser = await world.browser()
    kept = dict(browser.cookies)
    for role, title, invites in (("viewer", "Viewer", False), ("admin", "Admin", True)):
        world.grants(browser, role)
        page = await browser.get(MEMBERS)
        assert page.status_code == 200
        assert f'<span class="small quiet">{title}</span>' in page.text
        assert ("Invite somebody" in page.text) is invites
        keys = (await browser.get("/settings/api-keys")).text
        assert ('href="/settings/api-keys/new"' in keys) is invites
    assert browser.cookies == kept


async def test_who_is_out_of_their_workspace_is_told_so_where_they_choose_another(world: World) -> None:
    browser = await world.browser()
    world.removes(browser)
    for path in ("/", MEMBERS, "/settings/api-keys"):
        answer = await browser.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/workspaces?out=1")
    part = await browser.send("GET", MEMBERS, PART)
    assert part.headers["hx-redirect"] == "/workspaces?out=1"
    assert (await browser.send("GET", "/settings/usage/now", DATA)).status_code == 404
    assert "no longer a member" in (await browser.get("/workspaces?out=1")).text
    assert "no longer a member" not in (await browser.get("/workspaces")).text


async def test_without_the_key_service_a_page_is_not_available(world: World) -> None:
    browser = await world.browser()
    world.dashboard.memberships.away = True
    answer = await browser.get(MEMBERS)
    assert answer.status_code == 503
    assert "Not available just now" in answer.text
    assert JWT in browser.cookies


async def test_a_session_that_has_ended_elsewhere_ends_here(world: World) -> None:
    browser = await world.browser()
    world.backend.refuse = invalid_session()
    answer = await browser.get(MEMBERS)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?over=1")
    page = await browser.get("/sign-in?over=1")
    assert page.status_code == 200, "not led back, for ever"
    assert "Your session is over." in page.text


async def test_who_is_signed_in_is_led_on_from_signing_in(world: World) -> None:
    browser = await world.browser()
    answer = await browser.get("/sign-in?next=/settings/usage")
    assert (answer.status_code, answer.headers["location"]) == (303, "/settings/usage")
    assert (await world.dashboard.browser().get("/sign-in")).status_code == 200


@pytest.mark.parametrize("path", ["/sign-in/google", "/sign-in/callback", "/sign-in/link"])
async def test_head_of_what_changes_something_says_what_is_allowed(world: World, path: str) -> None:
    for accept in ("text/html", "*/*"):
        answer = await world.dashboard.browser().send("HEAD", path, {"Accept": accept})
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}, {"X-Moz": "prefetch"}],
    ids=lambda headers: next(iter(headers)),
)
async def test_what_is_fetched_beforehand_uses_up_no_link(world: World, headers: dict[str, str]) -> None:
    path, browser = link(world.clock), world.dashboard.browser()
    assert (await browser.send("GET", path, {**PAGE, **headers})).status_code == 400
    assert browser.cookies == {}
    assert JWT in (await in_by(world, path)).cookies


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_a_link_is_not_for_whoever_stands_behind_a_proxy(world: World, name: str) -> None:
    path, browser = link(world.clock), world.dashboard.browser()
    answer = await browser.send("GET", path, {**PAGE, name: "8.8.8.8"})
    assert (answer.headers["location"], browser.cookies) == ("/sign-in", {})
    assert JWT in (await in_by(world, path)).cookies


async def in_by(world: World, path: str) -> Browser:
    """A browser that has opened this link."""
    browser = world.dashboard.browser()
    await browser.get(path)
    return browser


async def test_a_browser_is_refused_by_a_page_and_a_program_in_the_contracts_shape(world: World) -> None:
    browser = await world.browser()
    for path, status, title in (
        ("/sign-out", 405, "That cannot be done here"),
        ("/session/refresh", 405, "That cannot be done here"),
        ("/settings/nothing", 404, "There is nothing here"),
    ):
        page = await browser.get(path)
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert title in page.text
        data = await browser.send("GET", path, DATA)
        assert (data.status_code, data.headers["content-type"]) == (status, "application/json")
        for answer in (page, data):
            assert ("POST" in answer.headers.get("allow", "")) is (status == 405)


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ("/settings/", "/settings"),
        ("/settings/api-keys/?status=active", "/settings/api-keys?status=active"),
        ("/settings//usage//", "/settings/usage"),
        ("//evil.example/", "/evil.example"),
        ("/%5Cevil.example/", "/%5Cevil.example"),
        ("//", "/"),
    ],
)
async def test_a_slash_too_many_leads_to_the_address_proper(world: World, asked: str, place: str) -> None:
    for method in ("GET", "HEAD"):
        answer = await world.dashboard.browser().send(method, f"http://127.0.0.1:8400{asked}", PAGE)
        assert (answer.status_code, answer.headers["location"]) == (307, place)
    program = await world.dashboard.browser().send("GET", f"http://127.0.0.1:8400{asked}", DATA)
    assert program.status_code == 404 or asked == "//"


async def test_settings_begin_with_the_keys(world: World) -> None:
    answer = await (await world.browser()).get("/settings")
    assert (answer.status_code, answer.headers["location"]) == (303, "/settings/api-keys")


@pytest.mark.parametrize("host", ["localhost:8400", "[::1]:8400", "127.0.0.2:8400"])
async def test_this_machine_by_another_name_leads_to_the_address_where_writes_count(
    world: World, host: str
) -> None:
    browser = world.dashboard.browser()
    answer = await browser.get("/settings/usage?range=7d", Host=host)
    assert (answer.status_code, answer.headers["location"]) == (
        307, "http://127.0.0.1:8400/settings/usage?range=7d",
    )  # fmt: skip
    # what services ask for is told under any name
    for path in ("/healthz", "/.well-known/jwks.json"):
        assert (await browser.send("GET", path, {"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:8400", "keys.example:8400", "localhost:9000", "localhost:x", ""])
async def test_another_machines_name_may_be_a_proxys(world: World, host: str) -> None:
    answer = await world.dashboard.browser().get("/sign-in", Host=host)
    assert answer.status_code == 200


async def test_an_invitation_says_what_it_is_before_the_sign_in_and_to_who_is_in_already(
    world: World,
) -> None:
    browser = await world.browser()
    made = await browser.post(f"{MEMBERS}/invitations", {"role": "viewer", "note": "Grace"}, **PART)
    token = made.text.partition("/invitations/")[2].partition("<")[0]
    page = (await browser.get(f"/invitations/{token}")).text
    assert "already" in page
    assert "/accept" not in page
    assert f'value="{world.workspace}"' in page
    guest = world.dashboard.browser()
    led = (await guest.get(f"/invitations/{token}")).headers["location"]
    assert led == f"/sign-in?next=/invitations/{token}"

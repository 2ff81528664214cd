"""Sessions as browsers have them: begun by a one-time link, renewed, stolen, ended, erased."""

from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from keyledger.clock import SECOND
from services.dashboard.domain import login_link
from services.dashboard.domain.session import ABSOLUTE, IDLE
from tests.support.clock import ManualClock
from tests.support.dashboard import JWT, LOCAL, REFRESH, SECRET, SIGNED_OUT, Browser, Dashboard, in_memory
from tests.support.memory_accounts import MemoryAccounts
from tests.support.tokens import claims, header, unsigned, with_none

PAGE = "/workspaces/menu"
"""Any page; without the key service it is refused, but to somebody who is signed in."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def accounts() -> MemoryAccounts:
    return MemoryAccounts()


@pytest.fixture
async def dashboard(clock: ManualClock, accounts: MemoryAccounts) -> AsyncIterator[Dashboard]:
    async with in_memory(clock, accounts) as running:
        yield running


_LINKS = iter(range(10**6))


def link(clock: ManualClock) -> str:
    """The path of a new one-time link."""
    token = login_link.make(SECRET, random_hex=f"{next(_LINKS):032x}", now_seconds=clock.now() // SECOND)
    return f"{login_link.PATH}?token={token.reveal()}"


async def signed_in(dashboard: Dashboard, clock: ManualClock) -> Browser:
    """A browser of the local user."""
    browser = dashboard.browser()
    assert (await browser.get(link(clock))).status_code == 303
    return browser


async def is_in(browser: Browser) -> bool:
    """Whether the dashboard takes this browser for somebody: it then asks the key service, which is away."""
    answer = await browser.send("GET", PAGE, {"HX-Request": "true"})
    assert answer.status_code in (401, 503), answer.status_code
    return answer.status_code == 503


async def test_a_link_signs_in_once_and_leads_away_from_its_address(
    dashboard: Dashboard, clock: ManualClock
) -> None:
    browser, path = dashboard.browser(), link(clock)
    answer = await browser.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert await is_in(browser)
    other = dashboard.browser()
    assert (await other.get(path)).status_code == 403
    assert other.cookies == {}


async def test_cookies_are_for_this_host_alone_and_no_script(
    dashboard: Dashboard, clock: ManualClock
) -> None:
    browser = await signed_in(dashboard, clock)
    for name in (JWT, REFRESH):
        attributes = {part.strip() for part in browser.set[name].split(";")[1:]}
        assert {"HttpOnly", "Secure", "Path=/", "SameSite=Lax"} <= attributes
        assert not any(part.lower().startswith("domain") for part in attributes)
    told = claims(browser.cookies[JWT])
    assert (told["iss"], told["aud"], told["exp"] - told["iat"]) == (LOCAL, "keyledger", 600)
    assert told["role"] == "owner"
    assert header(browser.cookies[JWT]).keys() == {"alg", "kid", "typ"}


async def test_head_uses_up_no_link_and_shows_nothing(dashboard: Dashboard, clock: ManualClock) -> None:
    path = link(clock)
    answer = await dashboard.browser().send("HEAD", path, {})
    assert (answer.status_code, answer.content, answer.headers["allow"]) == (405, b"", "GET")
    assert (await dashboard.browser().get(path)).status_code == 303
    anybody = await dashboard.browser().send("HEAD", "/settings/api-keys", {"Accept": "text/html"})
    assert (anybody.status_code, anybody.headers["location"]) == (303, "/sign-in?next=/settings/api-keys")


async def test_a_link_is_over_after_five_minutes_and_for_this_machine_alone(
    dashboard: Dashboard, clock: ManualClock
) -> None:
    early = link(clock)
    clock.advance(300)
    assert (await dashboard.browser().get(early)).status_code == 403
    elsewhere = dashboard.browser(peer="192.0.2.7")
    answer = await elsewhere.get(link(clock))
    assert (answer.headers["location"], elsewhere.cookies) == ("/sign-in", {})


async def test_the_first_sign_in_makes_a_workspace_and_the_second_finds_it(
    dashboard: Dashboard, clock: ManualClock
) -> None:
    first = claims((await signed_in(dashboard, clock)).cookies[JWT])
    second = claims((await signed_in(dashboard, clock)).cookies[JWT])
    assert dashboard.memberships.members == {first["ws"]: {first["sub"]: "owner"}}
    assert (second["sub"], second["ws"]) == (first["sub"], first["ws"])
    assert second["sid"] != first["sid"]


async def test_a_key_service_that_is_away_keeps_nobody_out(dashboard: Dashboard, clock: ManualClock) -> None:
    dashboard.memberships.away = True
    browser = await signed_in(dashboard, clock)
    assert "ws" not in claims(browser.cookies[JWT])
    answer = await browser.get("/settings/api-keys")
    assert (answer.status_code, answer.headers["location"]) == (303, "/workspaces")


async def test_a_session_is_renewed_by_its_refresh_token(dashboard: Dashboard, clock: ManualClock) -> None:
    browser = await signed_in(dashboard, clock)
    before = dict(browser.cookies)
    clock.advance(700)
    assert not await is_in(browser)
    answer = await browser.post("/session/refresh")
    assert answer.json() == {"seconds_left": 600}
    assert await is_in(browser)
    assert browser.cookies[REFRESH] != before[REFRESH]
    assert claims(browser.cookies[JWT])["sid"] == claims(before[JWT])["sid"]


async def test_an_old_refresh_token_ends_the_whole_family(dashboard: Dashboard, clock: ManualClock) -> None:
    browser = await signed_in(dashboard, clock)
    session_id = claims(browser.cookies[JWT])["sid"]
    thief = dashboard.browser()
    thief.cookies = dict(browser.cookies)
    assert (await browser.post("/session/refresh")).status_code == 200
    assert (await thief.post("/session/refresh")).status_code == 401
    assert not await is_in(browser)
    assert (await browser.post("/session/refresh")).status_code == 401
    assert dashboard.memberships.ended == [session_id]


async def test_a_token_of_a_family_with_another_secret_ends_it_and_a_made_up_one_nothing(
    dashboard: Dashboard, clock: ManualClock
) -> None:
    browser, other = await signed_in(dashboard, clock), dashboard.browser()
    for made_up in ("klr_" + "0" * 64, "klr_", "x", "klr_" + "é" * 64):
        other.cookies = {REFRESH: quote(made_up)}
        assert (await other.post("/session/refresh")).status_code == 401
    assert await is_in(browser)
    other.cookies = {REFRESH: browser.cookies[REFRESH][:-4] + "0000"}
    assert other.cookies != browser.cookies
    assert (await other.post("/session/refresh")).status_code == 401
    assert not await is_in(browser)


@pytest.mark.parametrize("seconds", [IDLE // SECOND, ABSOLUTE // SECOND])
async def test_a_session_that_was_left_alone_is_over(
    dashboard: Dashboard, clock: ManualClock, seconds: int
) -> None:
    browser = await signed_in(dashboard, clock)
    clock.advance(seconds)
    assert (await browser.post("/session/refresh")).status_code == 401
    assert browser.cookies == {}


async def test_use_does_not_keep_a_session_for_ever(dashboard: Dashboard, clock: ManualClock) -> None:
    browser, began = await signed_in(dashboard, clock), clock.now()
    while clock.now() < began + ABSOLUTE - IDLE // 2:
        clock.advance(IDLE // 2 / SECOND)
        assert (await browser.post("/session/refresh")).status_code in (200, 401)
    clock.set_wall(began + ABSOLUTE)
    assert (await browser.post("/session/refresh")).status_code == 401
    assert not await is_in(browser)


async def test_a_sign_in_ends_the_session_that_the_browser_had(
    dashboard: Dashboard, clock: ManualClock
) -> None:
    """Somebody who put their own session into it (fixation) is not in the new one."""
    attacker = await signed_in(dashboard, clock)
    victim = dashboard.browser()
    victim.cookies = dict(attacker.cookies)
    assert (await victim.get(link(clock))).status_code == 303
    assert await is_in(victim)
    assert victim.cookies[REFRESH] != attacker.cookies[REFRESH]
    assert not await is_in(attacker)


async def test_signing_out_ends_it_here_and_at_the_key_service(
    dashboard: Dashboard, clock: ManualClock
) -> None:
    browser = await signed_in(dashboard, clock)
    copy = dashboard.browser()
    copy.cookies = dict(browser.cookies)
    answer = await browser.post("/sign-out")
    assert (answer.status_code, answer.headers["hx-redirect"]) == (204, "/sign-in")
    assert browser.cookies == {SIGNED_OUT: "1"}
    assert not await is_in(copy)
    assert dashboard.memberships.ended == [claims(copy.cookies[JWT])["sid"]]
    assert (await copy.post("/session/refresh")).status_code == 401


@pytest.mark.parametrize("kept", [JWT, REFRESH])
async def test_one_of_the_two_cookies_is_enough_to_sign_out(
    dashboard: Dashboard, clock: ManualClock, kept: str
) -> None:
    browser = await signed_in(dashboard, clock)
    copy = dashboard.browser()
    copy.cookies = dict(browser.cookies)
    browser.cookies = {kept: browser.cookies[kept]}
    await browser.post("/sign-out")
    assert not await is_in(copy)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Keyledger-Request": "1", "Sec-Fetch-Site": "cross-site"},
        {"X-Keyledger-Request": "1", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-origin"},
    ],
)
@pytest.mark.parametrize("path", ["/sign-out", "/session/refresh", "/session/switch", "/account/erase"])
async def test_a_write_of_another_site_changes_nothing(
    dashboard: Dashboard, clock: ManualClock, path: str, headers: dict[str, str]
) -> None:
    browser = await signed_in(dashboard, clock)
    before = dict(browser.cookies)
    answer = await browser.send("POST", path, headers)
    assert answer.status_code == 403
    # what belongs to a page is refused by a page
    assert path == "/account/erase" or answer.json()["error"] == "cross_site"
    assert browser.cookies == before
    assert await is_in(browser)


async def test_a_cookie_that_was_tampered_with_is_nobodys(dashboard: Dashboard, clock: ManualClock) -> None:
    browser = await signed_in(dashboard, clock)
    good = browser.cookies[JWT]
    head, body, signature = good.split(".")
    forged = claims(good) | {"sub": "user_" + "2" * 22}
    for bad in (
        f"{head}.{unsigned({}, forged).split('.')[1]}.{signature}",
        f"{head}.{body}.{signature[:-4]}AAAA",
        with_none(claims(good), kid=header(good)["kid"]),
        f"{head}.{body}.",
        good + "x",
        "x" * 5000,
        "",
    ):
        browser.cookies = {JWT: bad}
        assert not await is_in(browser), bad
    browser.cookies = {JWT: good}
    assert await is_in(browser)


async def test_an_expired_page_goes_on_with_its_refresh_token(
    dashboard: Dashboard, clock: ManualClock
) -> None:
    browser = await signed_in(dashboard, clock)
    browser.cookies.pop(JWT)
    page = await browser.get("/settings/usage?granularity=day")
    assert page.status_code == 200
    assert 'data-renew="/sign-in?next=/settings/usage%3Fgranularity%3Dday"' in page.text
    part = await browser.send("GET", PAGE, {"HX-Request": "true"})
    assert (part.status_code, part.headers["hx-refresh"]) == (401, "true")
    browser.cookies = {}
    assert (await browser.get("/settings/usage")).headers["location"] == "/sign-in?next=/settings/usage"
    part = await browser.send("GET", PAGE, {"HX-Request": "true"})
    assert (part.status_code, part.headers["hx-redirect"]) == (401, "/sign-in")
    data = await browser.send("GET", PAGE, {"Accept": "application/json", "Sec-Fetch-Dest": "empty"})
    assert (data.status_code, data.json()["error"]) == (401, "signed_out")


async def test_switching_asks_whether_one_is_a_member(dashboard: Dashboard, clock: ManualClock) -> None:
    browser = await signed_in(dashboard, clock)
    user, before = claims(browser.cookies[JWT])["sub"], browser.cookies[REFRESH]
    foreign, second = "ws_" + "1" * 22, "ws_" + "2" * 22
    dashboard.memberships.members |= {foreign: {"user_x": "owner"}, second: {user: "viewer"}}
    assert (await browser.post("/session/switch", {"workspace": foreign})).status_code == 404
    assert (await browser.post("/session/switch", {"workspace": "ws_x"})).status_code == 400
    answer = await browser.post("/session/switch", {"workspace": second})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (204, "/settings/api-keys")
    told = claims(browser.cookies[JWT])
    assert (told["ws"], told["role"]) == (second, "viewer")
    assert browser.cookies[REFRESH] == before
    assert claims((await signed_in(dashboard, clock)).cookies[JWT])["ws"] == second


async def test_a_renewal_keeps_the_role_of_now(
    dashboard: Dashboard, clock: ManualClock, accounts: MemoryAccounts
) -> None:
    browser = await signed_in(dashboard, clock)
    told = claims(browser.cookies[JWT])
    dashboard.memberships.members[told["ws"]][told["sub"]] = "viewer"
    await browser.post("/session/refresh")
    assert claims(browser.cookies[JWT])["role"] == "viewer"
    assert accounts.sessions[told["sid"]].role == "viewer"


async def test_who_is_no_member_any_more_is_led_out_at_the_renewal(
    dashboard: Dashboard, clock: ManualClock
) -> None:
    browser = await signed_in(dashboard, clock)
    dashboard.memberships.members = {}
    await browser.post("/session/refresh")
    assert "ws" not in claims(browser.cookies[JWT])


async def test_a_key_service_that_is_away_at_the_end_is_told_later(
    dashboard: Dashboard, clock: ManualClock, accounts: MemoryAccounts
) -> None:
    browser = await signed_in(dashboard, clock)
    told = claims(browser.cookies[JWT])
    dashboard.memberships.away = True
    assert (await browser.post("/sign-out")).status_code == 204
    assert dashboard.memberships.ended == []
    assert list(accounts.tell) == [told["sid"]]
    assert accounts.tell[told["sid"]] >= (told["exp"] + 30) * SECOND


async def test_an_erased_person_is_out_and_nobody(
    dashboard: Dashboard, clock: ManualClock, accounts: MemoryAccounts
) -> None:
    browser = await signed_in(dashboard, clock)
    user = claims(browser.cookies[JWT])["sub"]
    other = await signed_in(dashboard, clock)
    answer = await browser.post("/account/erase", {"confirm": "erase"})
    assert (answer.status_code, browser.cookies) == (204, {})
    assert not await is_in(other)
    assert (accounts.persons[user].name, accounts.persons[user].mail) == (None, None)
    assert len(dashboard.memberships.ended) == 2
    assert claims((await signed_in(dashboard, clock)).cookies[JWT])["sub"] != user


async def test_every_answer_says_what_a_browser_may_do(dashboard: Dashboard) -> None:
    for path in ("/sign-in", "/healthz", "/nothing", "/static/nothing.js", "/.well-known/jwks.json", "/a//b"):
        answer = await dashboard.browser().get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"

"""Sign-in with a provider over real HTTP, on Postgres: who is let in, and which tokens and answers not."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from keyledger.clock import SystemClock
from tests.support.accounts_postgres import prepare
from tests.support.asgi_server import serving
from tests.support.clock import ManualClock
from tests.support.dashboard import ATTEMPT, JWT, PUBLIC, REFRESH, Browser, Dashboard, on_postgres
from tests.support.forging_provider import Forge, ForgingProvider, claiming, honest
from tests.support.tokens import RsaKey, claims, with_hmac, with_none


@pytest.fixture
async def provider() -> AsyncIterator[ForgingProvider]:
    made = ForgingProvider()
    async with serving(made) as url:
        made.issuer = url
        yield made


@pytest.fixture
async def dashboard(database: str, provider: ForgingProvider) -> AsyncIterator[Dashboard]:
    async with on_postgres(await prepare(database), SystemClock(), issuer=provider.issuer) as running:
        yield running


async def started(browser: Browser, path: str = "/sign-in/google") -> dict[str, str]:
    """Go to the provider and be sent back; what the callback is told."""
    answer = await browser.get(path)
    assert answer.status_code == 302
    async with httpx2.AsyncClient() as outside:
        back = await outside.get(answer.headers["location"])
    place = urlsplit(back.headers["location"])
    assert f"{place.scheme}://{place.netloc}{place.path}" == f"{PUBLIC}/sign-in/callback"
    return {name: values[0] for name, values in parse_qs(place.query).items()}


async def finished(browser: Browser, told: dict[str, str]) -> httpx2.Response:
    """Come back with this."""
    return await browser.get(f"/sign-in/callback?{httpx2.QueryParams(told)}")


async def test_who_the_provider_knows_comes_in_where_they_wanted_to(
    dashboard: Dashboard, provider: ForgingProvider
) -> None:
    browser = dashboard.browser()
    told = await started(browser, "/sign-in/google?next=/settings/usage")
    assert provider.asked["code_challenge_method"] == "S256"
    assert ATTEMPT in browser.cookies
    answer = await finished(browser, told)
    assert (answer.status_code, answer.headers["location"]) == (303, "/settings/usage")
    assert browser.cookies.keys() == {JWT, REFRESH}
    token = claims(browser.cookies[JWT])
    assert (token["iss"], token["sub"][:5]) == (PUBLIC, "user_")
    assert dashboard.memberships.members == {}
    again = dashboard.browser()
    await finished(again, await started(again))
    assert claims(again.cookies[JWT])["sub"] == token["sub"]
    assert (await browser.post("/session/refresh")).status_code == 200


async def test_another_subject_with_the_same_mail_is_another_user(
    dashboard: Dashboard, provider: ForgingProvider
) -> None:
    users: list[str] = []
    for subject in ("one", "two"):
        provider.forge, browser = claiming(sub=subject), dashboard.browser()
        await finished(browser, await started(browser))
        users.append(claims(browser.cookies[JWT])["sub"])
    assert users[0] != users[1]


def unknown_key(provider: ForgingProvider, told: dict[str, Any]) -> str:
    """Signed by a key that is not published, under the id of one that is."""
    return RsaKey(provider.key.kid).sign(told)


FORGERIES: dict[str, Forge] = {
    "another key under its id": unknown_key,
    "a key that is not published": lambda _, told: RsaKey("other").sign(told),
    "a key of its own": lambda _, told: _with_own_key(told),
    "the address of a key": lambda provider, told: provider.key.sign(told, jku="https://evil.example/jwks"),
    "no signature": lambda provider, told: with_none(told, kid=provider.key.kid),
    "the public key as a secret": lambda provider, told: with_hmac(
        provider.key.pem, told, kid=provider.key.kid
    ),
    "our secret as a key": lambda provider, told: with_hmac(
        b"a secret that only the tests know, and long enough", told, kid=provider.key.kid
    ),
    "changed after it was signed": lambda provider, told: _changed(provider.key.sign(told)),
    "nothing like a token": lambda _provider, _told: "x.y.z",
    "endless": lambda _provider, _told: "x" * 20_000,
    "expired": claiming(exp=1),
    "issued long ago": claiming(iat=1),
    "another audience": claiming(aud="somebody-else"),
    "another issuer": claiming(iss="https://evil.example"),
    "another nonce": claiming(nonce="other"),
    "no nonce": claiming(nonce=None),
    "no subject": claiming(sub=None),
    "an unverified mail": claiming(email_verified=False),
    "no word on the mail": claiming(email_verified=None),
}


def _with_own_key(told: dict[str, Any]) -> str:
    key = RsaKey("mine")
    return key.sign(told, jwk=key.jwk)


def _changed(token: str) -> str:
    head, body, signature = token.split(".")
    return f"{head}.{body[:-2]}{'AA' if not body.endswith('AA') else 'BB'}.{signature}"


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_forged_token_lets_nobody_in(
    dashboard: Dashboard, provider: ForgingProvider, forge: Forge
) -> None:
    provider.forge, browser = forge, dashboard.browser()
    answer = await finished(browser, await started(browser))
    assert answer.status_code == 403
    assert provider.exchanged == 1
    assert browser.cookies == {}
    provider.forge = honest
    assert (await finished(browser, await started(browser))).status_code == 303


@pytest.mark.parametrize(
    "changed",
    [{"state": "other"}, {"state": ""}, {"iss": "https://evil.example"}, {"iss": ""}, {"code": ""},
     {"error": "access_denied"}],
    ids=["state", "no state", "issuer", "no issuer", "no code", "cancelled"],
)  # fmt: skip
async def test_an_answer_that_was_tampered_with_lets_nobody_in(
    dashboard: Dashboard, provider: ForgingProvider, changed: dict[str, str]
) -> None:
    browser = dashboard.browser()
    told = {name: value for name, value in ((await started(browser)) | changed).items() if value}
    assert (await finished(browser, told)).status_code == 403
    assert (browser.cookies, provider.exchanged) == ({}, 0)


async def test_an_answer_is_good_once(dashboard: Dashboard, provider: ForgingProvider) -> None:
    browser = dashboard.browser()
    told = await started(browser)
    kept = dict(browser.cookies)
    assert (await finished(browser, told)).status_code == 303
    thief = dashboard.browser()
    thief.cookies = kept
    assert (await finished(thief, told)).status_code == 403
    assert (thief.cookies, provider.exchanged) == ({}, 1)


async def test_an_answer_is_good_in_the_browser_that_asked(
    dashboard: Dashboard, provider: ForgingProvider
) -> None:
    """Who is led to somebody else's answer is not signed in as them."""
    attacker, victim, half_way = dashboard.browser(), dashboard.browser(), dashboard.browser()
    told = await started(attacker)
    assert (await finished(victim, told)).status_code == 403
    await started(half_way)
    assert (await finished(half_way, told)).status_code == 403
    assert (victim.cookies, half_way.cookies, provider.exchanged) == ({}, {}, 0)


async def test_a_code_is_worth_nothing_with_another_verifier(
    dashboard: Dashboard, provider: ForgingProvider
) -> None:
    attacker, victim = dashboard.browser(), dashboard.browser()
    stolen = (await started(victim))["code"]
    told = (await started(attacker)) | {"code": stolen}
    assert (await finished(attacker, told)).status_code == 403
    assert (attacker.cookies, provider.exchanged) == ({}, 0)


async def test_head_uses_up_nothing(dashboard: Dashboard, provider: ForgingProvider) -> None:
    browser = dashboard.browser()
    told = await started(browser)
    path = f"/sign-in/callback?{httpx2.QueryParams(told)}"
    assert (await browser.send("HEAD", path, {})).status_code == 405
    assert (await finished(browser, told)).status_code == 303
    assert provider.exchanged == 1


TOLD: dict[str, Any] = {
    "sub": "forged-ada", "email": "ada@example.com", "email_verified": True, "name": "Ada of UserInfo",
}  # fmt: skip


async def by_user_info(database: str, provider: ForgingProvider, status: int, told: Any) -> tuple[int, str]:
    """The status of a sign-in with a token that says nothing of mail and name; and the account's page."""
    provider.user_info = (status, told)
    provider.forge = claiming(email=None, email_verified=None, name=None)
    async with on_postgres(await prepare(database), SystemClock(), issuer=provider.issuer) as dashboard:
        browser = dashboard.browser()
        answer = await finished(browser, await started(browser))
        shown = await browser.get("/account") if JWT in browser.cookies else answer
        return answer.status_code, shown.text


async def test_who_a_conforming_provider_tells_of_by_user_info_comes_in(
    database: str, provider: ForgingProvider
) -> None:
    status, page = await by_user_info(database, provider, 200, TOLD)
    assert status == 303
    assert provider.introduced == "Bearer opaque"
    assert "Ada of UserInfo" in page
    assert "ada@example.com" in page


@pytest.mark.parametrize(
    ("status", "told", "expected", "said"),
    [
        (200, TOLD | {"sub": "somebody-else"}, 403, "Please start again."),
        (200, {"email_verified": True}, 403, "Please start again."),
        (200, ["email_verified"], 403, "Please start again."),
        (401, TOLD, 403, "Please start again."),
        (200, TOLD | {"email_verified": False}, 403, "has not verified your mail address"),
        (200, TOLD | {"email_verified": "true"}, 403, "has not verified your mail address"),
        (200, {"sub": "forged-ada"}, 403, "does not say whether your mail address is verified"),
        (503, TOLD, 503, "Not available just now"),
    ],
    ids=["somebody else", "nobody", "a list", "refused", "unverified", "a word", "silent", "away"],
)
async def test_a_wrong_user_info_lets_nobody_in(
    database: str, provider: ForgingProvider, status: int, told: Any, expected: int, said: str
) -> None:
    found, page = await by_user_info(database, provider, status, told)
    assert found == expected
    assert said in page


async def test_after_a_sign_out_the_provider_asks_who_it_is(
    dashboard: Dashboard, provider: ForgingProvider
) -> None:
    browser = dashboard.browser()
    for _ in range(2):
        await finished(browser, await started(browser))
        assert "prompt" not in provider.asked
    await browser.post("/sign-out")
    told = await started(browser)
    assert provider.asked["prompt"] == "login"
    assert (await finished(browser, told | {"error": "invalid_request"})).status_code == 403
    # one that does not let itself be told is not told again
    told = await started(browser)
    assert "prompt" not in provider.asked
    await finished(browser, told)
    assert browser.cookies.keys() == {JWT, REFRESH}
    await browser.post("/sign-out")
    await finished(browser, await started(browser))
    assert provider.asked["prompt"] == "login"
    assert browser.cookies.keys() == {JWT, REFRESH}
    await started(browser)
    assert "prompt" not in provider.asked


async def test_an_invitation_is_spoken_of_before_the_sign_in(dashboard: Dashboard) -> None:
    page = (await dashboard.browser().get("/sign-in?next=/invitations/abc")).text
    assert "You are invited to a workspace." in page
    assert "invited" not in (await dashboard.browser().get("/sign-in")).text


async def test_only_the_hosted_domain_comes_in(database: str, provider: ForgingProvider) -> None:
    dsn = await prepare(database)
    async with on_postgres(
        dsn, SystemClock(), issuer=provider.issuer, hosted_domain="example.com"
    ) as dashboard:
        browser = dashboard.browser()
        assert (await finished(browser, await started(browser))).status_code == 303
        provider.forge, other = claiming(hd="evil.example"), dashboard.browser()
        assert (await finished(other, await started(other))).status_code == 403


async def test_new_keys_of_the_provider_are_found_but_not_asked_for_all_the_time(
    database: str, provider: ForgingProvider
) -> None:
    clock = ManualClock(SystemClock().now())
    async with on_postgres(await prepare(database), clock, issuer=provider.issuer) as dashboard:
        statuses: list[int] = []
        for seconds, key in ((0, provider.key), (0, RsaKey("next")), (11, RsaKey("next"))):
            clock.advance(seconds)
            provider.key, browser = key, dashboard.browser()
            statuses.append((await finished(browser, await started(browser))).status_code)
    assert statuses == [303, 403, 303]


async def test_a_provider_that_is_away_or_not_itself_is_said_to_be_unavailable(database: str) -> None:
    dsn = await prepare(database)
    async with on_postgres(dsn, SystemClock(), issuer="http://127.0.0.1:9") as dashboard:
        assert (await dashboard.browser().get("/sign-in/google")).status_code == 503
    liar = ForgingProvider()
    async with serving(liar) as url:
        liar.issuer = "https://id.example"
        async with on_postgres(dsn, SystemClock(), issuer=url) as dashboard:
            assert (await dashboard.browser().get("/sign-in/google")).status_code == 503


async def test_with_a_provider_no_link_signs_in(dashboard: Dashboard) -> None:
    browser = dashboard.browser()
    answer = await browser.get("/sign-in/link?token=1.2.3")
    assert (answer.headers["location"], browser.cookies) == ("/sign-in", {})
    page = await browser.get("/sign-in?next=/settings/usage")
    assert f'href="{PUBLIC}/sign-in/google?next=/settings/usage"' in page.text

"""A session from sign-in to sign-out, and everything that a thief would try with it."""

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest
from playwright.async_api import expect

from tests.browser.conftest import Somebody
from tests.support import tokens
from tests.support.asgi_server import serving
from tests.support.browsing import REFRESH, SESSION, WRITES, Person, person
from tests.support.openid import Provider
from tests.support.system import System
from tests.support.tokens import RsaKey, decode, encode

KEYS = "/settings/api-keys"
MINUTE = 60


async def asks(system: System, token: str, service: str = "keys") -> httpx2.Response:
    """What a service answers to this JWT in its own workspace."""
    workspace = tokens.claims(token)["ws"]
    path = {"keys": f"/v1/workspaces/{workspace}/keys", "usage": f"/v1/workspaces/{workspace}/usage"}
    headers = {"Authorization": f"Bearer {token}"}
    return await system.http.get(system.url(service, path[service]), headers=headers)


async def arrived(somebody: Person) -> Person:
    """Ada with a workspace, at her keys."""
    await somebody.signs_in("ada")
    if "ws" not in await somebody.claims():
        await somebody.makes_workspace("Ada's")
    await somebody.goes_to(KEYS)
    return somebody


@pytest.fixture
async def ada(somebody: Somebody) -> AsyncIterator[Person]:
    """Somebody with a session of her own, which the test may end."""
    async with somebody() as found:
        yield await arrived(found)


@pytest.fixture(scope="module")
async def standing(somebody: Somebody) -> AsyncIterator[Person]:
    """Somebody whose session outlives every attack."""
    async with somebody() as found:
        yield await arrived(found)
        assert await is_in(found)


async def token_of(somebody: Person, name: str = SESSION) -> str:
    found = await somebody.cookie(name)
    assert found is not None
    return found


async def as_browser(
    house: System, somebody: Person, method: str, path: str, cookie: str | None = None, **headers: str
) -> httpx2.Response:
    """A request with the browser's cookies, or with these, that says what a browser could not."""
    own = f"{SESSION}={await token_of(somebody)}; {REFRESH}={await token_of(somebody, REFRESH)}"
    sent = {"Cookie": own if cookie is None else cookie, "Accept": "text/html"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    return await house.http.request(method, somebody.home + path, headers=sent)


async def set_cookie(somebody: Person, name: str, value: str) -> None:
    await somebody.context.add_cookies(
        [
            {
                "name": name, "value": value, "url": f"https://{urlsplit(somebody.home).hostname}/",
                "secure": True, "httpOnly": True, "sameSite": "Lax",
            }
        ]
    )  # fmt: skip


async def is_in(somebody: Person) -> bool:
    """Whether the dashboard shows them their keys, or leads them to signing in."""
    await somebody.goes_to(KEYS)
    keys = somebody.page.get_by_role("heading", level=1, name="API keys")
    await keys.or_(somebody.page.get_by_role("heading", level=1, name="Sign in")).wait_for()
    return urlsplit(somebody.page.url).path == KEYS


# --- what a session is


async def test_a_session_is_two_cookies_no_script_reads(standing: Person, house: System) -> None:
    cookies: dict[Any, Any] = {
        cookie.get("name"): cookie for cookie in await standing.context.cookies(standing.home)
    }
    for name in (SESSION, REFRESH):
        cookie = cookies[name]
        assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"], cookie["path"]) == (
            True, True, "Lax", "/",
        )  # fmt: skip
    assert await standing.page.evaluate("document.cookie") == ""
    jwt, refresh = await token_of(standing), await token_of(standing, REFRESH)
    stored = await standing.page.evaluate("JSON.stringify([localStorage, sessionStorage])")
    assert jwt not in stored
    assert refresh not in stored
    head, claims = tokens.header(jwt), tokens.claims(jwt)
    assert head["alg"] in {"ES256", "EdDSA"}
    assert head["typ"] == "JWT"
    assert set(head) == {"alg", "typ", "kid"}
    assert claims["exp"] - claims["iat"] == 10 * MINUTE
    assert (claims["iss"], claims["aud"]) == (standing.home, "keyledger")
    assert re.fullmatch(r"user_[0-9A-Za-z]{22}", claims["sub"])
    assert re.fullmatch(r"ses_[0-9A-Za-z]{22}", claims["sid"])
    assert "ada@example.com" not in json.dumps(claims)
    assert refresh.count(".") == 0
    jwks = (await house.http.get(f"{standing.home}/.well-known/jwks.json")).json()["keys"]
    assert head["kid"] in {key["kid"] for key in jwks}
    assert all("d" not in key for key in jwks)
    # neither is ever told in an answer's text
    assert jwt not in await standing.page.content()
    assert refresh not in await standing.page.content()


async def test_the_services_know_the_session(standing: Person, house: System) -> None:
    jwt = await token_of(standing)
    assert (await asks(house, jwt)).status_code == 200
    assert (await asks(house, jwt, "usage")).status_code == 200


async def test_a_session_is_renewed_while_a_page_is_opened(ada: Person) -> None:
    before, refresh = await ada.claims(), await token_of(ada, REFRESH)
    await ada.forgets_jwt()
    assert await is_in(ada)
    after = await ada.claims()
    assert (after["sid"], after["ws"], after["sub"]) == (before["sid"], before["ws"], before["sub"])
    assert after["jti"] != before["jti"]
    assert await token_of(ada, REFRESH) != refresh


async def test_what_was_typed_survives_a_session_that_ran_out_meanwhile(ada: Person, house: System) -> None:
    """As after a laptop's sleep: the form is open, the JWT's cookie is gone."""
    await ada.goes_to(f"{KEYS}/new")
    name = "typed before the sleep"
    await ada.page.get_by_label("Name", exact=True).fill(name)
    await ada.page.get_by_role("radio", name=re.compile("^Test")).check()
    refresh = await token_of(ada, REFRESH)
    await ada.forgets_jwt()
    await ada.page.get_by_role("button", name=re.compile("^Create")).click()
    await expect(ada.page.get_by_text("This key will not be shown again.")).to_be_visible()
    assert await token_of(ada, REFRESH) != refresh
    made = (await asks(house, await token_of(ada))).json()["keys"]
    assert [(key["name"], key["environment"]) for key in made if key["name"] == name] == [(name, "test")]
    # the refused request was the one that found it out
    ada.watch.errors.clear()


async def test_two_pages_renew_a_session_once(ada: Person) -> None:
    """Each of them with the same refresh token would look like a theft."""
    others = [await ada.context.new_page() for _ in range(3)]
    await ada.forgets_jwt()
    for page in others:
        await page.goto(ada.home + KEYS, wait_until="commit")
    for page in others:
        await expect(page.locator(".shell main h1")).to_be_visible()
    assert await is_in(ada)


async def test_a_new_sign_in_is_a_new_session(ada: Person, somebody: Somebody) -> None:
    first = await ada.claims()
    async with somebody() as again:
        await again.signs_in("ada")
        second = await again.claims()
    assert second["sub"] == first["sub"]
    assert second["sid"] != first["sid"]


# --- sign-out


async def test_signing_out_ends_it_everywhere_at_once(ada: Person, house: System) -> None:
    jwt, refresh = await token_of(ada), await token_of(ada, REFRESH)
    await ada.signs_out()
    assert await ada.cookie() is None
    assert await ada.cookie(REFRESH) is None
    for service in ("keys", "usage"):
        assert (await asks(house, jwt, service)).status_code == 401, service
    await set_cookie(ada, SESSION, jwt)
    await set_cookie(ada, REFRESH, refresh)
    assert not await is_in(ada)
    await ada.goes_to("/sign-in")
    await set_cookie(ada, REFRESH, refresh)
    assert (await ada.call("POST", "/session/refresh"))[0] == 401


async def test_signing_out_in_one_page_sends_the_others_away(ada: Person) -> None:
    other = await ada.context.new_page()
    await other.goto(ada.home + KEYS)
    await ada.signs_out()
    await other.reload()
    await expect(other).to_have_url(re.compile("/sign-in"))


# --- theft


async def test_an_old_refresh_token_ends_the_whole_session(
    ada: Person, house: System, somebody: Somebody
) -> None:
    stolen = await token_of(ada, REFRESH)
    assert (await ada.call("POST", "/session/refresh"))[0] in (200, 204)
    jwt = await token_of(ada)
    assert (await asks(house, jwt)).status_code == 200
    async with somebody() as thief:
        await thief.goes_to("/sign-in")
        await set_cookie(thief, REFRESH, stolen)
        assert (await thief.call("POST", "/session/refresh"))[0] == 401
        assert await thief.cookie() is None
    # whoever of the two is the thief: both are out
    assert (await asks(house, jwt)).status_code == 401
    assert (await asks(house, jwt, "usage")).status_code == 401
    assert not await is_in(ada)


async def test_cookies_planted_before_sign_in_are_worth_nothing_after_it(
    ada: Person, house: System, somebody: Somebody
) -> None:
    """Fixation: what an attacker knows beforehand never becomes the victim's session."""
    theirs = (await token_of(ada), await token_of(ada, REFRESH))
    async with somebody() as victim:
        await set_cookie(victim, REFRESH, theirs[1])
        await victim.goes_to("/sign-in/google")
        await victim.tells_the_provider("ben")
        await victim.page.wait_for_url(f"{victim.home}/**")
        claims = await victim.claims()
        assert claims["sub"] != tokens.claims(theirs[0])["sub"]
        assert claims["sid"] != tokens.claims(theirs[0])["sid"]
        assert await token_of(victim, REFRESH) != theirs[1]


FORGED: dict[str, Callable[[str], str]] = {
    "another user": lambda token: _with(token, sub="user_" + "1" * 22),
    "another workspace": lambda token: _with(token, ws="ws_" + "1" * 22),
    "another expiry": lambda token: _with(token, exp=4_000_000_000),
    "another signature": lambda token: token[:-6] + ("aaaaaa" if token[-6:] != "aaaaaa" else "bbbbbb"),
    "no signature": lambda token: token.rsplit(".", 1)[0] + ".",
    "alg none": lambda token: tokens.with_none(tokens.claims(token)),
    "alg none, in capitals": lambda token: tokens.with_none(tokens.claims(token), alg="NONE"),
    "alg none of a known key": lambda token: tokens.with_none(
        tokens.claims(token), kid=tokens.header(token)["kid"]
    ),
    "HS256 with an empty secret": lambda token: tokens.with_hmac(b"", tokens.claims(token)),
    "a stranger's key": lambda token: STRANGER.sign(tokens.claims(token), kid=tokens.header(token)["kid"]),
    "a stranger's key in the header": lambda token: STRANGER.sign(tokens.claims(token), jwk=STRANGER.jwk),
}
STRANGER = RsaKey("stranger")


def _with(token: str, **changed: Any) -> str:
    head, body, signature = token.split(".")
    return f"{head}.{encode(json.dumps(json.loads(decode(body)) | changed).encode())}.{signature}"


@pytest.mark.parametrize("name", FORGED)
async def test_a_forged_session_is_none(standing: Person, house: System, name: str) -> None:
    forged = FORGED[name](await token_of(standing))
    for service in ("keys", "usage"):
        assert (await asks(house, forged, service)).status_code == 401, service
    for method in ("GET", "HEAD"):
        answer = await as_browser(house, standing, method, KEYS, f"{SESSION}={forged}")
        assert answer.status_code == 303
        assert urlsplit(answer.headers["location"]).path == "/sign-in"


async def test_a_forged_session_takes_its_browser_to_signing_in(ada: Person) -> None:
    forged = FORGED["another user"](await token_of(ada))
    await ada.context.clear_cookies()
    await set_cookie(ada, SESSION, forged)
    assert not await is_in(ada)


async def test_a_session_signed_with_the_public_key_is_none(standing: Person, house: System) -> None:
    token = await token_of(standing)
    for key in (await house.http.get(f"{standing.home}/.well-known/jwks.json")).json()["keys"]:
        for secret in (json.dumps(key).encode(), decode(key["x"])):
            forged = tokens.with_hmac(secret, tokens.claims(token), kid=key["kid"])
            assert (await asks(house, forged)).status_code == 401


# --- other sites

OTHER_SITE = b"""<!doctype html><title>other</title>
<form method=post action="TARGET"><input name=workspace value=ws_1111111111111111111111></form>"""
_FETCH = """
([address, mode]) => fetch(address, {method: "POST", mode, credentials: "include"})
    .then((answer) => answer.type, () => "failed")
"""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["cross-site", "same-site"])
async def test_another_site_changes_nothing(standing: Person, host: str) -> None:
    """By a form, which sends the cookies of a page of the same site, or by a script."""

    async def other(scope: Any, receive: Any, send: Any) -> None:
        del receive
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        target = f"{standing.home}{scope['query_string'].decode()}"
        await send({"type": "http.response.body", "body": OTHER_SITE.replace(b"TARGET", target.encode())})

    refresh = await token_of(standing, REFRESH)
    async with serving(other) as url:
        site = url.replace("127.0.0.1", host)
        standing.watch.origins |= {site}
        lured = await standing.context.new_page()
        for path in ("/sign-out", "/session/switch", "/session/refresh", "/account/erase", KEYS):
            await lured.goto(f"{site}/?{path}")
            async with lured.expect_navigation() as sent:
                await lured.evaluate("document.forms[0].submit()")
            answer = await sent.value
            assert answer is not None
            assert answer.status == 403, path
            await lured.goto(f"{site}/?{path}")
            for mode in ("no-cors", "cors"):
                read = await lured.evaluate(_FETCH, [standing.home + path, mode])
                assert read in {"opaque", "failed"}, (path, mode)
        await lured.close()
    standing.watch.errors.clear()
    assert await token_of(standing, REFRESH) == refresh
    assert await is_in(standing)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1:1", **WRITES},
        {"Origin": "null", **WRITES},
        {"Sec-Fetch-Site": "cross-site", **WRITES},
        {"Sec-Fetch-Site": "same-site", **WRITES},
        {"Sec-Fetch-Site": "none", **WRITES},
        {"Sec-Fetch-Site": "same-origin"},
        WRITES,
    ],
    ids=lambda headers: " ".join(headers.values()) or "nothing",
)
async def test_a_write_says_where_it_comes_from(
    standing: Person, house: System, headers: dict[str, str]
) -> None:
    for path in ("/sign-out", "/session/switch", "/session/refresh", "/account/erase", "/workspaces", KEYS):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            answer = await as_browser(house, standing, method, path, **headers)
            # an address that takes no such method at all says so
            assert answer.status_code in ({403} if method == "POST" else {403, 405}), (method, path)
    assert (await as_browser(house, standing, "GET", KEYS)).status_code == 200


async def test_head_changes_nothing_and_is_asked_who_it_is(standing: Person, house: System) -> None:
    for path in ("/sign-out", "/session/refresh", "/session/switch"):
        answer = await as_browser(house, standing, "HEAD", path, **WRITES)
        assert answer.status_code in {404, 405}
        assert "set-cookie" not in answer.headers
    known = await as_browser(house, standing, "HEAD", KEYS)
    assert (known.status_code, known.content) == (200, b"")
    unknown = await as_browser(house, standing, "HEAD", KEYS, "")
    assert unknown.status_code == 303
    assert urlsplit(unknown.headers["location"]).path == "/sign-in"


async def test_a_session_comes_in_its_cookie_alone(standing: Person, house: System) -> None:
    """Nothing that a link or another program could set."""
    jwt = await token_of(standing)
    for headers, query in (({"Authorization": f"Bearer {jwt}"}, ""), ({}, f"?token={jwt}&{SESSION}={jwt}")):
        answer = await as_browser(house, standing, "GET", f"{KEYS}{query}", "", **headers)
        assert answer.status_code == 303
        assert urlsplit(answer.headers["location"]).path == "/sign-in"


# --- the provider


async def test_mail_and_name_may_be_told_by_user_info_alone(standing: Person) -> None:
    """The provider is of the conforming sort: its ID tokens say neither."""
    await standing.goes_to("/account")
    told = await standing.page.inner_text("main")
    assert "Ada Example" in told
    assert "ada@example.com" in told
    await standing.goes_to(KEYS)


async def test_after_a_sign_out_somebody_else_may_sign_in(ada: Person) -> None:
    first = await ada.claims()
    await ada.signs_out()
    await ada.page.get_by_role("link", name=re.compile("^Continue")).click()
    await ada.tells_the_provider("ben")
    await ada.page.wait_for_url(f"{ada.home}/**")
    assert (await ada.claims())["sub"] != first["sub"]


async def test_this_machine_by_another_name_leads_to_where_one_is_known(standing: Person) -> None:
    other = standing.home.replace("127.0.0.1", "localhost")
    standing.watch.origins |= {other}
    await standing.page.goto(f"{other}{KEYS}?status=active")
    assert standing.page.url == f"{standing.home}{KEYS}?status=active"


async def test_a_wrong_verifier_is_refused_by_the_provider(somebody: Somebody) -> None:
    """The challenge that the provider saw is not of the verifier that the dashboard kept."""
    async with somebody() as ada:
        begun = await ada.context.request.get(f"{ada.home}/sign-in/google", max_redirects=0)
        address = urlsplit(begun.headers["location"])
        asked = dict(parse_qsl(address.query)) | {"code_challenge": encode(bytes(32))}
        await ada.page.goto(address._replace(query=urlencode(asked)).geturl())
        await ada.tells_the_provider("ada")
        await ada.page.wait_for_url(f"{ada.home}/**")
        assert await ada.cookie() is None
        assert await ada.cookie(REFRESH) is None


async def test_a_code_is_taken_once(somebody: Somebody, provider: Provider) -> None:
    async with somebody() as ada:
        callbacks: list[str] = []
        ada.page.on(
            "request",
            lambda request: callbacks.append(request.url) if "/sign-in/callback" in request.url else None,
        )
        await ada.signs_in("ada")
        code = dict(parse_qsl(urlsplit(callbacks[0]).query))["code"]
        async with person(ada.context.browser or pytest.fail(), ada.home, provider.issuer) as thief:
            begun = await thief.context.request.get(f"{ada.home}/sign-in/google", max_redirects=0)
            state = dict(parse_qsl(urlsplit(begun.headers["location"]).query))["state"]
            query = urlencode({"code": code, "state": state, "iss": provider.issuer})
            answer = await thief.goes_to(f"/sign-in/callback?{query}")
            assert 400 <= answer.status < 500
            assert await thief.cookie() is None


@pytest.mark.parametrize("account", ["unverified", "outsider"])
async def test_who_may_not_come_in_stays_out(somebody: Somebody, account: str) -> None:
    async with somebody() as mallory:
        await mallory.goes_to("/sign-in/google")
        await mallory.tells_the_provider(account)
        await mallory.page.wait_for_url(f"{mallory.home}/**")
        assert await mallory.cookie() is None
        assert await mallory.cookie(REFRESH) is None

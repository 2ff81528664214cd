"""Sign-ins that must fail: ID tokens signed in the test, and callbacks that are not the browser's own."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Browser, expect

from tests.support import openid
from tests.support.asgi_server import free_port, serving
from tests.support.browsing import REFRESH, Person, person
from tests.support.forging_provider import Claims, Forge, ForgingProvider, claiming
from tests.support.openid import CLIENT_ID, CLIENT_SECRET
from tests.support.processes import Process
from tests.support.system import System
from tests.support.tokens import RsaKey, with_hmac, with_none

STRANGER = RsaKey()
OTHER = RsaKey("other")


@dataclass(frozen=True)
class Scene:
    """A dashboard beside the system's own, which signs in with the provider that lies."""

    home: str
    provider: ForgingProvider


@pytest.fixture(scope="module")
async def scene(house: System, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder, provider, port = tmp_path_factory.mktemp("forging"), ForgingProvider(), free_port()
    home = f"http://127.0.0.1:{port}"
    async with serving(provider) as issuer:
        provider.issuer = issuer
        own = {"KEYLEDGER_PORT": str(port), "KEYLEDGER_PUBLIC_URL": home, **openid.settings(issuer, folder)}
        argv, environment = house.started_as("dashboard")
        with Process(argv, log=folder / "dashboard.log", env=environment | own) as process:
            await process.wait_ready(f"{home}/readyz", within=20)
            yield Scene(home, provider)
            process.check_running()
            assert CLIENT_SECRET not in process.log.read_text()


@pytest.fixture(scope="module")
async def visitor(scene: Scene, browser: Browser) -> AsyncIterator[Person]:
    async with person(browser, scene.home, scene.provider.issuer) as somebody:
        yield somebody


@pytest.fixture
async def ada(scene: Scene, visitor: Person) -> AsyncIterator[Person]:
    """Somebody whose browser has kept nothing, and an honest provider."""
    scene.provider.reset()
    await visitor.context.clear_cookies()
    yield visitor
    visitor.watch.check()


async def is_out(somebody: Person) -> None:
    """No cookie of a session, and the page says what is wrong without what was wrong with the token."""
    assert await somebody.cookie() is None
    assert await somebody.cookie(REFRESH) is None
    await expect(somebody.page.get_by_role("heading", level=1)).to_have_text("You are not signed in")


async def test_an_honest_token_signs_in(scene: Scene, ada: Person) -> None:
    """Else the cases below would prove nothing."""
    await ada.goes_to("/sign-in/google")
    assert await ada.cookie() is not None
    assert await ada.cookie(REFRESH) is not None
    asked = scene.provider.asked
    assert asked["response_type"] == "code"
    assert asked["client_id"] == CLIENT_ID
    assert asked["code_challenge_method"] == "S256"
    assert {"openid", "email"} <= set(asked["scope"].split())
    assert min(len(asked["state"]), len(asked["nonce"]), len(asked["code_challenge"])) >= 22


def signed_with_the_public_key(provider: ForgingProvider, claims: Claims) -> str:
    return with_hmac(provider.key.pem, claims, kid=provider.key.kid)


def signed_with_the_client_secret(provider: ForgingProvider, claims: Claims) -> str:
    del provider
    return with_hmac(CLIENT_SECRET.encode(), claims)


def with_its_key_in_the_header(provider: ForgingProvider, claims: Claims) -> str:
    del provider
    return STRANGER.sign(claims, jwk=STRANGER.jwk)


def changed_after_signing(provider: ForgingProvider, claims: Claims) -> str:
    head, body, signature = provider.key.sign(claims).split(".")
    _, forged, _ = provider.key.sign(claims | {"sub": "somebody-else"}).split(".")
    assert body != forged
    return f"{head}.{forged}.{signature}"


FORGERIES: dict[str, Forge] = {
    "expired": claiming(exp=1_700_000_000, iat=1_699_999_000),
    "without an expiry": claiming(exp=None),
    "issued in the future": claiming(iat=4_000_000_000, exp=4_000_000_300),
    "for another audience": claiming(aud="somebody-else"),
    "for another audience besides": claiming(aud=[CLIENT_ID, "somebody-else"], azp="somebody-else"),
    "without an audience": claiming(aud=None),
    "of another issuer": claiming(iss="https://accounts.google.com"),
    "without an issuer": claiming(iss=None),
    "with another nonce": claiming(nonce="another"),
    "without a nonce": claiming(nonce=None),
    "without a subject": claiming(sub=None),
    "mail not verified": claiming(email_verified=False),
    "mail verified, it says in words": claiming(email_verified="false"),
    "nothing about the mail": claiming(email_verified=None),
    "of another domain": claiming(hd="elsewhere.example"),
    "of no domain": claiming(hd=None),
    "alg none": lambda _, claims: with_none(claims),
    "alg none, signed": lambda provider, claims: provider.key.sign(claims, alg="none"),
    "HS256 with the public key": signed_with_the_public_key,
    "HS256 with the client's secret": signed_with_the_client_secret,
    "by another key of the same name": lambda _, claims: STRANGER.sign(claims),
    "by a key that is not listed": lambda _, claims: OTHER.sign(claims),
    "by a key in its header": with_its_key_in_the_header,
    "by a key at an address in its header": lambda _, claims: STRANGER.sign(claims, jku="http://127.0.0.1:1/"),
    "changed after signing": changed_after_signing,
    "no token at all": lambda _, claims: claims["nonce"],
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_token_signs_nobody_in(scene: Scene, ada: Person, name: str) -> None:
    scene.provider.forge = FORGERIES[name]
    answer = await ada.goes_to("/sign-in/google")
    assert scene.provider.exchanged == 1, "it did not come as far as the token"
    assert 400 <= answer.status < 500
    await is_out(ada)


@pytest.mark.parametrize(
    "told",
    [
        {"state": "another"},
        {"state": ""},
        {"iss": "https://accounts.google.com"},
        {"code": ""},
        {"code": "guessed"},
        {"code": "", "error": "access_denied"},
    ],
    ids=str,
)
async def test_a_callback_with_something_else_signs_nobody_in(
    scene: Scene, ada: Person, told: dict[str, str]
) -> None:
    scene.provider.callback = told
    answer = await ada.goes_to("/sign-in/google")
    assert 400 <= answer.status < 500
    assert scene.provider.exchanged == 0
    await is_out(ada)


async def callback_of(somebody: Person) -> str:
    """Where the browser would be sent back to, without going there."""
    first = await somebody.context.request.get(f"{somebody.home}/sign-in/google", max_redirects=0)
    second = await somebody.context.request.get(first.headers["location"], max_redirects=0)
    return second.headers["location"]


async def test_a_callback_works_only_in_the_browser_that_began(
    scene: Scene, ada: Person, browser: Browser
) -> None:
    """Who can make somebody open their own callback would sign them in as themselves."""
    theirs = await callback_of(ada)
    async with person(browser, scene.home, scene.provider.issuer) as victim:
        answer = await victim.page.goto(theirs)
        assert answer is not None
        assert 400 <= answer.status < 500
        await is_out(victim)
        # and one who has begun a sign-in of their own
        await callback_of(victim)
        answer = await victim.page.goto(theirs)
        assert answer is not None
        assert 400 <= answer.status < 500
        await is_out(victim)
    assert scene.provider.exchanged == 0


async def test_a_callback_works_once(scene: Scene, ada: Person) -> None:
    address = await callback_of(ada)
    await ada.page.goto(address)
    assert await ada.cookie() is not None
    await ada.context.clear_cookies(name=REFRESH)
    await ada.forgets_jwt()
    answer = await ada.page.goto(address)
    assert answer is not None
    assert 400 <= answer.status < 500
    assert scene.provider.exchanged == 1
    await is_out(ada)


async def test_head_of_a_callback_signs_nobody_in(scene: Scene, ada: Person) -> None:
    """What looks at an address before its reader does must not use it up."""
    address = await callback_of(ada)
    answer = await ada.context.request.head(address, max_redirects=0)
    assert "set-cookie" not in answer.headers
    assert scene.provider.exchanged == 0


async def test_what_comes_after_is_a_page_of_the_dashboard(scene: Scene, ada: Person) -> None:
    """`next` leads nowhere else."""
    for elsewhere in ("https://example.org/", "//example.org/", "/\\example.org", "javascript:alert(1)"):
        await ada.page.goto(f"{ada.home}/sign-in/google", wait_until="commit")
        answer: Any = await ada.context.request.get(
            f"{ada.home}/sign-in/google", params={"next": elsewhere}, max_redirects=0
        )
        if answer.status >= 400:
            continue
        back = await ada.context.request.get(answer.headers["location"], max_redirects=0)
        landed = await ada.context.request.get(back.headers["location"], max_redirects=0)
        target = urlsplit(landed.headers.get("location", "/"))
        assert target.netloc in ("", urlsplit(scene.home).netloc), (elsewhere, target)
        assert not target.path.startswith(("//", "/\\")), (elsewhere, target)
        assert "example.org" not in parse_qs(target.query).get("next", [""])[0]

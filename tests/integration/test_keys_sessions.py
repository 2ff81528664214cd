"""Users' tokens at the key service: who is let in by one, and who is out from one moment to the next."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from keyledger.server import jwt
from keyledger.server.ids import new_id
from tests.support.issuing import EcKey, Issuer, SignedIn, issuing
from tests.support.keys import House, house, refused
from tests.support.servers import Servers
from tests.support.tokens import with_hmac, with_none
from tests.support.waiting import until

ALL = "/v1/workspaces"


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as found:
        yield found


@pytest.fixture(scope="module")
async def here(
    servers: Servers, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("home"), issuer.url) as found:
        yield found


@pytest.fixture
async def ada(here: House, issuer: Issuer) -> tuple[str, str]:
    """A user and a workspace of theirs."""
    user = new_id("user")
    made = await SignedIn(here.http, issuer.token(user)).ok("POST", ALL, {"name": "Acme"})
    return user, made["id"]


def forged(issuer: Issuer, user: str, ws: str) -> dict[str, str]:
    """Tokens that say they are this user's, each wrong in one way."""
    now, stranger = int(time.time()), EcKey(issuer.key.kid)
    claims = issuer.claims(user, ws)
    return {
        "expired": issuer.token(user, ws, iat=now - 700, exp=now - 31),
        "not yet": issuer.token(user, ws, iat=now + 60, exp=now + 600),
        "wrong audience": issuer.token(user, ws, aud="other"),
        "wrong issuer": issuer.token(user, ws, iss="http://evil.test"),
        "no session": issuer.token(user, ws, sid=None),
        "another's key": stranger.sign(claims),
        "a key of its own": stranger.sign(claims, jwk=stranger.jwk),
        "a set of its own": stranger.sign(claims, jku="http://evil.test/jwks.json"),
        "a certificate of its own": stranger.sign(claims, x5u="http://evil.test/cert.pem"),
        "nobody's signature": with_none(claims, kid=issuer.key.kid),
        "HS256 with the public key": with_hmac(issuer.key.pem, claims, kid=issuer.key.kid),
        "an unknown key": EcKey("unknown").sign(claims),
        "no type": issuer.key.sign(claims, typ="at+jwt"),
    }


async def test_a_forged_token_is_refused_and_nothing_is_told(
    here: House, issuer: Issuer, ada: tuple[str, str]
) -> None:
    user, ws = ada
    await SignedIn(here.http, issuer.token(user, ws)).ok("GET", f"{ALL}/{ws}")
    told: set[str] = set()
    for name, token in forged(issuer, user, ws).items():
        for method, path in (("GET", f"{ALL}/{ws}"), ("GET", ALL), ("POST", "/v1/session/end")):
            answer = await SignedIn(here.http, token)(method, path)
            assert answer.status_code == 401, name
            # RFC 6750, section 3
            assert answer.headers["www-authenticate"] == 'Bearer realm="keyledger", error="invalid_token"'
            told.add(refused(answer, 401, "invalid_api_key")["message"])
    assert told == {"The session token is not valid."}
    await SignedIn(here.http, issuer.token(user, ws)).ok("GET", f"{ALL}/{ws}")


async def test_a_role_in_the_token_says_nothing(here: House, issuer: Issuer, ada: tuple[str, str]) -> None:
    user, ws = new_id("user"), ada[1]
    await here.admin.ok("PUT", f"{ALL}/{ws}/members/{user}", {"role": "viewer"})
    token = issuer.token(user, ws, role="owner", scopes=["keyledger:admin"])
    answer = await SignedIn(here.http, token)("PATCH", f"{ALL}/{ws}", {"name": "Mine"})
    refused(answer, 403, "insufficient_permissions")


async def test_a_key_and_a_token_together_are_refused(
    here: House, issuer: Issuer, ada: tuple[str, str]
) -> None:
    token = issuer.token(*ada)
    both = await here.admin("GET", ALL, headers={"Authorization": f"Bearer {token}"})
    refused(both, 400, "invalid_request", "Authorization")
    # what is no session's token was never looked at beside a key
    for other in ("Bearer x", "Basic eDp5", "Bearer a.b"):
        assert (await here.admin("GET", ALL, headers={"Authorization": other})).status_code == 200
    refused(await here.nobody("GET", ALL, headers={"Authorization": "Bearer x"}), 401, "invalid_api_key")
    twice = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
    refused(await here.http.request("GET", ALL, headers=twice), 400, "invalid_request", "Authorization")
    spelled = await here.nobody("GET", ALL, headers={"Authorization": f"bearer   {token}"})
    assert spelled.status_code == 200


async def test_a_removed_member_is_out_at_once(here: House, issuer: Issuer, ada: tuple[str, str]) -> None:
    _, ws = ada
    user = new_id("user")
    at = f"{ALL}/{ws}/members/{user}"
    await here.admin.ok("PUT", at, {"role": "admin"})
    caller = SignedIn(here.http, issuer.token(user, ws))
    key = {"name": "k", "environment": "live"}
    await caller.ok("POST", f"{ALL}/{ws}/keys", key)
    await here.admin.ok("PUT", at, {"role": "viewer"})
    refused(await caller("POST", f"{ALL}/{ws}/keys", key), 403, "insufficient_permissions")
    await here.admin.ok("DELETE", at)
    refused(await caller("GET", f"{ALL}/{ws}/keys"), 404, "not_found")


async def test_an_ended_session_is_refused_at_once_and_others_go_on(
    here: House, issuer: Issuer, ada: tuple[str, str]
) -> None:
    user, ws = ada
    over, other = new_id("ses"), new_id("ses")
    tokens = [issuer.token(user, ws, sid=over), issuer.token(user, None, sid=over)]
    callers = [SignedIn(here.http, token) for token in tokens]
    for caller in callers:
        await caller.ok("GET", ALL)
    assert await callers[0].ok("POST", "/v1/session/end") == {"session": over}
    for caller in callers:
        refused(await caller("GET", ALL), 401, "invalid_api_key")
        refused(await caller("GET", f"{ALL}/{ws}"), 401, "invalid_api_key")
        question = {"workspace_id": ws, "scope": "keyledger:usage:read"}
        refused(await caller("POST", "/v1/authorize", question), 401, "invalid_api_key")
        # to end it again changes nothing
        assert await caller.ok("POST", "/v1/session/end", {}) == {"session": over}
    await SignedIn(here.http, issuer.token(user, ws, sid=other)).ok("GET", f"{ALL}/{ws}")


async def test_only_a_user_has_a_session_to_end(here: House, issuer: Issuer) -> None:
    refused(await here.admin("POST", "/v1/session/end"), 403, "insufficient_permissions")
    refused(await here.nobody("POST", "/v1/session/end"), 401, "missing_api_key")
    caller = SignedIn(here.http, issuer.token(new_id("user")))
    refused(await caller("POST", "/v1/session/end", {"all": True}), 400, "invalid_request", "all")


async def test_a_next_key_is_published_before_it_signs_and_an_old_one_after(
    here: House, issuer: Issuer, ada: tuple[str, str]
) -> None:
    """Ahead of time, the next key is found by the one look that is allowed for a name not known."""
    user, ws = ada
    first, second = issuer.key, EcKey(new_id("kid"))
    await SignedIn(here.http, issuer.token(user, ws)).ok("GET", f"{ALL}/{ws}")
    issuer.published.append(second.jwk)
    new = SignedIn(here.http, second.sign(issuer.claims(user, ws)))

    async def known() -> bool:
        return (await new("GET", f"{ALL}/{ws}")).status_code == 200

    await until(known, within=jwt.ASK_AGAIN + 5)
    await SignedIn(here.http, first.sign(issuer.claims(user, ws))).ok("GET", f"{ALL}/{ws}")


async def test_without_the_issuer_s_keys_users_are_told_to_wait_and_keys_go_on(
    servers: Servers, tmp_path: Path
) -> None:
    async with issuing() as issuer, house(servers, tmp_path / "home", issuer.url) as found:
        issuer.away = True
        caller = SignedIn(found.http, issuer.token(new_id("user")))
        answer = await caller("GET", ALL)
        refused(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "1"
        assert (await found.admin("GET", ALL)).status_code == 200
        issuer.away = False

        async def let_in() -> bool:
            return (await caller("GET", ALL)).status_code == 200

        await until(let_in)
        issuer.away = True
        assert (await caller("GET", ALL)).status_code == 200


async def test_without_an_issuer_there_are_no_users(servers: Servers, issuer: Issuer, tmp_path: Path) -> None:
    async with house(servers, tmp_path / "home") as found:
        asked = issuer.asked
        caller = SignedIn(found.http, issuer.token(new_id("user")))
        refused(await caller("GET", ALL), 401, "invalid_api_key")
        refused(await caller("POST", "/v1/session/end"), 401, "invalid_api_key")
        assert issuer.asked == asked
        beside = {"Authorization": f"Bearer {caller.token}"}
        assert (await found.admin("GET", ALL, headers=beside)).status_code == 200


async def test_tokens_are_told_nowhere(
    here: House, issuer: Issuer, ada: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    token = issuer.token(*ada)
    caller: Any = SignedIn(here.http, token)
    await caller("GET", ALL)
    await caller("GET", f"{ALL}/{ada[1]}/members/nobody")
    signature = token.rpartition(".")[2]
    assert signature not in caplog.text

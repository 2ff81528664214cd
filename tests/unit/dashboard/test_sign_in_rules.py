"""What an ID token and the provider's answer must say, and where a sign-in may lead."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from msgspec.structs import replace

from services.dashboard.domain.sign_in import (
    ATTEMPT,
    Attempt,
    Identity,
    Provider,
    SignInRefused,
    authorization_url,
    challenge,
    chooser,
    code_of,
    identity,
    safe_next,
    with_user_info,
)
from services.dashboard.domain.units import SECOND

NOW = 1_800_000_000 * SECOND
SECONDS = NOW // SECOND
PROVIDER = Provider("https://id.example", "https://id.example/auth", "us", names_issuer=True)
GOOGLE = Provider("https://accounts.google.com", "https://accounts.google.com/o", "us", "example.org")
ATTEMPTED = Attempt("state", "nonce", "verifier", "/", NOW + ATTEMPT)
ANSWER = {"state": "state", "code": "code", "iss": "https://id.example"}
TOKEN: dict[str, Any] = {
    "iss": "https://id.example", "aud": "us", "sub": "ada", "iat": SECONDS, "exp": SECONDS + 60,
    "nonce": "nonce", "email": "ada@example.org", "email_verified": True, "name": "Ada",
}  # fmt: skip


def reason(token: dict[str, Any], provider: Provider = PROVIDER) -> str:
    """Why this token is refused."""
    with pytest.raises(SignInRefused) as refused:
        identity(token, provider, "nonce", NOW)
    return refused.value.reason


def test_a_good_token_names_a_user() -> None:
    found = identity(TOKEN, PROVIDER, "nonce", NOW)
    assert found == Identity("https://id.example", "ada", "Ada", "ada@example.org")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"iss": "https://evil.example"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"iss": "https://id.example/"}, "issuer"),
        ({"aud": "them"}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": ["us", "them"]}, "authorized_party"),
        ({"aud": ["us", "them"], "azp": "them"}, "authorized_party"),
        ({"azp": "them"}, "authorized_party"),
        ({"exp": SECONDS}, "expired"),
        ({"exp": SECONDS - 1}, "expired"),
        ({"exp": None}, "expired"),
        ({"exp": True}, "expired"),
        ({"iat": SECONDS + 61}, "issued_at"),
        ({"iat": SECONDS - 3600}, "issued_at"),
        ({"iat": None}, "issued_at"),
        ({"nbf": SECONDS + 61}, "not_before"),
        ({"nonce": "other"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"sub": ""}, "subject"),
        ({"sub": 7}, "subject"),
        ({"sub": "x" * 256}, "subject"),
        ({"email_verified": False}, "mail_unverified"),
        ({"email_verified": "true"}, "mail_unverified"),
        ({"email_verified": None}, "mail_unverified"),
    ],
)
def test_a_token_with_a_wrong_claim_names_nobody(changed: dict[str, Any], why: str) -> None:
    assert reason(TOKEN | changed) == why


def test_several_audiences_are_right_when_the_token_is_for_us() -> None:
    assert identity(TOKEN | {"aud": ["us", "them"], "azp": "us"}, PROVIDER, "nonce", NOW).subject == "ada"


def test_google_spells_its_issuer_in_two_ways_and_a_user_is_the_same() -> None:
    for spelling in ("https://accounts.google.com", "accounts.google.com"):
        token = TOKEN | {"iss": spelling, "hd": "example.org"}
        assert identity(token, GOOGLE, "nonce", NOW).issuer == "https://accounts.google.com"
    assert reason(TOKEN | {"iss": "accounts.google.com"}) == "issuer"


def test_a_token_that_says_nothing_of_the_mail_is_not_called_unverified() -> None:
    assert (
        reason({name: value for name, value in TOKEN.items() if name != "email_verified"}) == "mail_unknown"
    )


def test_what_user_info_says_of_the_same_person_is_laid_beneath_the_token() -> None:
    plain = {name: TOKEN[name] for name in ("iss", "aud", "sub", "iat", "exp", "nonce")}
    told = {
        "sub": "ada",
        "email": "ada@example.org",
        "email_verified": True,
        "name": "Ada",
        "iss": "x",
        "aud": "x",
    }
    assert identity(with_user_info(plain, told), PROVIDER, "nonce", NOW) == identity(
        TOKEN, PROVIDER, "nonce", NOW
    )
    own = with_user_info(
        {**plain, "name": "Mine", "email": "old@example.org", "hd": "mine"}, {**told, "hd": "x"}
    )
    # which address is verified, the two words say together
    assert (own["name"], own["email"], own["hd"]) == ("Mine", "ada@example.org", "mine")


@pytest.mark.parametrize("subject", ["eve", "", None, 7])
def test_user_info_of_somebody_else_is_refused(subject: object) -> None:
    with pytest.raises(SignInRefused, match="user_info_subject"):
        with_user_info(TOKEN, {"sub": subject, "email_verified": True})
    with pytest.raises(SignInRefused, match="user_info_subject"):
        with_user_info({**TOKEN, "sub": subject}, {"sub": "ada", "email_verified": True})
    with pytest.raises(SignInRefused, match="user_info_subject"):
        with_user_info({"sub": None}, {"sub": None})


def test_the_provider_is_had_to_ask_only_when_it_can_and_should() -> None:
    def prompt(chooser: str | None, *, choose: bool) -> list[str]:
        provider = replace(PROVIDER, chooser=chooser)
        url = authorization_url(provider, ATTEMPTED, "https://us.example/sign-in/callback", choose=choose)
        return parse_qs(urlsplit(url).query).get("prompt", [])

    assert prompt("select_account", choose=True) == ["select_account"]
    assert prompt("login", choose=True) == ["login"]
    assert prompt("select_account", choose=False) == prompt(None, choose=True) == []


@pytest.mark.parametrize(
    ("issuer", "offered", "prompt"),
    [
        (GOOGLE.issuer, None, "select_account"),
        ("https://id.example", None, "login"),
        ("https://id.example", ["none", "login", "select_account"], "select_account"),
        ("https://id.example", ["none", "login"], "login"),
        ("https://id.example", ["none", "consent"], None),
    ],
)
def test_a_provider_is_asked_by_a_prompt_that_it_knows(
    issuer: str, offered: list[str] | None, prompt: str | None
) -> None:
    assert chooser(issuer, offered) == prompt


@pytest.mark.parametrize("domain", [None, "evil.example", "EXAMPLE.ORG"])
def test_only_the_hosted_domain_comes_in(domain: str | None) -> None:
    assert reason(TOKEN | {"iss": GOOGLE.issuer, "hd": domain}, GOOGLE) == "hosted_domain"


def test_a_name_is_one_line_and_not_endless() -> None:
    found = identity(TOKEN | {"name": " A\n\x00da" + "a" * 999, "email": 7}, PROVIDER, "nonce", NOW)
    assert found.name is not None
    assert found.name.startswith("Adaa")
    assert len(found.name) == 200
    assert found.mail is None


def test_a_good_answer_has_a_code() -> None:
    assert code_of(ANSWER, ATTEMPTED, PROVIDER, NOW) == "code"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"state": "other", "code": "code", "iss": PROVIDER.issuer}, "state"),
        ({"code": "code", "iss": PROVIDER.issuer}, "state"),
        ({"state": "state", "code": "code"}, "answer_issuer"),
        (ANSWER | {"iss": "https://evil.example"}, "answer_issuer"),
        ({"state": "state", "iss": PROVIDER.issuer}, "code"),
        (ANSWER | {"error": "access_denied"}, "cancelled"),
        (ANSWER | {"error": "server_error"}, "provider_refused"),
    ],
)
def test_another_answer_has_none(answer: dict[str, str], why: str) -> None:
    with pytest.raises(SignInRefused) as refused:
        code_of(answer, ATTEMPTED, PROVIDER, NOW)
    assert refused.value.reason == why


def test_an_answer_comes_within_ten_minutes() -> None:
    assert code_of(ANSWER, ATTEMPTED, PROVIDER, NOW + ATTEMPT - 1) == "code"
    with pytest.raises(SignInRefused, match="late"):
        code_of(ANSWER, ATTEMPTED, PROVIDER, NOW + ATTEMPT)


def test_the_challenge_is_the_one_of_the_standard() -> None:
    """RFC 7636, appendix B."""
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert challenge(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_the_browser_is_sent_with_the_challenge_and_not_with_the_verifier() -> None:
    url = authorization_url(GOOGLE, ATTEMPTED, "https://us.example/sign-in/callback")
    assert url.startswith("https://accounts.google.com/o?response_type=code&client_id=us&")
    assert "code_challenge_method=S256" in url
    assert "hd=example.org" in url
    assert "verifier" not in url
    assert repr(ATTEMPTED) == "Attempt(***)"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/settings/usage?from=1", "/settings/usage?from=1"),
        ("/", "/"),
        (None, "/"),
        ("", "/"),
        ("https://evil.example/", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("/a\r\nSet-Cookie: a=b", "/"),
        ("javascript:alert(1)", "/"),
        ("/a\\b", "/"),
        ("/" + "a" * 1024, "/"),
        ("/sign-in/callback?code=1", "/"),
        ("/sign-in", "/"),
        ("/session/refresh", "/"),
    ],
)
def test_a_sign_in_leads_to_our_own_pages_only(text: str | None, path: str) -> None:
    assert safe_next(text) == path

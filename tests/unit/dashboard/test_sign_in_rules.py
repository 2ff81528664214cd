"""What an ID token and the provider's answer must say, and where a sign-in may lead."""

from typing import Any

import pytest

from services.dashboard.domain.sign_in import (
    ATTEMPT,
    Attempt,
    Identity,
    Provider,
    SignInRefused,
    authorization_url,
    challenge,
    code_of,
    identity,
    safe_next,
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
        ({"exp": SECONDS - 60}, "expired"),
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

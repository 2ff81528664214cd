"""Signing in with OpenID Connect: what is asked of the provider, and what its ID token must say.

Authorization code with PKCE (RFC 7636, S256), `state` and `nonce`; the provider's answer names its issuer
(RFC 9207). A user is an issuer and a subject, never a mail address: those change hands.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard
from urllib.parse import urlencode, urlsplit

from msgspec import Struct

from services.dashboard.domain.units import SECOND

ATTEMPT = 10 * 60 * SECOND
"""How long (µs) a person may take at the provider."""
LEEWAY = 60
"""Seconds by which the provider's clock may be ahead. A token that is over by our clock is over."""
OLDEST = 10 * 60
"""Seconds after which an ID token is too old to have been issued for this sign-in."""
LONGEST_NEXT = 1024
_GOOGLE = "https://accounts.google.com"
_NEXT = re.compile(r"/(?![/\\])[\x21\x23-\x5b\x5d-\x7e]*")
_LONGEST_TEXT = 200


class SignInRefused(Exception):
    """A sign-in that cannot go on; `reason` is for the log, one word, and says nothing of the person."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Attempt(Struct, frozen=True):
    """One sign-in under way, bound to one browser; the repr shows nothing."""

    state: str
    nonce: str
    verifier: str
    next: str
    expires_at: int

    def __repr__(self) -> str:
        return "Attempt(***)"


class Provider(Struct, frozen=True):
    """What the provider's discovery document says, and who we are to it."""

    issuer: str
    authorization_endpoint: str
    client_id: str
    hosted_domain: str | None = None
    names_issuer: bool = False
    """It says that its answers name it, so one that does not comes from elsewhere."""
    chooser: str | None = None
    """The `prompt` that has it ask who it is; None when it knows none."""


class Identity(Struct, frozen=True):
    """Who signed in, as the provider says."""

    issuer: str
    subject: str
    name: str | None
    mail: str | None


def challenge(verifier: str) -> str:
    """The PKCE challenge of a verifier, S256."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def authorization_url(
    provider: Provider, attempt: Attempt, redirect_uri: str, *, choose: bool = False
) -> str:
    """Where the browser is sent; with `choose` somebody who is signed in there is asked all the same."""
    asked = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": redirect_uri,
        "scope": "openid email profile",
        "state": attempt.state,
        "nonce": attempt.nonce,
        "code_challenge": challenge(attempt.verifier),
        "code_challenge_method": "S256",
    }
    if provider.hosted_domain is not None:
        asked["hd"] = provider.hosted_domain
    if choose and provider.chooser is not None:
        asked["prompt"] = provider.chooser
    joint = "&" if urlsplit(provider.authorization_endpoint).query else "?"
    return f"{provider.authorization_endpoint}{joint}{urlencode(asked)}"


def code_of(answer: Mapping[str, str], attempt: Attempt, provider: Provider, now: int) -> str:
    """The code in the provider's answer, when it belongs to this attempt; else `SignInRefused`."""
    if not hmac.compare_digest(answer.get("state", "").encode(), attempt.state.encode()):
        raise SignInRefused("state")
    if now >= attempt.expires_at:
        raise SignInRefused("late")
    issuer = answer.get("iss")
    if issuer is None and provider.names_issuer:
        raise SignInRefused("answer_issuer")
    if issuer is not None and issuer not in spellings(provider.issuer):
        raise SignInRefused("answer_issuer")
    if "error" in answer:
        raise SignInRefused("cancelled" if answer["error"] == "access_denied" else "provider_refused")
    code = answer.get("code", "")
    if not code:
        raise SignInRefused("code")
    return code


def identity(token: Mapping[str, Any], provider: Provider, nonce: str, now: int) -> Identity:
    """Who an ID token is about, its signature having been proven; `SignInRefused` when any claim is wrong.

    Source: OpenID Connect Core 1.0, section 3.1.3.7.
    """
    if token.get("iss") not in spellings(provider.issuer):
        raise SignInRefused("issuer")
    _check_audience(token, provider.client_id)
    _check_times(token, now // SECOND)
    presented = token.get("nonce")
    if not isinstance(presented, str) or not hmac.compare_digest(presented.encode(), nonce.encode()):
        raise SignInRefused("nonce")
    subject = token.get("sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= 255:
        raise SignInRefused("subject")
    if token.get("email_verified") is not True:
        raise SignInRefused("mail_unverified" if "email_verified" in token else "mail_unknown")
    if provider.hosted_domain is not None and token.get("hd") != provider.hosted_domain:
        raise SignInRefused("hosted_domain")
    return Identity(provider.issuer, subject, _text(token.get("name")), _text(token.get("email")))


def spellings(issuer: str) -> tuple[str, ...]:
    """How a provider may write its issuer: exactly, but for Google, which also leaves the scheme out."""
    return (issuer, "accounts.google.com") if issuer == _GOOGLE else (issuer,)


def chooser(issuer: str, offered: Sequence[str] | None) -> str | None:
    """The `prompt` that has this provider ask who it is, of those it offers if it tells them.

    One that does not know a prompt refuses the whole sign-in. Untold, Google knows `select_account` and no
    `login`; any other is more likely to know `login`.
    """
    if offered is None:
        return "select_account" if issuer == _GOOGLE else "login"
    return next((prompt for prompt in ("select_account", "login") if prompt in offered), None)


def safe_next(text: str | None) -> str:
    """Where to go after the sign-in: a path of ours, else the first page. Never another origin."""
    if text is None or len(text) > LONGEST_NEXT or _NEXT.fullmatch(text) is None:
        return "/"
    path = text.partition("?")[0]
    return "/" if path == "/sign-in" or path.startswith(("/sign-in/", "/session/", "/static/")) else text


def with_user_info(token: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The claims of an ID token with those that the provider keeps for its UserInfo; `SignInRefused` when
    that is about somebody else. What the token itself says of anything but the mail counts first.

    Source: OpenID Connect Core 1.0, sections 5.3.2 and 5.4.
    """
    subject = token.get("sub")
    if not isinstance(subject, str) or told.get("sub") != subject:
        raise SignInRefused("user_info_subject")
    mail = {name: told[name] for name in ("email", "email_verified") if name in told}
    return {**{name: told[name] for name in ("name", "hd") if name in told}, **token, **mail}


def _check_audience(token: Mapping[str, Any], client_id: str) -> None:
    audience = token.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if client_id not in audiences:
        raise SignInRefused("audience")
    party = token.get("azp")
    if (party is None and len(audiences) > 1) or (party is not None and party != client_id):
        raise SignInRefused("authorized_party")


def _check_times(token: Mapping[str, Any], now: int) -> None:
    expires, issued = token.get("exp"), token.get("iat")
    if not _is_number(expires) or expires <= now:
        raise SignInRefused("expired")
    if not _is_number(issued) or not now - OLDEST - LEEWAY <= issued <= now + LEEWAY:
        raise SignInRefused("issued_at")
    before = token.get("nbf", issued)
    if not _is_number(before) or before > now + LEEWAY:
        raise SignInRefused("not_before")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str | None:
    """A name or an address as it may be shown: one line, not endless."""
    if not isinstance(value, str):
        return None
    plain = "".join(character for character in value if character.isprintable()).strip()
    return plain[:_LONGEST_TEXT] or None

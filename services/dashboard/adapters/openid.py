"""An OpenID provider over HTTP: discovery, the code's exchange, the ID token's signature, and UserInfo.

Everything it sends is bounded and has a time limit; no redirect is followed. The algorithms are ours to
choose, never the token's: asymmetric ones, by a key of the provider's published set.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import msgspec
import structlog
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, KeySet, OKPKey, RSAKey
from msgspec import Struct

from keyledger.clock import Clock
from keyledger.errors import Refusal, unavailable
from keyledger.server.settings import is_loopback
from keyledger.token import Secret
from services.dashboard.domain.sign_in import Provider, SignInRefused, chooser, with_user_info

ALGORITHMS: Mapping[type[Any], tuple[str, ...]] = {
    RSAKey: ("RS256", "PS256"),
    ECKey: ("ES256",),
    OKPKey: ("EdDSA", "Ed25519"),
}
TIMEOUT = 5.0
FRESH, ASK_AGAIN = 3600.0, 10.0
"""Seconds for which what it published is kept, and between two looks for a key that is not known."""
LONGEST_ANSWER = 256 * 1024
LONGEST_TOKEN = 16 * 1024
MOST_KEYS = 50
_SMALLEST_RSA = 2048
_OK = 200
_HEADERS = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})
_log = structlog.get_logger("keyledger.dashboard")


class _Discovery(Struct):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    code_challenge_methods_supported: tuple[str, ...] | None = None
    authorization_response_iss_parameter_supported: bool = False
    prompt_values_supported: tuple[str, ...] | None = None


class _Answer(Struct):
    id_token: str
    access_token: str = ""


class OpenIdProvider:
    """`IdentityProvider` of one issuer. For one event loop."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        clock: Clock,
        *,
        issuer: str,
        client_id: str,
        client_secret: Secret | None,
        hosted_domain: str | None,
    ) -> None:
        self._http = http
        self._clock = clock
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._hosted_domain = hosted_domain
        self._discovery: tuple[float, _Discovery] | None = None
        self._keys: tuple[float, Mapping[str, Key]] | None = None
        self._asking = asyncio.Lock()

    async def describe(self) -> Provider:
        """What it says of itself, read at most once an hour."""
        found = await self._discovered()
        return Provider(
            self._issuer,
            found.authorization_endpoint,
            self._client_id,
            self._hosted_domain,
            found.authorization_response_iss_parameter_supported,
            chooser(self._issuer, found.prompt_values_supported),
        )

    async def redeem(self, code: str, verifier: str, redirect_uri: str) -> Mapping[str, Any]:
        """The claims of the ID token that this code is good for, its signature proven and nothing else.

        Where it says nothing of the mail's verification, with what the provider's UserInfo says.
        """
        found = await self._discovered()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        status, body = await self._send(
            "POST", found.token_endpoint, data={**form, **self._form(found)}, headers=self._headers(found)
        )
        if status != _OK:
            if status >= 500:
                raise _away()
            raise SignInRefused("code_refused")
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except msgspec.MsgspecError:
            raise SignInRefused("token_answer") from None
        claims = await self._claims(answer.id_token)
        if "email_verified" in claims or found.userinfo_endpoint is None or not answer.access_token:
            return claims
        return with_user_info(claims, await self._user_info(found.userinfo_endpoint, answer.access_token))

    async def _user_info(self, endpoint: str, access_token: str) -> Mapping[str, Any]:
        """What the provider says of whoever gave this token."""
        if not access_token.isascii() or not access_token.isprintable():
            raise SignInRefused("token_answer")
        headers = {"Authorization": f"Bearer {access_token}"}
        status, body = await self._send("GET", endpoint, headers=headers)
        if status != _OK:
            if status >= 500:
                raise _away()
            raise SignInRefused("user_info_refused")
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            # signed or encrypted, which was not asked for
            raise SignInRefused("user_info_unreadable") from None

    async def _claims(self, token: str) -> Mapping[str, Any]:
        if len(token) > LONGEST_TOKEN or not token.isascii():
            raise SignInRefused("token_shape")
        try:
            header: dict[str, Any] = dict(jws.extract_compact(token.encode()).headers())
        except (JoseError, ValueError):
            raise SignInRefused("token_shape") from None
        # a key that comes with the token, or the address of one, is no reason to believe it
        if not header.keys() <= _HEADERS:
            raise SignInRefused("token_header")
        key = await self._key(header.get("kid"))
        allowed = ALGORITHMS.get(type(key), ())
        if key is None or header.get("alg") not in allowed:
            raise SignInRefused("token_key")
        try:
            return jwt.decode(token, key, algorithms=list(allowed)).claims
        except (JoseError, ValueError):
            raise SignInRefused("signature") from None

    async def _key(self, kid: Any) -> Key | None:
        """The published key of this id, or the only one when the token names none."""
        for oldest in (FRESH, ASK_AGAIN):
            keys = await self._published(oldest)
            if kid is None and len(keys) == 1:
                return next(iter(keys.values()))
            if isinstance(kid, str) and kid in keys:
                return keys[kid]
        return None

    async def _published(self, oldest: float) -> Mapping[str, Key]:
        found = await self._discovered()
        async with self._asking:
            if self._keys is None or self._clock.steady() - self._keys[0] > oldest:
                asked = self._clock.steady()
                status, body = await self._send("GET", found.jwks_uri)
                if status != _OK:
                    raise _away()
                self._keys = (asked, _usable(body))
            return self._keys[1]

    async def _discovered(self) -> _Discovery:
        async with self._asking:
            if self._discovery is None or self._clock.steady() - self._discovery[0] > FRESH:
                asked = self._clock.steady()
                self._discovery = (asked, await self._discover())
            return self._discovery[1]

    async def _discover(self) -> _Discovery:
        status, body = await self._send("GET", f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if status != _OK:
            raise _away()
        try:
            found = msgspec.json.decode(body, type=_Discovery)
        except msgspec.MsgspecError:
            raise _wrong("discovery_unreadable") from None
        if found.issuer != self._issuer:
            raise _wrong("discovery_of_another_issuer")
        places = (found.authorization_endpoint, found.token_endpoint, found.jwks_uri, found.userinfo_endpoint)
        if not all(_is_secure(place) for place in places if place is not None):
            raise _wrong("discovery_without_tls")
        methods = found.code_challenge_methods_supported
        if methods is not None and "S256" not in methods:
            raise _wrong("provider_without_pkce")
        return found

    def _form(self, found: _Discovery) -> Mapping[str, str]:
        if self._client_secret is None:
            return {"client_id": self._client_id}
        if "client_secret_basic" in found.token_endpoint_auth_methods_supported:
            return {}
        return {"client_id": self._client_id, "client_secret": self._client_secret.reveal()}

    def _headers(self, found: _Discovery) -> Mapping[str, str]:
        basic = "client_secret_basic" in found.token_endpoint_auth_methods_supported
        if self._client_secret is None or not basic:
            return {}
        # both are form-encoded first: RFC 6749, section 2.3.1
        named = f"{quote(self._client_id, safe='')}:{quote(self._client_secret.reveal(), safe='')}"
        return {"Authorization": f"Basic {b64encode(named.encode()).decode()}"}

    async def _send(self, method: str, url: str, **more: Any) -> tuple[int, bytes]:
        """The status and the body of the answer; the request, which may hold secrets, stays here."""
        headers = {"Accept": "application/json", **more.pop("headers", {})}
        body = b""
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                self._http.stream(method, url, headers=headers, **more) as response,
            ):
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > LONGEST_ANSWER:
                        raise _wrong("provider_answer_too_long")
                return response.status_code, body
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            _log.warning("provider_away", error=type(error).__name__)
        raise _away()


def _usable(body: bytes) -> Mapping[str, Key]:
    """The keys of a set that may sign ID tokens, by their ids."""
    try:
        listed = msgspec.json.decode(body, type=dict[str, Any]).get("keys")
        told = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    except msgspec.MsgspecError:
        raise _wrong("keys_unreadable") from None
    found: dict[str, Key] = {}
    for one in told[:MOST_KEYS]:
        if one.get("use", "sig") != "sig" or one.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            key = KeySet.import_key_set({"keys": [one]}).keys[0]
        except (JoseError, ValueError, KeyError):
            continue
        if not (isinstance(key, RSAKey) and key.public_key.key_size < _SMALLEST_RSA):
            found[str(one.get("kid", ""))] = key
    return found


def _is_secure(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    )


def _away() -> Refusal:
    return unavailable("unavailable", "The sign-in provider does not answer just now.")


def _wrong(reason: str) -> Refusal:
    _log.error("provider_unusable", reason=reason)
    return unavailable("unavailable", "The sign-in provider cannot be used just now.")

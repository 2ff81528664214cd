"""An OpenID provider of our own that says what a test wants: it signs whatever it is told to, well or badly.

Whoever comes is sent back at once, signed in. It is as strict about the code and its verifier as a real
one, so that a sign-in that fails here fails by the token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

from tests.support.openid import ACCOUNTS, CLIENT_ID, CLIENT_SECRET
from tests.support.tokens import RsaKey, encode

Claims = dict[str, Any]
Forge = Callable[["ForgingProvider", Claims], str]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


def honest(provider: ForgingProvider, claims: Claims) -> str:
    """The token as it should be."""
    return provider.key.sign(claims)


def claiming(**changed: Any) -> Forge:
    """A token signed well that says something else; a claim that is None is left out."""

    def forge(provider: ForgingProvider, claims: Claims) -> str:
        merged = claims | changed
        return provider.key.sign({name: value for name, value in merged.items() if value is not None})

    return forge


class ForgingProvider:
    """The application; `issuer` is set once it is known where it answers."""

    def __init__(self) -> None:
        self.issuer = ""
        self.key = RsaKey()
        self.forge: Forge = honest
        self.callback: dict[str, str] = {}
        """Laid over what the callback is told."""
        self.asked: dict[str, str] = {}
        """The last authorisation request."""
        self.exchanged = 0
        """How many codes were exchanged for a token."""
        self.user_info: tuple[int, Claims] | None = None
        """The status and the answer of its UserInfo; None when it has none."""
        self.introduced = ""
        """How UserInfo was asked the last time."""
        self._codes: dict[str, dict[str, str]] = {}

    def reset(self) -> None:
        """Honest again."""
        self.forge, self.callback, self.asked, self.exchanged = honest, {}, {}, 0

    def claims(self, nonce: str) -> Claims:
        """What an honest token says."""
        now = int(time.time())
        return {
            "iss": self.issuer, "aud": CLIENT_ID, "sub": "forged-ada", "iat": now, "exp": now + 300,
            "nonce": nonce, **ACCOUNTS["ada"],
        }  # fmt: skip

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        body, more = b"", scope["type"] == "http"
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        query = dict(parse_qsl(scope["query_string"].decode()))
        match scope["path"]:
            case "/.well-known/openid-configuration":
                await _answer(send, self._discovery())
            case "/jwks":
                await _answer(send, {"keys": [self.key.jwk]})
            case "/auth":
                await _redirect(send, self._signed_in(query))
            case "/token":
                headers = {name.decode(): value.decode() for name, value in scope["headers"]}
                token = self._exchange(dict(parse_qsl(body.decode())), headers.get("authorization", ""))
                await _answer(send, token or {"error": "invalid_grant"}, 200 if token else 400)
            case "/me" if self.user_info is not None:
                headers = {name.decode(): value.decode() for name, value in scope["headers"]}
                self.introduced = headers.get("authorization", "")
                await _answer(send, self.user_info[1], self.user_info[0])
            case _:
                await _answer(send, {"error": "not_found"}, 404)

    def _discovery(self) -> dict[str, Any]:
        place = {} if self.user_info is None else {"userinfo_endpoint": f"{self.issuer}/me"}
        return {
            **place,
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/auth",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "authorization_response_iss_parameter_supported": True,
        }

    def _signed_in(self, asked: dict[str, str]) -> str:
        """Where the browser is sent back to."""
        self.asked, code = asked, secrets.token_urlsafe(16)
        self._codes[code] = asked
        told = {"code": code, "state": asked["state"], "iss": self.issuer} | self.callback
        return f"{asked['redirect_uri']}?{urlencode({name: value for name, value in told.items() if value})}"

    def _exchange(self, form: dict[str, str], authorization: str) -> dict[str, Any] | None:
        """The answer to a code; None when it was not ours, was had before, or is not the client's."""
        asked = self._codes.pop(form.get("code", ""), None)
        known = (CLIENT_ID, CLIENT_SECRET) in (
            _basic(authorization), (form.get("client_id", ""), form.get("client_secret", "")),
        )  # fmt: skip
        if asked is None or not known or form.get("redirect_uri") != asked["redirect_uri"]:
            return None
        verifier = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if encode(verifier) != asked.get("code_challenge") or asked.get("code_challenge_method") != "S256":
            return None
        self.exchanged += 1
        token = self.forge(self, self.claims(asked.get("nonce", "")))
        return {"access_token": "opaque", "token_type": "Bearer", "expires_in": 60, "id_token": token}


def _basic(authorization: str) -> tuple[str, str]:
    """Name and password as RFC 6749 2.3.1 has them: form-encoded each, then joined."""
    name, _, password = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
    return unquote_plus(name), unquote_plus(password)


async def _answer(send: Send, body: Any, status: int = 200) -> None:
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _redirect(send: Send, target: str) -> None:
    headers = [(b"location", target.encode())]
    await send({"type": "http.response.start", "status": 302, "headers": headers})
    await send({"type": "http.response.body", "body": b""})

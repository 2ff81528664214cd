"""An issuer of session tokens of the tests' own: its keys, where it publishes them, and what it signs."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from keyledger.server.ids import new_id
from tests.support.asgi_server import serving
from tests.support.keys import Caller
from tests.support.tokens import encode, unsigned


class EcKey:
    """A signing key, ES256."""

    def __init__(self, kid: str = "first") -> None:
        self.kid = kid
        self._private = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, str]:
        """The public half, as a JWKS lists it."""
        numbers = self._private.public_key().public_numbers()
        x, y = (encode(value.to_bytes(32, "big")) for value in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": x, "y": y}

    @property
    def pem(self) -> bytes:
        """The public half as PEM, which a careless library takes for an HMAC secret."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._private.public_key().public_bytes(serialization.Encoding.PEM, form)

    def sign(self, body: Mapping[str, Any], **head: Any) -> str:
        """A token with these claims; `head` is laid over the usual header."""
        signed = unsigned({"alg": "ES256", "typ": "JWT", "kid": self.kid, **head}, body)
        r, s = decode_dss_signature(self._private.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


class EdKey:
    """A signing key, Ed25519."""

    def __init__(self, kid: str = "ed") -> None:
        self.kid = kid
        self._private = ed25519.Ed25519PrivateKey.generate()

    @property
    def jwk(self) -> dict[str, str]:
        """The public half, as a JWKS lists it."""
        return {"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": encode(self._public)}

    def sign(self, body: Mapping[str, Any], **head: Any) -> str:
        """A token with these claims; `head` is laid over the usual header."""
        signed = unsigned({"alg": "EdDSA", "typ": "JWT", "kid": self.kid, **head}, body)
        return f"{signed}.{encode(self._private.sign(signed.encode()))}"

    @property
    def _public(self) -> bytes:
        return self._private.public_key().public_bytes_raw()


class Issuer:
    """Signs tokens with `key` and publishes `published`; `asked` counts who looked, `away` answers 500."""

    def __init__(self, url: str = "http://issuer.test") -> None:
        self.url = url
        self.key = EcKey()
        self.published: list[Any] = [self.key.jwk]
        self.asked = 0
        self.away = False

    def claims(self, user: str, ws: str | None = None, **other: Any) -> dict[str, Any]:
        """The claims of a good token; what is None is left out."""
        now = int(time.time())
        said = {
            "iss": self.url, "aud": "keyledger", "sub": user, "sid": new_id("ses"), "ws": ws,
            "iat": now, "exp": now + 600, "jti": new_id("jti"), **other,
        }  # fmt: skip
        return {name: value for name, value in said.items() if value is not None}

    def token(self, user: str, ws: str | None = None, **other: Any) -> str:
        """A good token of this user, but for what is said otherwise."""
        return self.key.sign(self.claims(user, ws, **other))

    async def fetch(self) -> bytes:
        """The published set."""
        self.asked += 1
        return json.dumps({"keys": self.published}).encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve the set, as an ASGI application."""
        del receive
        assert scope["path"] == "/.well-known/jwks.json"
        body = await self.fetch()
        status = 500 if self.away else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def issuing() -> AsyncGenerator[Issuer]:
    """An issuer on a port of this machine."""
    issuer = Issuer()
    async with serving(issuer) as url:
        issuer.url = url
        yield issuer


class SignedIn(Caller):
    """One who calls with a session token."""

    def __init__(self, http: httpx2.AsyncClient, token: str) -> None:
        super().__init__(http, None)
        self.token = token

    async def __call__(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx2.Response:
        """Send a request; `body` is sent as JSON."""
        sent = {"Authorization": f"Bearer {self.token}"} | (headers or {})
        return await super().__call__(method, path, body, headers=sent, **more)

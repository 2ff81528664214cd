"""JSON Web Tokens by hand, well-formed and forged, independent of the library that reads them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def encode(raw: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """The bytes behind base64url without padding."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def header(token: str) -> dict[str, Any]:
    """What a token's header says, unchecked."""
    return json.loads(decode(token.split(".", maxsplit=1)[0]))


def claims(token: str) -> dict[str, Any]:
    """What a token says, unchecked."""
    return json.loads(decode(token.split(".")[1]))


def unsigned(head: Mapping[str, Any], body: Mapping[str, Any]) -> str:
    """The part of a token that is signed."""
    return ".".join(encode(json.dumps(part).encode()) for part in (head, body))


class RsaKey:
    """A signing key of a provider, RS256."""

    def __init__(self, kid: str = "first") -> None:
        self.kid = kid
        self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    @property
    def jwk(self) -> dict[str, str]:
        """The public half, as a JWKS lists it."""
        numbers = self._private.public_key().public_numbers()
        parts = {"n": numbers.n, "e": numbers.e}
        values = {
            name: encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))
            for name, value in parts.items()
        }
        return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, **values}

    @property
    def pem(self) -> bytes:
        """The public half as PEM, which a careless library takes for an HMAC secret."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._private.public_key().public_bytes(serialization.Encoding.PEM, form)

    def sign(self, body: Mapping[str, Any], **head: Any) -> str:
        """A token with these claims; `head` is laid over the usual header."""
        signed = unsigned({"alg": "RS256", "typ": "JWT", "kid": self.kid, **head}, body)
        return f"{signed}.{encode(self._private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def with_hmac(secret: bytes, body: Mapping[str, Any], **head: Any) -> str:
    """A token signed by HS256 with this secret."""
    signed = unsigned({"alg": "HS256", "typ": "JWT", **head}, body)
    return f"{signed}.{encode(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def with_none(body: Mapping[str, Any], **head: Any) -> str:
    """A token that nobody signed."""
    return unsigned({"alg": "none", "typ": "JWT", **head}, body) + "."

"""Session tokens: JWTs of the dashboard, read by the keys that it publishes (RFC 7515, 7517, 7519, 8725).

The allowed algorithm is the key's own, and the key is one of the published set: nothing in a token says how
it is to be verified. What a token says of roles counts for nothing here.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import httpx2
import msgspec
import structlog
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey
from msgspec import Struct

from keyledger.clock import SECOND, Clock
from keyledger.errors import invalid_session, unavailable
from keyledger.token import is_id

AUDIENCE = "keyledger"
LEEWAY = 30 * SECOND
"""How far the issuer's clock may be off, µs."""
LONGEST_LIFE = 3600 * SECOND
"""A token that is good for longer was not made for this."""
MAX_TOKEN = 4096
FRESH, HELD = 300.0, 3600.0
"""Seconds after which the published keys are read anew, and how long they count while that fails."""
ASK_AGAIN, PAUSE = 10.0, 1.0
"""Seconds between two looks for a key that is not known, and after one that failed."""
FETCH_TIMEOUT = 2.0
OK = 200
MAX_JWKS, MAX_KEYS, MAX_KID = 65_536, 32, 128
_HEADER = frozenset({"alg", "kid", "typ"})
_PublicKey: TypeAlias = ECKey | OKPKey
_log = structlog.get_logger("keyledger.jwt")


class Claims(Struct, frozen=True):
    """Whose token it is, of which session, in which workspace if any; good until `expires_at` (µs)."""

    user_id: str
    session_id: str
    workspace_id: str | None
    expires_at: int


class KeysUnavailable(Exception):
    """The published keys cannot be read just now."""


class PublishedKeys(Protocol):
    """Where the issuer's keys are published."""

    async def fetch(self) -> bytes:
        """The JWK set as JSON; `KeysUnavailable` when it cannot be had."""
        ...


class HttpPublishedKeys:
    """`PublishedKeys` at a URL: without redirects, proxies of the environment, or long answers."""

    def __init__(self, url: str, *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._url = url
        self._http = httpx2.AsyncClient(
            timeout=FETCH_TIMEOUT, trust_env=False, follow_redirects=False, transport=transport
        )

    async def fetch(self) -> bytes:
        """The JWK set as JSON; `KeysUnavailable` when it cannot be had within two seconds."""
        try:
            async with (
                asyncio.timeout(FETCH_TIMEOUT),
                self._http.stream("GET", self._url, headers={"Accept": "application/json"}) as response,
            ):
                if response.status_code != OK:
                    raise KeysUnavailable(f"status {response.status_code}")
                body = b""
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > MAX_JWKS:
                        raise KeysUnavailable("too long")
                return body
        except (httpx2.HTTPError, TimeoutError) as error:
            raise KeysUnavailable(type(error).__name__) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class KeyRing:
    """The published keys by their ids, kept and read anew in time. For one event loop."""

    def __init__(self, published: PublishedKeys, clock: Clock) -> None:
        self._published = published
        self._clock = clock
        self._keys: Mapping[str, _PublicKey] = {}
        self._read_at: float | None = None
        self._failed_at: float | None = None
        self._asking = asyncio.Lock()

    async def find(self, kid: str) -> _PublicKey | None:
        """The key of this id, None when there is none; `KeysUnavailable` when nobody can say."""
        age = self._age(self._read_at)
        if kid in self._keys and age <= HELD:
            if age > FRESH and not self._asking.locked():
                await self._renew(FRESH, needed=False)
            if kid in self._keys:
                return self._keys[kid]
        await self._renew(ASK_AGAIN, needed=True)
        return self._keys.get(kid)

    async def _renew(self, older_than: float, *, needed: bool) -> None:
        """Read the keys anew if they are older than so many seconds; one at a time, and not in a row."""
        async with self._asking:
            if self._age(self._read_at) <= older_than:
                return
            if self._age(self._failed_at) < (PAUSE if needed else ASK_AGAIN):
                if needed:
                    raise KeysUnavailable("it was away a moment ago")
                return
            asked_at = self._clock.steady()
            try:
                self._keys = _parsed(await self._published.fetch())
            except KeysUnavailable as error:
                if self._failed_at is None:
                    _log.warning("published_keys_away", why=str(error))
                self._failed_at = self._clock.steady()
                if needed:
                    raise
            else:
                self._read_at, self._failed_at = asked_at, None

    def _age(self, moment: float | None) -> float:
        return float("inf") if moment is None else self._clock.steady() - moment


class SessionTokens:
    """Reads session tokens of one issuer."""

    def __init__(self, issuer: str, keys: KeyRing, clock: Clock) -> None:
        self._issuer = issuer
        self._keys = keys
        self._clock = clock

    async def read(self, token: str) -> Claims:
        """Whose token this is. Raises `invalid_session`, or `unavailable` while the keys cannot be read."""
        if len(token) > MAX_TOKEN or not token.isascii():
            raise invalid_session()
        try:
            header: dict[str, Any] = dict(jws.extract_compact(token.encode()).headers())
        except (JoseError, ValueError):
            raise invalid_session() from None
        kid, algorithm = str(header.get("kid", "")), header.get("alg")
        # a key that comes with the token, or the address of one, is refused with every other extra
        if header.keys() != _HEADER or header["typ"] != "JWT" or not 0 < len(kid) <= MAX_KID:
            raise invalid_session()
        try:
            key = await self._keys.find(kid)
        except KeysUnavailable:
            raise unavailable("unavailable", "The session cannot be checked just now.") from None
        if key is None or algorithm not in _algorithms(key):
            raise invalid_session()
        return self._claims(_verified(token, key, algorithm))

    def _claims(self, payload: bytes) -> Claims:
        try:
            told = msgspec.json.decode(payload, type=_Payload)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise invalid_session() from None
        now = self._clock.now()
        begins = max(told.iat, told.nbf) * SECOND
        good = (
            told.iss == self._issuer
            and told.aud == AUDIENCE
            and is_id(told.sub, "user")
            and is_id(told.sid, "ses")
            and (told.ws is None or is_id(told.ws, "ws"))
            and begins <= now + LEEWAY
            and now - LEEWAY < told.exp * SECOND
            and 0 < (told.exp - told.iat) * SECOND <= LONGEST_LIFE
        )
        if not good:
            raise invalid_session()
        return Claims(told.sub, told.sid, told.ws, told.exp * SECOND)


class _Payload(Struct):
    iss: str
    aud: str
    sub: str
    sid: str
    iat: int
    exp: int
    nbf: int = 0
    ws: str | None = None


class _Jwk(Struct):
    kty: str
    kid: str = ""
    crv: str = ""
    x: str = ""
    y: str = ""
    use: str = "sig"


class _JwkSet(Struct):
    keys: list[msgspec.Raw]


def _verified(token: str, key: _PublicKey, algorithm: str) -> bytes:
    """The payload of a token whose signature is the key's."""
    registry = jws.JWSRegistry(algorithms=[algorithm])
    try:
        with warnings.catch_warnings():
            # the old name of Ed25519, which RFC 9864 gives up because it names several curves: here it is one
            warnings.simplefilter("ignore", SecurityWarning)
            return jws.deserialize_compact(token, key, registry=registry).payload
    except (JoseError, ValueError):
        raise invalid_session() from None


def _algorithms(key: _PublicKey) -> tuple[str, ...]:
    return ("ES256",) if isinstance(key, ECKey) else ("Ed25519", "EdDSA")


def _parsed(body: bytes) -> Mapping[str, _PublicKey]:
    """The keys of a set that tokens may be signed with; others are passed over, and an id given twice."""
    try:
        listed = msgspec.json.decode(body, type=_JwkSet).keys
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise KeysUnavailable("not a JWK set") from None
    found: dict[str, _PublicKey] = {}
    twice: set[str] = set()
    for raw in listed[:MAX_KEYS]:
        try:
            told = msgspec.json.decode(raw, type=_Jwk)
            key = _public_key(told)
        except (msgspec.MsgspecError, JoseError, ValueError):
            continue
        if key is not None and told.kid:
            twice |= {told.kid} & set(found)
            found[told.kid] = key
    return {kid: key for kid, key in found.items() if kid not in twice}


def _public_key(told: _Jwk) -> _PublicKey | None:
    if told.use != "sig":
        return None
    if (told.kty, told.crv) == ("EC", "P-256"):
        return ECKey.import_key({"kty": "EC", "crv": told.crv, "x": told.x, "y": told.y})
    if (told.kty, told.crv) == ("OKP", "Ed25519"):
        return OKPKey.import_key({"kty": "OKP", "crv": told.crv, "x": told.x})
    return None

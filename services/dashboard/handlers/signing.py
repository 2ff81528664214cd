"""Signing sessions: the keys are made here, kept sealed, and published as a JWK set (RFC 7517)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from joserfc import jwt
from joserfc.jwk import ECKey

from keyledger.clock import Clock
from keyledger.errors import unavailable
from keyledger.server.seal import Sealer
from keyledger.token import Secret
from services.dashboard.domain import signing
from services.dashboard.domain.signing import KeyTimes
from services.dashboard.ports import SigningKeys, StoredKey

ALGORITHM = "ES256"
TRIES = 3
_PURPOSE = "keyledger session keys"
_log = structlog.get_logger("keyledger.dashboard")


class Signer:
    """Signs with the key whose turn it is. `refresh` reads what other processes made, and makes the next."""

    def __init__(self, store: SigningKeys, sealer: Sealer, clock: Clock, new_kid: Callable[[], str]) -> None:
        self._store = store
        self._sealer = sealer
        self._clock = clock
        self._new_kid = new_kid
        self._keys: Mapping[str, ECKey] = {}
        self._times: Sequence[KeyTimes] = ()
        self._renewing = asyncio.Lock()

    async def refresh(self) -> None:
        """Read the keys anew, make the next one when it is due, drop those that are over.

        Raises `StoreUnavailable`, and `SealBroken` when the seal secret is not that of the stored keys.
        """
        async with self._renewing:
            now = self._clock.now()
            for _ in range(TRIES):
                stored = await self._store.all()
                times = [key.times for key in stored]
                start = signing.next_start(times, now)
                if start is None or await self._store.add(
                    self._made(start), times[-1].kid if times else None
                ):
                    break
            stored = await self._store.all()
            times = [key.times for key in stored]
            public = {key.kid for key in signing.published(times, now)}
            self._keys = {
                key.times.kid: self._keys.get(key.times.kid) or await self._opened(key)
                for key in stored
                if key.times.kid in public
            }
            self._times = [each for each in times if each.kid in public]
            if over := [each.kid for each in times if each.kid not in public]:
                await self._store.drop(over)

    def sign(self, claims: Mapping[str, Any]) -> Secret:
        """A JWT with these claims."""
        chosen = signing.signing(self._times, self._clock.now())
        if chosen is None:
            raise unavailable("unavailable", "Nobody can sign in just now.")
        header = {"alg": ALGORITHM, "kid": chosen.kid, "typ": "JWT"}
        return Secret(jwt.encode(header, dict(claims), self._keys[chosen.kid], algorithms=[ALGORITHM]))

    def key_set(self) -> bytes:
        """The public halves of the keys that are published now, as a JWK set."""
        listed = [
            {
                **self._keys[each.kid].as_dict(private=False),
                "kid": each.kid,
                "use": "sig",
                "alg": ALGORITHM,
            }
            for each in signing.published(self._times, self._clock.now())
        ]
        return msgspec.json.encode({"keys": listed})

    async def fetch(self) -> bytes:
        """The set, for a reader that would fetch it otherwise."""
        return self.key_set()

    @property
    def ready(self) -> bool:
        """Whether there is a key to sign with."""
        return signing.signing(self._times, self._clock.now()) is not None

    def _made(self, start: int) -> StoredKey:
        kid = self._new_kid()
        pem = ECKey.generate_key("P-256").as_pem(private=True)
        _log.info("signing_key_made")
        return StoredKey(KeyTimes(kid, start), self._sealer.seal_answer(_PURPOSE, pem, kid.encode()))

    async def _opened(self, key: StoredKey) -> ECKey:
        pem = self._sealer.open_answer(_PURPOSE, key.sealed, key.times.kid.encode())
        return ECKey.import_key(pem)

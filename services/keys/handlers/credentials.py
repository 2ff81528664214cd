"""Who is asking: a presented key, proven against Postgres and never against a cache."""

from __future__ import annotations

import ipaddress

import msgspec

from keyledger.clock import Clock
from keyledger.digest import Peppers
from keyledger.errors import insufficient_permissions, invalid_api_key, missing_api_key
from keyledger.token import Token, parse
from services.keys.domain.key import Key
from services.keys.domain.principal import Principal
from services.keys.ports import States


class Credentials:
    """Proves management keys. `prefixes` are the token prefixes that are accepted."""

    def __init__(self, states: States, peppers: Peppers, clock: Clock, prefixes: tuple[str, ...]) -> None:
        self._states = states
        self._peppers = peppers
        self._clock = clock
        self._prefixes = prefixes

    async def prove(self, api_key: str | None, *, bearer: bool = False, ip: str | None = None) -> Principal:
        """The principal that holds this key.

        Raises `missing_api_key` or `invalid_api_key`, the same for an unknown, a wrong, a revoked, a disabled
        and an expired one; `insufficient_permissions` from an address that the key does not allow. A
        suspended workspace is still managed.
        """
        if api_key is None:
            raise invalid_api_key() if bearer else missing_api_key()
        token = parse(api_key, self._prefixes)
        if not isinstance(token, Token):
            raise invalid_api_key()
        found = await self._states.credential(token.key_id)
        if found is None:
            self._peppers.proves(token.text, {})
            raise invalid_api_key()
        key = msgspec.json.decode(found[0].body, type=Key)
        now = self._clock.now()
        proven = [
            self._peppers.proves(token.text, secret.digests) and secret.valid(now) for secret in key.secrets
        ]
        if not any(proven) or key.status(now) != "active":
            raise invalid_api_key()
        if key.allowed_ips is not None and not _within(ip, key.allowed_ips):
            raise insufficient_permissions("This key may not be used from this address.")
        return Principal(key.id, key.workspace_id, frozenset(key.scopes))


def _within(ip: str | None, networks: tuple[str, ...]) -> bool:
    try:
        address = ipaddress.ip_address(ip or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped in ipaddress.ip_network(network) for network in networks)

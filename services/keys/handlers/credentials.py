"""Who is asking: a presented key, proven against Postgres and never against a cache."""

from __future__ import annotations

import ipaddress

from keyledger.clock import Clock
from keyledger.errors import insufficient_permissions, invalid_api_key, missing_api_key
from services.keys.domain.principal import Principal
from services.keys.domain.tellings import refused
from services.keys.handlers.proofs import Proofs
from services.keys.ports import Epochs


class Credentials:
    """Proves management keys."""

    def __init__(self, proofs: Proofs, clock: Clock, epochs: Epochs) -> None:
        self._proofs = proofs
        self._clock = clock
        self._epochs = epochs

    async def prove(
        self, api_key: str | None, *, bearer: bool = False, ip: str | None = None, request_id: str = ""
    ) -> Principal:
        """The principal that holds this key.

        Raises `missing_api_key` or `invalid_api_key`, the same for an unknown, a wrong, a revoked, a disabled
        and an expired one; `insufficient_permissions` from an address that the key does not allow. A
        suspended workspace is still managed.
        """
        if api_key is None:
            raise invalid_api_key() if bearer else missing_api_key()
        holder = await self._proofs.holder(api_key)
        now = self._clock.now()
        if holder is None or not holder.secret.valid(now) or holder.key.status(now) != "active":
            raise invalid_api_key()
        key = holder.key
        if refused(await self._epochs.lost(key.id, key.workspace_id), holder.secret.version, now):
            # the log was restored to before this key was denied, and nobody has accepted that yet
            raise invalid_api_key()
        self._proofs.settle(holder, request_id)
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

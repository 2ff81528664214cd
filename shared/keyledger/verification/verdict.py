"""From a presented token and the records to a verdict, in the contract's order of checks.

The secret is proven before any status is told: whoever does not hold it learns NOT_FOUND and nothing
else, and an unknown key costs the same work as a wrong secret.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hmac import compare_digest
from typing import TypeAlias

from msgspec import Struct

from keyledger.digest import Peppers
from keyledger.grants import is_quick
from keyledger.verification.limits import (
    KEY_QUOTA,
    QUOTAS,
    WORKSPACE_QUOTA,
    Demand,
    Limits,
    LimitState,
)
from keyledger.verification.projection import KeyRecord, SecretRecord, WorkspaceRecord

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

VALID = "VALID"
MALFORMED = "MALFORMED"
NOT_FOUND = "NOT_FOUND"
REVOKED = "REVOKED"
DISABLED = "DISABLED"
EXPIRED = "EXPIRED"
WORKSPACE_SUSPENDED = "WORKSPACE_SUSPENDED"
WRONG_ENVIRONMENT = "WRONG_ENVIRONMENT"
IP_NOT_ALLOWED = "IP_NOT_ALLOWED"
INSUFFICIENT_PERMISSIONS = "INSUFFICIENT_PERMISSIONS"
RATE_LIMITED = "RATE_LIMITED"
QUOTA_EXCEEDED = "QUOTA_EXCEEDED"

CODES = (
    MALFORMED,
    NOT_FOUND,
    REVOKED,
    DISABLED,
    EXPIRED,
    WORKSPACE_SUSPENDED,
    WRONG_ENVIRONMENT,
    IP_NOT_ALLOWED,
    INSUFFICIENT_PERMISSIONS,
    RATE_LIMITED,
    QUOTA_EXCEEDED,
    VALID,
)
"""Every code, in the order of the checks."""

QUICK_PATIENCE, COMMITTED_PATIENCE = 0.15, 0.5
"""Seconds for which a check that is one token short waits for it, by how long its cells are."""
WILDCARD = "*"
RESERVED = "keyledger:"
SCOPE = re.compile(r"\*|[a-z0-9][a-z0-9:._-]{0,63}", re.ASCII)
_MAPPED_BITS = 96
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# stands in for the secrets of an unknown key: no pepper's digest can equal it
_NOBODY = (SecretRecord({}),)


class Needs(Struct, frozen=True):
    """What a caller asks of a key: every one of the scopes, every one of the environments, from `ip`."""

    scopes: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    ip: Address | None = None
    cost: int = 1


class Verdict(Struct, frozen=True, gc=False):
    """The answer. What tells of the key and its limit is there only when the secret is proven, else None.

    `position` is the state of the log it was judged at, `age_ms` how old that state may be. New codes may
    come. `key`, `limit` and `secret`, the one of the key's that was presented, are the records behind it.
    """

    code: str
    key: KeyRecord | None = None
    limit: LimitState | None = None
    position: int = 0
    age_ms: int = 0
    secret: SecretRecord | None = None

    @property
    def valid(self) -> bool:
        """Whether the request may go on."""
        return self.code == VALID

    @property
    def key_id(self) -> str | None:
        """The key's public id."""
        return None if self.key is None else self.key.key_id

    @property
    def workspace_id(self) -> str | None:
        """The workspace it belongs to."""
        return None if self.key is None else self.key.workspace_id

    @property
    def name(self) -> str | None:
        """What people call it."""
        return None if self.key is None else self.key.name

    @property
    def environment(self) -> str | None:
        """`live` or `test`."""
        return None if self.key is None else self.key.environment

    @property
    def scopes(self) -> tuple[str, ...] | None:
        """What it may do."""
        return None if self.key is None else self.key.scopes

    @property
    def expires_at(self) -> datetime | None:
        """When it ends, in UTC; None as well when it never does."""
        expires_at = None if self.key is None else self.key.expires_at
        return None if expires_at is None else _UNIX_EPOCH + timedelta(microseconds=expires_at)

    @property
    def metadata(self) -> dict[str, str] | None:
        """What its owner wrote beside it; the caller's own copy."""
        return None if self.key is None else dict(self.key.metadata)

    @property
    def rate_limit(self) -> LimitState | None:
        """The tightest limit: `limit`, `remaining`, and `reset` in unix seconds."""
        return self.limit


class Ungranted(Exception):
    """Only tokens are missing, and they may come in a moment; nothing is spent or decided.

    `patience` is for how many seconds they are worth a wait: committed ones are written before they come.
    """

    def __init__(self, demands: tuple[Demand, ...], cost: int) -> None:
        super().__init__()
        self.demands = demands
        self.cost = cost
        quick = all(is_quick(demand.window) for demand in demands)
        self.patience = QUICK_PATIENCE if quick else COMMITTED_PATIENCE


def judge(  # noqa: PLR0917 (this is the hot path: names cost as much as three steps of it)
    text: str | bytes,
    record: KeyRecord | None,
    workspace: WorkspaceRecord | None,
    needs: Needs,
    peppers: Peppers,
    limits: Limits,
    now: int,
    position: int = 0,
    age_ms: int = 0,
    patient: bool = False,
) -> Verdict:
    """Judge a `text` that is not malformed, the SHA-256 of a foreign one; `now` is wall time in µs.

    Refuses with `cost_exceeds_limit` a cost that no cell could hold, after every other check has passed. To
    who is `patient` it raises `Ungranted` where only a grant is missing.
    """
    proven = _proven(text, record, peppers)
    if proven is None or record is None or workspace is None or not known(record, workspace):
        return Verdict(NOT_FOUND, None, None, position, age_ms)
    code = refusal(record, proven, workspace, needs, now)
    asked, cost = demands(record, workspace), needs.cost if code is None else 0
    spending = limits.spend(asked, cost, now, patient=patient)
    if spending.later:
        raise Ungranted(asked, cost)
    if code is None:
        code = VALID if spending.allowed else code_of(spending.tightest)
    return Verdict(code, record, spending.tightest, position, age_ms, proven)


def known(record: KeyRecord, workspace: WorkspaceRecord) -> bool:
    """Whether both could be read; what could not is as if it were not there."""
    return not (record.unreadable or workspace.unreadable)


def refusal(
    record: KeyRecord, proven: SecretRecord, workspace: WorkspaceRecord, needs: Needs, now: int
) -> str | None:
    """The first refusal that follows from the records and what is asked, limits aside; None when there is
    none. Of several the one that comes first in `CODES`; `now` is wall time in µs.
    """
    if record.revoked or ended(proven, now):
        return REVOKED
    if not record.enabled:
        return DISABLED
    if record.expires_at is not None and record.expires_at <= now:
        return EXPIRED
    if workspace.suspended:
        return WORKSPACE_SUSPENDED
    return _fitness(record, needs)


def ended(secret: SecretRecord, now: int) -> bool:
    """Whether this secret is good no more at `now` (µs)."""
    return secret.valid_until is not None and secret.valid_until <= now


def covers(scopes: tuple[str, ...], need: str) -> bool:
    """Whether these scopes cover `need`: itself, or `*` for whatever is not Keyledger's own."""
    return need in scopes or (WILDCARD in scopes and not need.startswith(RESERVED))


def parse_address(text: str) -> Address:
    """The address in `text`; an IPv4 address written as IPv6 is its IPv4 self. `ValueError` if none."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def address_allowed(allowed: tuple[str, ...] | None, address: Address | None) -> bool:
    """Whether a key with this list may be used from `address`; a list lets no unknown address in."""
    if allowed is None:
        return True
    return address is not None and any(address in network for network in _networks(allowed))


def _proven(text: str | bytes, record: KeyRecord | None, peppers: Peppers) -> SecretRecord | None:
    """The secret that `text` is, newest first; one keyed hash whatever the record holds."""
    digest, active, foreign = peppers.digest(text), peppers.active, isinstance(text, bytes)
    found: SecretRecord | None = None
    for secret in _NOBODY if record is None else record.secrets:
        if secret.foreign is not foreign:
            continue
        expected = secret.digests.get(active)
        if expected is not None:
            same = compare_digest(digest, expected)
        elif secret.digests:
            # recorded under another pepper that may still be held
            same = peppers.proves(text, secret.digests)
        else:
            same = compare_digest(digest, b"")
        if same and found is None:
            found = secret
    return found


def _fitness(record: KeyRecord, needs: Needs) -> str | None:
    """The refusal that comes from what was asked of the key."""
    for environment in needs.environments:
        if environment != record.environment:
            return WRONG_ENVIRONMENT
    if record.allowed_ips is not None and not address_allowed(record.allowed_ips, needs.ip):
        return IP_NOT_ALLOWED
    for scope in needs.scopes:
        # the usual case without a call
        if scope not in record.scopes and not covers(record.scopes, scope):
            return INSUFFICIENT_PERMISSIONS
    return None


def code_of(limit: LimitState) -> str:
    """The code that this limit refuses with."""
    return QUOTA_EXCEEDED if limit.policy in QUOTAS else RATE_LIMITED


def demands(record: KeyRecord, workspace: WorkspaceRecord) -> tuple[Demand, ...]:
    """What a use of this key must keep: the rate limits and quotas of its workspace, and its own."""
    limit, own = workspace.rate_limit, record.rate_limit
    owner, outage = workspace.workspace_id, limit.on_outage or "static"
    shared = Demand("workspace", owner, limit.limit, limit.window_seconds, outage, limit.before, limit.since)
    if own is None and workspace.quota is None and record.quota is None:
        return (shared,)
    found = [shared]
    if own is not None:
        policy = own.on_outage or outage
        found.append(
            Demand("key", record.key_id, own.limit, own.window_seconds, policy, own.before, own.since)
        )
    for policy, holder, quota in (
        (WORKSPACE_QUOTA, owner, workspace.quota),
        (KEY_QUOTA, record.key_id, record.quota),
    ):
        if quota is not None:
            found.append(Demand(policy, holder, quota.limit, quota.period, "closed", since=quota.since))
    return tuple(found)


@lru_cache(maxsize=4096)
def _networks(allowed: tuple[str, ...]) -> tuple[Network, ...]:
    """The parsed list; an entry that is no network lets nobody in."""
    networks: list[Network] = []
    for entry in allowed:
        try:
            networks.append(_unmapped(ipaddress.ip_network(entry, strict=False)))
        except ValueError:
            continue
    return tuple(networks)


def _unmapped(network: Network) -> Network:
    """A network of IPv4 addresses written as IPv6, as its IPv4 self."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        inner = network.network_address.ipv4_mapped
        if inner is not None:
            return ipaddress.IPv4Network((inner, network.prefixlen - _MAPPED_BITS))
    return network

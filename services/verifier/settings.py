"""The verifier's settings; URLs that may hold a password, and secrets, stay out of the repr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keyledger.server.settings import Reader, SettingsError, is_loopback, read_secret
from keyledger.token import DEFAULT_PREFIX, Secret, is_prefix

DEFAULT_PORT = 8402


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to listen, what to follow, and what to believe. Durations are in seconds."""

    host: str
    port: int
    keys_url: str
    peppers: Path
    spool: Path
    nats: str = field(repr=False)
    service_key: Secret = field(repr=False)
    prefixes: tuple[str, ...] = (DEFAULT_PREFIX,)
    client_ip_header: str | None = None
    trusted_hops: int = 1
    max_staleness: float = 300.0
    held_seconds: float = 900.0
    verifier_token: Secret | None = field(default=None, repr=False)
    log_level: str = "INFO"
    prove_key: Secret | None = field(default=None, repr=False)
    """A key of scope `keyledger:prove`; without one a secret whose pepper is lost stays refused."""


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read them; `SettingsError` lists every name that is missing or wrong.

    Beyond loopback the callers must authenticate: without a token file another host is refused.
    """
    reader = Reader(environment)
    host = reader.text("KEYLEDGER_HOST", "127.0.0.1")
    port = reader.integer("KEYLEDGER_PORT", DEFAULT_PORT)
    nats = reader.text("KEYLEDGER_NATS")
    keys_url = reader.url("KEYLEDGER_KEYS_URL")
    peppers = reader.path("KEYLEDGER_PEPPERS")
    key_file = reader.path("KEYLEDGER_SERVICE_KEY_FILE")
    spool = reader.path("KEYLEDGER_SPOOL")
    ip_header = reader.text("KEYLEDGER_CLIENT_IP_HEADER", "")
    hops = reader.integer("KEYLEDGER_TRUSTED_HOPS", 1, least=1)
    prefix = reader.text("KEYLEDGER_TOKEN_PREFIX", DEFAULT_PREFIX)
    old = reader.text("KEYLEDGER_TOKEN_PREFIXES_OLD", "")
    staleness = reader.number("KEYLEDGER_MAX_STALENESS", 300)
    held = reader.number("KEYLEDGER_HELD_SECONDS", 900)
    token_file = reader.text("KEYLEDGER_VERIFIER_TOKEN_FILE", "")
    log_level = reader.text("KEYLEDGER_LOG_LEVEL", "INFO")
    prove_file = reader.text("KEYLEDGER_PROVE_KEY_FILE", "")
    reader.finish()
    if not is_loopback(host) and not token_file:
        raise SettingsError("KEYLEDGER_HOST is beyond loopback and needs KEYLEDGER_VERIFIER_TOKEN_FILE")
    return Settings(
        host,
        port,
        keys_url,
        peppers,
        spool,
        nats,
        Secret(read_secret(key_file)),
        _prefixes(prefix, old),
        ip_header.lower() or None,
        hops,
        staleness,
        held,
        Secret(read_secret(Path(token_file))) if token_file else None,
        log_level,
        Secret(read_secret(Path(prove_file))) if prove_file else None,
    )


def _prefixes(today: str, old: str) -> tuple[str, ...]:
    prefixes = (today, *(prefix.strip() for prefix in old.split(",") if prefix.strip()))
    if not all(is_prefix(prefix) for prefix in prefixes):
        raise SettingsError(
            "KEYLEDGER_TOKEN_PREFIX or KEYLEDGER_TOKEN_PREFIXES_OLD is no [a-z][a-z0-9]{1,15}"
        )
    return prefixes

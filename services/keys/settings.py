"""The key service's settings, read once at start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from keyledger.server.settings import Reader, SettingsError
from keyledger.token import DEFAULT_PREFIX, is_prefix


class Settings(Struct, frozen=True, kw_only=True):
    """Where to listen, where the servers are, where the secrets lie; its repr shows no password."""

    host: str
    port: int
    postgres: str
    nats: str
    nats_replicas: int
    peppers: Path
    seal_secret_file: Path
    prefix: str
    old_prefixes: tuple[str, ...]
    longest_transaction: float
    log_level: str
    jwt_issuer: str
    """The dashboard's public address, as its tokens name it; empty: no user's token is accepted."""
    jwks_url: str

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Every token prefix that is accepted, today's first."""
        return (self.prefix, *self.old_prefixes)

    def __repr__(self) -> str:
        return f"Settings({self.host}:{self.port})"


def read(environment: Mapping[str, str]) -> Settings:
    """The settings in this environment; `SettingsError` lists all that is missing or wrong."""
    reader = Reader(environment)
    old = reader.text("KEYLEDGER_TOKEN_PREFIXES_OLD", "")
    issuer = reader.url("KEYLEDGER_JWT_ISSUER", "")
    settings = Settings(
        host=reader.text("KEYLEDGER_HOST", "127.0.0.1"),
        port=reader.integer("KEYLEDGER_PORT", 8401, least=1),
        postgres=reader.text("KEYLEDGER_POSTGRES"),
        nats=reader.text("KEYLEDGER_NATS"),
        nats_replicas=reader.integer("KEYLEDGER_NATS_REPLICAS", 1, least=1),
        peppers=reader.path("KEYLEDGER_PEPPERS"),
        seal_secret_file=reader.path("KEYLEDGER_SEAL_SECRET_FILE"),
        prefix=reader.text("KEYLEDGER_TOKEN_PREFIX", DEFAULT_PREFIX),
        old_prefixes=tuple(prefix.strip() for prefix in old.split(",") if prefix.strip()),
        # looked at every two seconds, so that the alarm is up before half a minute has passed
        longest_transaction=reader.number("KEYLEDGER_LONGEST_TRANSACTION", 25),
        log_level=reader.text("KEYLEDGER_LOG_LEVEL", "INFO"),
        jwt_issuer=issuer,
        jwks_url=reader.url("KEYLEDGER_JWKS_URL", issuer and f"{issuer}/.well-known/jwks.json"),
    )
    reader.finish()
    for prefix in (settings.prefix, *settings.old_prefixes):
        if not is_prefix(prefix):
            raise SettingsError(
                "KEYLEDGER_TOKEN_PREFIX: a prefix is 2 to 16 of a-z 0-9 and begins with a letter"
            )
    return settings

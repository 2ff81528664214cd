"""The usage service's settings; the DSN, the NATS URL and the service key stay out of the repr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyledger.server.settings import Reader, read_secret
from keyledger.token import Secret

DEFAULT_PORT = 8403


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to listen, and how to reach Postgres, NATS and the key service."""

    host: str
    port: int
    keys_url: str
    postgres: str = field(repr=False)
    nats: str = field(repr=False)
    service_key: Secret = field(repr=False)
    log_level: str = "INFO"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read them; `SettingsError` lists every name that is missing or wrong."""
    reader = Reader(environment)
    host = reader.text("KEYLEDGER_HOST", "127.0.0.1")
    port = reader.integer("KEYLEDGER_PORT", DEFAULT_PORT)
    postgres = reader.text("KEYLEDGER_POSTGRES")
    nats = reader.text("KEYLEDGER_NATS")
    keys_url = reader.url("KEYLEDGER_KEYS_URL")
    key_file = reader.path("KEYLEDGER_SERVICE_KEY_FILE")
    log_level = reader.text("KEYLEDGER_LOG_LEVEL", "INFO")
    reader.finish()
    key = Secret(read_secret(key_file))
    return Settings(host, port, keys_url, postgres, nats, key, log_level)

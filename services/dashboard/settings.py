"""The dashboard's settings; the DSN and the secrets stay out of the repr."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from keyledger.server.settings import Reader, SettingsError, is_loopback, read_secret
from keyledger.token import Secret

DEFAULT_PORT = 8400
HIGHEST_PORT = 65535
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){32,}")
_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})+")


@dataclass(frozen=True, slots=True)
class OpenId:
    """The OpenID provider, and who we are to it."""

    issuer: str
    client_id: str
    client_secret: Secret | None = field(repr=False)
    hosted_domain: str | None = None
    """Only accounts of this Google Workspace domain may come in."""

    @property
    def called(self) -> str:
        """What people call the provider."""
        return "Google" if self.issuer == "https://accounts.google.com" else urlsplit(self.issuer).netloc


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to listen, what address people use, and how to reach everything else."""

    host: str
    port: int
    public_url: str
    """The scheme, host and port that a browser shows, without a trailing slash; the JWTs' issuer."""
    keys_url: str
    usage_url: str
    verifier_url: str
    postgres: str = field(repr=False)
    seal_secret: Secret = field(repr=False)
    openid: OpenId | None = None
    """None: people come in by a one-time link, which only this machine can ask for."""
    log_level: str = "INFO"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host) and is_loopback(urlsplit(self.public_url).hostname or "")


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read them; `SettingsError` lists every name that is missing or wrong."""
    reader = Reader(environment)
    host = reader.text("KEYLEDGER_HOST", "127.0.0.1")
    port = reader.integer("KEYLEDGER_PORT", DEFAULT_PORT, least=1)
    if port > HIGHEST_PORT:
        reader.reject(f"KEYLEDGER_PORT is above {HIGHEST_PORT}")
    postgres = reader.text("KEYLEDGER_POSTGRES")
    public_url = reader.url("KEYLEDGER_PUBLIC_URL", f"http://127.0.0.1:{port}")
    keys_url = reader.url("KEYLEDGER_KEYS_URL", "http://127.0.0.1:8401")
    usage_url = reader.url("KEYLEDGER_USAGE_URL", "http://127.0.0.1:8403")
    verifier_url = reader.url("KEYLEDGER_VERIFIER_URL", "http://127.0.0.1:8402")
    seal_file = reader.path("KEYLEDGER_SEAL_SECRET_FILE")
    log_level = reader.text("KEYLEDGER_LOG_LEVEL", "INFO")
    _check_public_url(reader, public_url)
    openid = _openid(reader, host)
    reader.finish()
    seal_secret = read_secret(seal_file)
    if _HEX.fullmatch(seal_secret) is None:
        raise SettingsError("KEYLEDGER_SEAL_SECRET_FILE holds no 32 bytes, or more, as hex")
    return Settings(
        host, port, public_url, keys_url, usage_url, verifier_url, postgres, Secret(seal_secret), openid,
        log_level,
    )  # fmt: skip


def _openid(reader: Reader, host: str) -> OpenId | None:
    """The provider, when one is named; without one only this machine may be served."""
    issuer = reader.text("KEYLEDGER_OIDC_ISSUER", "")
    client_id = reader.text("KEYLEDGER_OIDC_CLIENT_ID", "")
    secret_file = reader.text("KEYLEDGER_OIDC_CLIENT_SECRET_FILE", "")
    domain = reader.text("KEYLEDGER_OIDC_HOSTED_DOMAIN", "").lower()
    if not issuer:
        _check_without_issuer(reader, host, client_id, secret_file, domain)
        return None
    if not _is_secure(issuer) or urlsplit(issuer).query or urlsplit(issuer).fragment:
        reader.reject("KEYLEDGER_OIDC_ISSUER is no https address (http only on loopback) without a query")
    if not client_id:
        reader.reject("KEYLEDGER_OIDC_CLIENT_ID is missing")
    if domain and _DOMAIN.fullmatch(domain) is None:
        reader.reject("KEYLEDGER_OIDC_HOSTED_DOMAIN is no domain")
    secret = None
    if secret_file:
        try:
            secret = Secret(read_secret(Path(secret_file)))
        except SettingsError as error:
            reader.reject(f"KEYLEDGER_OIDC_CLIENT_SECRET_FILE: {error}")
    return OpenId(issuer, client_id, secret, domain or None)


def _check_without_issuer(reader: Reader, host: str, client_id: str, secret_file: str, domain: str) -> None:
    given = {"CLIENT_ID": client_id, "CLIENT_SECRET_FILE": secret_file, "HOSTED_DOMAIN": domain}
    for name in (name for name, value in given.items() if value):
        reader.reject(f"KEYLEDGER_OIDC_{name} is given without KEYLEDGER_OIDC_ISSUER")
    if not is_loopback(host):
        reader.reject("KEYLEDGER_OIDC_ISSUER is missing: beyond loopback people sign in with a provider")


def _check_public_url(reader: Reader, url: str) -> None:
    parts = urlsplit(url)
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        reader.reject("KEYLEDGER_PUBLIC_URL has more than a scheme, a host and a port")
    elif url and not _is_secure(url):
        # a browser keeps the session's cookies over https, or from its own machine
        reader.reject("KEYLEDGER_PUBLIC_URL is no https address (http only on loopback)")


def _is_secure(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    host = parts.hostname or ""
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))

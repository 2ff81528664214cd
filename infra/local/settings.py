"""What the environment may say about the local run: host, ports, home, and servers given by the user."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.local.errors import LocalRunError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT_BASE = 8400
PORT_OFFSETS = {
    "dashboard": 0,
    "keys": 1,
    "verifier": 2,
    "usage": 3,
    "contacts": 4,
    "nats": 22,
    "postgres": 32,
}


_PASSED_ON = (
    *("PATH", "HOME", "LANG", "TZ"),
    *("KEYLEDGER_LOG_LEVEL", "KEYLEDGER_TOKEN_PREFIX", "KEYLEDGER_WORKERS"),
    *("KEYLEDGER_OIDC_ISSUER", "KEYLEDGER_OIDC_CLIENT_ID"),
    *("KEYLEDGER_OIDC_CLIENT_SECRET_FILE", "KEYLEDGER_OIDC_HOSTED_DOMAIN"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one local run. DSN and URL may hold a password, so they stay out of the repr."""

    host: str
    port_base: int
    home: Path
    given_public_url: str | None
    has_provider: bool
    """People sign in with an OpenID provider; else by a link, and only on this machine."""
    postgres: str | None = field(repr=False)
    nats: str | None = field(repr=False)
    passed_on: Mapping[str, str]

    def port(self, name: str) -> int:
        """The TCP port of a service or server, by its name in PORT_OFFSETS."""
        return self.port_base + PORT_OFFSETS[name]

    @property
    def reachable_host(self) -> str:
        """The address at which this machine reaches what listens on `host`, ready for a URL."""
        match self.host:
            case "0.0.0.0":  # noqa: S104 - recognised here, never bound
                return "127.0.0.1"
            case "::":
                return "[::1]"
            case host:
                return f"[{host}]" if ":" in host else host

    @property
    def loopback(self) -> str:
        """Where Postgres and NATS listen: `host` when it is a loopback address, else 127.0.0.1."""
        return self.host if self.is_loopback and self.host != "localhost" else DEFAULT_HOST

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the services."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def dashboard_host(self) -> str:
        """Where the dashboard listens: beyond loopback only when there is a provider to sign in with."""
        return self.host if self.has_provider or self.is_loopback else self.loopback

    @property
    def public_url(self) -> str:
        """The address of the dashboard that a browser shows."""
        return self.given_public_url or self.url("dashboard")

    def url(self, name: str) -> str:
        """The base URL of a service, as a caller on this machine writes it."""
        if name == "dashboard" and self.dashboard_host != self.host:
            return f"http://{self.dashboard_host}:{self.port(name)}"
        return f"http://{self.reachable_host}:{self.port(name)}"


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings; an empty variable counts as unset. LocalRunError names a bad one."""
    home = environ.get("KEYLEDGER_HOME") or str(default_home())
    return Settings(
        host=environ.get("KEYLEDGER_HOST") or DEFAULT_HOST,
        port_base=_port_base(environ.get("KEYLEDGER_PORT_BASE") or str(DEFAULT_PORT_BASE)),
        home=Path(home).expanduser().absolute(),
        given_public_url=(environ.get("KEYLEDGER_PUBLIC_URL") or "").rstrip("/") or None,
        has_provider=bool(environ.get("KEYLEDGER_OIDC_ISSUER")),
        postgres=environ.get("KEYLEDGER_POSTGRES") or None,
        nats=environ.get("KEYLEDGER_NATS") or None,
        passed_on={name: environ[name] for name in _PASSED_ON if environ.get(name)},
    )


def _port_base(text: str) -> int:
    highest = 65535 - max(PORT_OFFSETS.values())
    if not (text.isascii() and text.isdigit() and 1024 <= int(text) <= highest):
        raise LocalRunError(f"KEYLEDGER_PORT_BASE must be a number from 1024 to {highest}, not {text!r}")
    return int(text)


def default_home() -> Path:
    """The home of a run that was told of none."""
    return _checkout() / ".keyledger"


def _checkout() -> Path:
    """The checkout this file lies in, or the current folder when it was installed without one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else Path.cwd()

"""The services of a local run as data: what each runs and what its environment holds, built from nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from infra.local.child import ChildSpec
from infra.local.home import Home
from infra.local.settings import Settings

MODULES = {
    "keys": "services.keys",
    "verifier": "services.verifier",
    "usage": "services.usage",
    "dashboard": "services.dashboard",
    "contacts": "examples.contacts",
}
OPENID = (
    "KEYLEDGER_OIDC_ISSUER",
    "KEYLEDGER_OIDC_CLIENT_ID",
    "KEYLEDGER_OIDC_CLIENT_SECRET_FILE",
    "KEYLEDGER_OIDC_HOSTED_DOMAIN",
)


@dataclass(frozen=True, slots=True)
class Servers:
    """How each service reaches Postgres and NATS, by its name. Both hold passwords."""

    postgres: Mapping[str, str] = field(repr=False)
    nats: Mapping[str, str] = field(repr=False)


ServiceSpecs = Callable[[Settings, Home, Servers], Sequence[ChildSpec]]


def service_specs(settings: Settings, home: Home, servers: Servers) -> list[ChildSpec]:
    """The services, in the order in which they start."""
    keys_url = settings.url("keys")
    # the dashboard's key set is read where it listens, whatever address people use
    key_set = f"{settings.url('dashboard')}/.well-known/jwks.json"
    # on loopback whoever can ask the verifier is on this machine already
    token = {} if settings.is_loopback else {"KEYLEDGER_VERIFIER_TOKEN_FILE": str(home.verifier_token)}
    return [
        _spec(settings, servers, "keys", {
            "KEYLEDGER_POSTGRES": servers.postgres["keys"],
            "KEYLEDGER_PEPPERS": str(home.peppers),
            "KEYLEDGER_SEAL_SECRET_FILE": str(home.seal_secret),
            "KEYLEDGER_JWT_ISSUER": settings.public_url,
            "KEYLEDGER_JWKS_URL": key_set,
        }, passed_on=("KEYLEDGER_TOKEN_PREFIX",)),
        _spec(settings, servers, "verifier", {
            "KEYLEDGER_PEPPERS": str(home.peppers),
            "KEYLEDGER_KEYS_URL": keys_url,
            "KEYLEDGER_SERVICE_KEY_FILE": str(home.secrets / "verifier"),
            "KEYLEDGER_PROVE_KEY_FILE": str(home.secrets / "verifier-prove"),
            "KEYLEDGER_SPOOL": str(home.spool),
            "KEYLEDGER_STORE": str(home.verifier),
            "KEYLEDGER_CLIENT_IP_HEADER": "X-Keyledger-Client-IP",
            # nobody stands before it who would have to learn that it stops
            "KEYLEDGER_DRAIN_SECONDS": "0",
            **token,
        }, passed_on=("KEYLEDGER_TOKEN_PREFIX", "KEYLEDGER_WORKERS", "KEYLEDGER_LIMITS")),
        _spec(settings, servers, "usage", {
            "KEYLEDGER_POSTGRES": servers.postgres["usage"],
            "KEYLEDGER_KEYS_URL": keys_url,
            "KEYLEDGER_SERVICE_KEY_FILE": str(home.secrets / "usage"),
        }),
        _spec(settings, servers, "dashboard", {
            "KEYLEDGER_HOST": settings.dashboard_host,
            "KEYLEDGER_POSTGRES": servers.postgres["dashboard"],
            "KEYLEDGER_SEAL_SECRET_FILE": str(home.dashboard_secret),
            "KEYLEDGER_PUBLIC_URL": settings.public_url,
            "KEYLEDGER_KEYS_URL": keys_url,
            "KEYLEDGER_USAGE_URL": settings.url("usage"),
            "KEYLEDGER_VERIFIER_URL": settings.url("verifier"),
        }, passed_on=OPENID),
        _spec(settings, servers, "contacts", {"KEYLEDGER_VERIFIER_URL": settings.url("verifier"), **token}),
    ]  # fmt: skip


def _spec(
    settings: Settings, servers: Servers, name: str, own: Mapping[str, str], *, passed_on: Sequence[str] = ()
) -> ChildSpec:
    passed_on = ("PATH", "HOME", "LANG", "TZ", "KEYLEDGER_LOG_LEVEL", *passed_on)
    env = {variable: settings.passed_on[variable] for variable in passed_on if variable in settings.passed_on}
    env |= {
        "PYTHONUNBUFFERED": "1",
        "KEYLEDGER_HOST": settings.host,
        "KEYLEDGER_PORT": str(settings.port(name)),
    }
    if name in servers.nats:
        env["KEYLEDGER_NATS"] = servers.nats[name]
    return ChildSpec(
        name=name,
        # -P: the folder it runs in is no place to import from.
        argv=[sys.executable, "-P", "-m", MODULES[name]],
        env={**env, **own},
        port=settings.port(name),
        host=(
            settings.dashboard_host
            if name == "dashboard" and settings.dashboard_host != settings.host
            else settings.reachable_host
        ).strip("[]"),
    )

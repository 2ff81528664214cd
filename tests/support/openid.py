"""A real OpenID provider as a process: npm's `oidc-provider`, strict, with accounts of the tests."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.asgi_server import free_port
from tests.support.npm import NODE, modules
from tests.support.processes import Process

FOLDER = Path(__file__).parents[1] / "browser" / "provider"
CLIENT_ID = "keyledger-dashboard"
CLIENT_SECRET = "a secret that only the tests know, and long enough"
DOMAIN = "example.com"

ACCOUNTS: dict[str, dict[str, Any]] = {
    name: {
        "email": f"{name}@{DOMAIN}", "email_verified": True, "name": f"{name.title()} Example", "hd": DOMAIN,
    }
    for name in ("ada", "ben", "cleo", "dan", "eve", "finn", "gus", "hal", "ida", "jo")
} | {
    "unverified": {"email": f"mallory@{DOMAIN}", "email_verified": False, "name": "Mallory", "hd": DOMAIN},
    "outsider": {"email": "o@other.example", "email_verified": True, "name": "O", "hd": "other.example"},
    "long": {"email": f"{'m' * 64}@{DOMAIN}", "email_verified": True, "name": "L" * 120, "hd": DOMAIN},
}  # fmt: skip


@dataclass(frozen=True)
class Provider:
    """Where it answers, and who it is to the dashboard."""

    issuer: str

    def environment(self, folder: Path) -> dict[str, str]:
        """The settings of a dashboard that signs in with it; the secret goes into a file in `folder`."""
        return settings(self.issuer, folder)


def settings(issuer: str, folder: Path) -> dict[str, str]:
    """The settings of a dashboard that signs in with this issuer."""
    secret = folder / "client-secret"
    secret.write_text(CLIENT_SECRET)
    secret.chmod(0o600)
    return {
        "KEYLEDGER_OIDC_ISSUER": issuer,
        "KEYLEDGER_OIDC_CLIENT_ID": CLIENT_ID,
        "KEYLEDGER_OIDC_CLIENT_SECRET_FILE": str(secret),
        "KEYLEDGER_OIDC_HOSTED_DOMAIN": DOMAIN,
    }


@asynccontextmanager
async def running(folder: Path, *, callback: str) -> AsyncGenerator[Provider]:
    """Start it for one client with this callback address.

    It is called `localhost` and the dashboard 127.0.0.1: to the browser two sites, as they are elsewhere.
    """
    modules(FOLDER)
    port = free_port()
    issuer = f"http://localhost:{port}"
    told = {
        "port": port,
        "issuer": issuer,
        "client": {
            "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "redirect_uris": [callback],
            "token_endpoint_auth_method": "client_secret_basic",
        },
        "accounts": ACCOUNTS,
    }  # fmt: skip
    argv = [NODE, FOLDER / "provider.mjs", json.dumps(told)]
    with Process(argv, log=folder / "provider.log", env={"HOME": str(folder)}) as process:
        await process.wait_ready(f"{issuer}/.well-known/openid-configuration", within=20)
        yield Provider(issuer)

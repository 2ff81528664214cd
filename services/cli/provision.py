"""Preparing a local run: every service's schema, the system workspace, and the way into the dashboard."""

from __future__ import annotations

import secrets as random
from collections.abc import Mapping
from pathlib import Path

import services
from infra.local.errors import LocalRunError
from keyledger.clock import SECOND, SystemClock
from keyledger.server import postgres
from keyledger.server.settings import SettingsError, read_secret
from keyledger.token import Secret
from services.dashboard.domain import login_link
from services.keys import provision

#: Each service keeps its schema beside the code that owns it.
FOLDERS = [
    Path(services.__file__).parent / service / "adapters" / "migrations"
    for service in ("keys", "usage", "dashboard")
]


async def migrate(admin_dsn: str, *, role_passwords: Mapping[str, str] | None) -> None:
    """Bring the schema up to date; with `role_passwords` the run-time roles log in with them."""
    await postgres.migrate(admin_dsn, FOLDERS, role_passwords=role_passwords)


async def bootstrap(
    dsn: str,
    *,
    peppers: Path,
    seal_secret_file: Path,
    out: Path,
    secrets: Path,
    resume: bool = True,
    renew: bool = False,
) -> tuple[str, ...]:
    """Make what is missing of the system workspace and its keys; see `services.keys.provision`."""
    try:
        return await provision.bootstrap(
            dsn,
            peppers=peppers,
            seal_secret_file=seal_secret_file,
            out=out,
            secrets=secrets,
            resume=resume,
            renew=renew,
        )
    except (provision.AlreadyBootstrapped, provision.ServiceKeyRevoked) as refused:
        raise LocalRunError(str(refused)) from None


def sign_in_link(public_url: str, secret_file: Path) -> str:
    """A link that signs this machine's user in to the dashboard, once, within five minutes."""
    try:
        secret = Secret(read_secret(secret_file))
    except SettingsError as error:
        raise LocalRunError(str(error)) from None
    now = SystemClock().now() // SECOND
    token = login_link.make(secret, random_hex=random.token_hex(16), now_seconds=now)
    return f"{public_url}{login_link.PATH}?token={token.reveal()}"

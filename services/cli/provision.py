"""Preparing a database for all services: every service's schema, then the system workspace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import services
from infra.local.errors import LocalRunError
from keyledger.server import postgres
from services.keys import provision

#: Each service keeps its schema beside the code that owns it.
FOLDERS = [
    Path(services.__file__).parent / service / "adapters" / "migrations" for service in ("keys", "usage")
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

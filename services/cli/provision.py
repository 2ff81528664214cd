"""Preparing a database for all services: every service's schema, then the system workspace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import services
from keyledger.server import postgres
from services.keys.provision import AlreadyBootstrapped, bootstrap

#: Each service keeps its schema beside the code that owns it.
FOLDERS = [
    Path(services.__file__).parent / service / "adapters" / "migrations" for service in ("keys", "usage")
]


async def migrate(admin_dsn: str, *, role_passwords: Mapping[str, str] | None) -> None:
    """Bring the schema up to date; with `role_passwords` the run-time roles log in with them."""
    await postgres.migrate(admin_dsn, FOLDERS, role_passwords=role_passwords)


__all__ = ["AlreadyBootstrapped", "bootstrap", "migrate"]

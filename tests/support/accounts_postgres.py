"""A migrated database for the dashboard, reached as its own run-time role."""

from pathlib import Path
from urllib.parse import urlsplit

from keyledger.server.postgres import migrate
from services.dashboard.adapters import store as adapter

MIGRATIONS = Path(adapter.__file__).parent / "migrations"
PASSWORD = "dashboardtests"


async def prepare(admin: str) -> str:
    """Apply the dashboard's migrations; return the DSN of its run-time role."""
    await migrate(admin, [MIGRATIONS], role_passwords={"keyledger_dashboard": PASSWORD})
    parts = urlsplit(admin)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"keyledger_dashboard:{PASSWORD}@{host}").geturl()

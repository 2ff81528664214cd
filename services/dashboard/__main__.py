"""`python -m services.dashboard`: the dashboard, configured by the environment."""

from __future__ import annotations

import sys

from keyledger.server.serving import serve
from keyledger.server.settings import SettingsError, read_environment
from keyledger.server.telemetry import configure_logging
from services.dashboard.app import build_app
from services.dashboard.routes.static import AssetsMissing
from services.dashboard.settings import read_settings


def main() -> int:
    """Serve until a signal; 2 when the settings are wrong or the pages' files are not built."""
    try:
        settings = read_settings(read_environment())
        configure_logging("dashboard", settings.log_level)
        app = build_app(settings)
    except (SettingsError, AssetsMissing) as error:
        sys.stderr.write(f"dashboard: {error}\n")
        return 2
    serve(app, host=settings.host, port=settings.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m services.usage`: the usage service, configured by the environment."""

from __future__ import annotations

import sys

from keyledger.server.edge import Edge
from keyledger.server.serving import serve
from keyledger.server.settings import SettingsError, read_environment
from keyledger.server.telemetry import configure_logging
from services.usage.app import build_app
from services.usage.settings import read_settings


def main() -> int:
    """Serve until a signal; 2 when the settings are wrong."""
    try:
        settings = read_settings(read_environment())
    except SettingsError as error:
        sys.stderr.write(f"usage: {error}\n")
        return 2
    configure_logging("usage", settings.log_level)
    serve(Edge(build_app(settings)), host=settings.host, port=settings.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())

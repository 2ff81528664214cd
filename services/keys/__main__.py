"""`python -m services.keys`: the key service, configured by the environment."""

from __future__ import annotations

import sys

from keyledger.server.serving import serve
from keyledger.server.settings import SettingsError, read_environment
from keyledger.server.telemetry import configure_logging
from services.keys.app import Service
from services.keys.settings import read


def main() -> int:
    """Run until a signal; 2 when the settings are wrong."""
    try:
        settings = read(read_environment())
    except SettingsError as error:
        sys.stderr.write(f"keys: {error}\n")
        return 2
    configure_logging("keys", settings.log_level)
    serve(Service(settings), host=settings.host, port=settings.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m examples.embedded`: the API on KEYLEDGER_HOST and KEYLEDGER_PORT (8405)."""

from __future__ import annotations

import sys

from examples.embedded.app import Guard, greet
from keyledger.digest import PepperError
from keyledger.server.serving import serve
from keyledger.server.settings import Reader, SettingsError, read_environment, read_secret
from keyledger.verification import Verifier


def main() -> int:
    """Serve until a signal; 2 when the settings are wrong."""
    reader = Reader(read_environment())
    host = reader.text("KEYLEDGER_HOST", "127.0.0.1")
    port = reader.integer("KEYLEDGER_PORT", 8405)
    keys_url = reader.url("KEYLEDGER_KEYS_URL", "http://127.0.0.1:8401")
    nats = reader.text("KEYLEDGER_NATS")
    key_file = reader.path("KEYLEDGER_SERVICE_KEY_FILE")
    peppers = reader.path("KEYLEDGER_PEPPERS")
    folder = reader.path("KEYLEDGER_STATE")
    try:
        reader.finish()
        verifier = Verifier(
            keys_url=keys_url,
            service_key=read_secret(key_file),
            nats=nats,
            peppers=peppers,
            folder=folder,
        )
    except (SettingsError, PepperError, ValueError, OSError) as error:
        sys.stderr.write(f"embedded: {error}\n")
        return 2
    serve(Guard(greet, verifier, scopes=["greetings:read"]), host=host, port=port)
    return 0


if __name__ == "__main__":
    sys.exit(main())

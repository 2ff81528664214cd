"""`python -m examples.contacts`: the API on KEYLEDGER_HOST and KEYLEDGER_PORT (8404)."""

from __future__ import annotations

import sys

from examples.contacts.app import build_app
from keyledger.client.gateway import Gateway
from keyledger.server.edge import Edge
from keyledger.server.serving import serve
from keyledger.server.settings import Reader, SettingsError, read_environment


def main() -> int:
    """Serve until a signal; 2 when the settings are wrong."""
    reader = Reader(read_environment())
    host = reader.text("KEYLEDGER_HOST", "127.0.0.1")
    port = reader.integer("KEYLEDGER_PORT", 8404)
    verifier = reader.url("KEYLEDGER_VERIFIER_URL", "http://127.0.0.1:8402")
    try:
        reader.finish()
    except SettingsError as error:
        sys.stderr.write(f"contacts: {error}\n")
        return 2
    serve(Edge(build_app(Gateway(verifier))), host=host, port=port)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m examples.contacts`: the API on KEYLEDGER_HOST and KEYLEDGER_PORT (8404)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from examples.contacts.app import build_app
from keyledger.client.gateway import Gateway
from keyledger.client.identity import TrustedGateways
from keyledger.server.edge import Edge
from keyledger.server.serving import serve
from keyledger.server.settings import Reader, SettingsError, read_environment, read_secret
from keyledger.server.telemetry import configure_logging
from keyledger.token import Secret


def main() -> int:
    """Serve until a signal; 2 when the settings are wrong."""
    reader = Reader(read_environment())
    host = reader.text("KEYLEDGER_HOST", "127.0.0.1")
    port = reader.integer("KEYLEDGER_PORT", 8404)
    verifier = reader.url("KEYLEDGER_VERIFIER_URL", "http://127.0.0.1:8402")
    token_file = reader.text("KEYLEDGER_VERIFIER_TOKEN_FILE", "")
    gateways = [
        each.strip() for each in reader.text("KEYLEDGER_TRUSTED_GATEWAYS", "").split(",") if each.strip()
    ]
    try:
        reader.finish()
        token = Secret(read_secret(Path(token_file))) if token_file else None
        app = build_app(Gateway(verifier, token=token), trusted_gateways=_networks(gateways))
    except SettingsError as error:
        sys.stderr.write(f"contacts: {error}\n")
        return 2
    configure_logging("contacts")
    serve(Edge(app), host=host, port=port)
    return 0


def _networks(gateways: Sequence[str]) -> Sequence[str]:
    """The same, once each is known to be an address or a network."""
    try:
        TrustedGateways(gateways)
    except ValueError:
        raise SettingsError("KEYLEDGER_TRUSTED_GATEWAYS is no list of addresses or networks") from None
    return gateways


if __name__ == "__main__":
    sys.exit(main())

"""TLS for the listener, and certificates as what callers authenticate by."""

from __future__ import annotations

import ssl
from pathlib import Path


class TlsError(Exception):
    """A file cannot be used; the message says which setting's, and why."""


def server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or later; with `client_ca` only callers with a certificate signed by it are let in.

    Raises `TlsError`. The files are read once: a renewed certificate needs a restart.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # a client must not make us compute keys again and again
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # a key under a password is refused, not asked for
        context.load_cert_chain(certificate, key, password=b"")
    except (OSError, ValueError) as error:
        raise TlsError(f"KEYLEDGER_TLS_CERT and KEYLEDGER_TLS_KEY: {_why(error)}") from None
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise TlsError(f"KEYLEDGER_TLS_CLIENT_CA: {_why(error)}") from None
    return context


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM files that belong together"
    return (error.strerror if isinstance(error, OSError) else None) or "cannot be used"

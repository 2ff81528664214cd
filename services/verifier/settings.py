"""The verifier's settings; URLs that may hold a password, and secrets, stay out of the repr."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from keyledger.server.settings import Reader, SettingsError, is_loopback, read_secret
from keyledger.token import DEFAULT_PREFIX, Secret, is_prefix

DEFAULT_PORT = 8402
MAX_WORKERS = 64
WORKER = "KEYLEDGER_WORKER"
"""Set by the parent of several workers for each of them, and by nobody else."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. With `client_ca` a caller needs a certificate that it signed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """Which of several processes this is: the one of `index` among those that serve, or the one that follows.

    `sockets`, `lifeline` and `counts` are inherited file descriptors. The lifeline ends when the parent does;
    `counts` is memory that all who serve count in.
    """

    index: int | None
    sockets: tuple[int, ...]
    lifeline: int
    counts: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to listen, what to follow, and what to believe. Durations are in seconds."""

    host: str
    port: int
    keys_url: str
    peppers: Path
    spool: Path
    nats: str = field(repr=False)
    service_key: Secret = field(repr=False)
    prefixes: tuple[str, ...] = (DEFAULT_PREFIX,)
    client_ip_header: str | None = None
    trusted_hops: int = 1
    max_staleness: float = 300.0
    held_seconds: float = 900.0
    verifier_token: Secret | None = field(default=None, repr=False)
    log_level: str = "INFO"
    prove_key: Secret | None = field(default=None, repr=False)
    """A key of scope `keyledger:prove`; without one a secret whose pepper is lost stays refused."""
    tls: Tls | None = None
    drain_seconds: float = 2.0
    """For how long a verifier that is told to stop says so, and still answers, before it closes."""
    keep_alive_seconds: float = 75.0
    """For how long a connection without a request is kept: longer than the idle pools of gateways."""
    max_connections: int = 4096
    """Of one process."""
    store: Path | None = None
    """The folder of this verifier alone in which its projection lives; beside the spool unless named."""
    workers: int = 1
    """Processes that serve; with more than one another one follows, and a parent looks after them."""
    worker: Worker | None = None
    limits: str = "shared"
    """Who counts limits: all verifiers together (`shared`), or this one alone (`local`)."""

    @property
    def folder(self) -> Path:
        """Where the projection lives."""
        return self.store or self.spool.with_name(f"{self.spool.name}-state")


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read them; `SettingsError` lists every name that is missing or wrong.

    Beyond loopback the callers must authenticate: without a token file or a CA of theirs another host is
    refused.
    """
    reader = Reader(environment)
    host = reader.text("KEYLEDGER_HOST", "127.0.0.1")
    port = reader.integer("KEYLEDGER_PORT", DEFAULT_PORT)
    nats = reader.text("KEYLEDGER_NATS")
    keys_url = reader.url("KEYLEDGER_KEYS_URL")
    peppers = reader.path("KEYLEDGER_PEPPERS")
    key_file = reader.path("KEYLEDGER_SERVICE_KEY_FILE")
    spool = reader.path("KEYLEDGER_SPOOL")
    ip_header = reader.text("KEYLEDGER_CLIENT_IP_HEADER", "")
    hops = reader.integer("KEYLEDGER_TRUSTED_HOPS", 1, least=1)
    prefix = reader.text("KEYLEDGER_TOKEN_PREFIX", DEFAULT_PREFIX)
    old = reader.text("KEYLEDGER_TOKEN_PREFIXES_OLD", "")
    staleness = reader.number("KEYLEDGER_MAX_STALENESS", 300)
    held = reader.number("KEYLEDGER_HELD_SECONDS", 900)
    token_file = reader.text("KEYLEDGER_VERIFIER_TOKEN_FILE", "")
    log_level = reader.text("KEYLEDGER_LOG_LEVEL", "INFO")
    prove_file = reader.text("KEYLEDGER_PROVE_KEY_FILE", "")
    drain = reader.number("KEYLEDGER_DRAIN_SECONDS", 2)
    keep_alive = reader.number("KEYLEDGER_KEEP_ALIVE_SECONDS", 75)
    connections = reader.integer("KEYLEDGER_MAX_CONNECTIONS", 4096, least=1)
    store = reader.text("KEYLEDGER_STORE", "")
    workers = reader.integer("KEYLEDGER_WORKERS", 1, least=1)
    worker = reader.text(WORKER, "")
    limits = reader.text("KEYLEDGER_LIMITS", "shared")
    tls = [reader.text(f"KEYLEDGER_TLS_{name}", "") for name in ("CERT", "KEY", "CLIENT_CA")]
    reader.finish()
    if not is_loopback(host) and not token_file and not tls[2]:
        raise SettingsError(
            "KEYLEDGER_HOST is beyond loopback and needs KEYLEDGER_VERIFIER_TOKEN_FILE, or "
            "KEYLEDGER_TLS_CLIENT_CA"
        )
    if limits not in {"shared", "local"}:
        raise SettingsError("KEYLEDGER_LIMITS is shared or local")
    if limits == "local" and workers > 1:
        raise SettingsError("KEYLEDGER_LIMITS=local counts in one process: KEYLEDGER_WORKERS must be 1")
    return Settings(
        host,
        port,
        keys_url,
        peppers,
        spool,
        nats,
        Secret(read_secret(key_file)),
        _prefixes(prefix, old),
        ip_header.lower() or None,
        hops,
        staleness,
        held,
        Secret(read_secret(Path(token_file))) if token_file else None,
        log_level,
        Secret(read_secret(Path(prove_file))) if prove_file else None,
        _tls(*tls),
        drain,
        keep_alive,
        connections,
        Path(store) if store else None,
        _workers(workers),
        _worker(worker) if worker else None,
        limits,
    )


def _workers(count: int) -> int:
    if count > MAX_WORKERS:
        raise SettingsError(f"KEYLEDGER_WORKERS is above {MAX_WORKERS}")
    return count


def _worker(text: str) -> Worker:
    """What the parent of a worker has written; see `worker_setting`."""
    try:
        index, sockets, lifeline, counts = text.split(" ")
        return Worker(
            None if index == "-" else int(index),
            tuple(int(each) for each in sockets.split(",") if each),
            int(lifeline),
            int(counts),
        )
    except ValueError:
        raise SettingsError(f"{WORKER} is for the workers of KEYLEDGER_WORKERS alone") from None


def worker_setting(worker: Worker) -> str:
    """What `read_settings` reads as this worker."""
    index = "-" if worker.index is None else worker.index
    return f"{index} {','.join(map(str, worker.sockets))} {worker.lifeline} {worker.counts}"


def _tls(certificate: str, key: str, client_ca: str) -> Tls | None:
    if not certificate and not key and not client_ca:
        return None
    if not certificate or not key:
        raise SettingsError("TLS needs both KEYLEDGER_TLS_CERT and KEYLEDGER_TLS_KEY")
    return Tls(Path(certificate), Path(key), Path(client_ca) if client_ca else None)


def _prefixes(today: str, old: str) -> tuple[str, ...]:
    prefixes = (today, *(prefix.strip() for prefix in old.split(",") if prefix.strip()))
    if not all(is_prefix(prefix) for prefix in prefixes):
        raise SettingsError(
            "KEYLEDGER_TOKEN_PREFIX or KEYLEDGER_TOKEN_PREFIXES_OLD is no [a-z][a-z0-9]{1,15}"
        )
    return prefixes

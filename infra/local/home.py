"""KEYLEDGER_HOME: the folder that holds all of a local run's data and secrets, for one supervisor at a time.

Folders are 0700 and files 0600. Nothing outside the folder has its mode changed. A file that must not be
half-written is written beside and renamed, since the next start trusts whatever it finds.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from infra.local.errors import LocalRunError

FIRST_PEPPER = "p1"
OWN_NAMES = frozenset({"peppers", "secrets", "seal.secret", "dashboard.secret", "audit.key", "lost+found"})
"""What an operator, or a file system, may have put into a new home."""


class Home:
    """The paths in one home. `claim` makes the folder and holds its lock."""

    def __init__(self, root: Path, *, unclean: bool = False) -> None:
        self.root = root
        self.unclean = unclean
        """The previous supervisor did not say goodbye: it was killed, or the machine stopped."""
        self.postgres = root / "postgres"
        self.nats = root / "nats"
        self.run = root / "run"
        self.logs = root / "logs"
        self.peppers = root / "peppers"
        self.secrets = root / "secrets"
        self.spool = root / "spool" / "verifier"
        self.verifier = root / "verifier"
        """Where the verifier keeps its projection."""
        self.seal_secret = root / "seal.secret"
        self.verifier_token = root / "verifier.token"
        """What callers beyond loopback send the verifier."""
        self.audit_key = root / "audit.key"
        """What signs exported heads of the log: the seed of an Ed25519 key."""
        self.dashboard_secret = root / "dashboard.secret"
        """What seals the keys that sign sessions, and makes one-time sign-in links."""
        self.bootstrap = root / "bootstrap.json"

    @classmethod
    @contextmanager
    def claim(cls, root: Path) -> Generator[Home]:
        """Make and lock the home for as long as the block runs. Raises LocalRunError when it is in use."""
        umask = os.umask(0o077)
        lock = None
        try:
            try:
                root.mkdir(parents=True, exist_ok=True, mode=0o700)
                _refuse_foreign(root)
                lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
                home = cls(root, unclean=_lock(lock, root))
                home._furnish()
            except OSError as error:
                raise LocalRunError(f"KEYLEDGER_HOME {root} cannot be used: {error}") from None
            yield home
            os.ftruncate(lock, 0)
        finally:
            os.umask(umask)
            if lock is not None:
                os.close(lock)

    def passwords(self, file: str, names: tuple[str, ...]) -> dict[str, str]:
        """The random passwords kept in a file of the home, made at first need; one for each name."""
        path = self.root / file
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        if missing := [name for name in names if name not in known]:
            known |= {name: secrets.token_hex(24) for name in missing}
            write_private(path, json.dumps(known, indent=2) + "\n")
        return {name: known[name] for name in names}

    def _furnish(self) -> None:
        self.root.chmod(0o700)
        spool = (self.spool.parent, self.spool)
        for folder in (self.nats, self.run, self.logs, self.peppers, self.secrets, self.verifier, *spool):
            folder.mkdir(exist_ok=True, mode=0o700)
        if not any(self.peppers.glob("*.pepper")):
            write_private(self.peppers / f"{FIRST_PEPPER}.pepper", secrets.token_hex(32) + "\n")
        for secret in (self.seal_secret, self.verifier_token, self.audit_key, self.dashboard_secret):
            if not secret.exists():
                write_private(secret, secrets.token_hex(32) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a 0600 file whole or not at all, and make it durable."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _refuse_foreign(root: Path) -> None:
    """Refuse a folder that is somebody's already: what follows changes its mode, as root even its group."""
    names = {entry.name for entry in root.iterdir()}
    if "lock" not in names and (foreign := names - OWN_NAMES):
        raise LocalRunError(
            f"KEYLEDGER_HOME {root} holds other things ({min(foreign)}); name a folder of its own"
        )


def _lock(lock: int, root: Path) -> bool:
    """Take the lock and write our pid in it. True when the previous holder left its own there."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        raise LocalRunError(
            f"another `keyledger up` (pid {holder}) runs in {root}; stop it, or set another KEYLEDGER_HOME"
        ) from None
    left = os.pread(lock, 32, 0)
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return bool(left.strip())

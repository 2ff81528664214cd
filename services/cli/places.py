"""Where a command finds the database and the secrets: what it was told, the environment, or the local run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from infra.local.errors import LocalRunError
from infra.local.remembered import settings_of_run
from infra.local.settings import Settings

READER = "keyledger_keys"
SUPERUSER = "keyledger"


class Places:
    """The places that one environment names, or that the run in its home was told of.

    Raises LocalRunError where there is none.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self.local: Settings = settings_of_run(self._environment)

    def database(self, dsn: str | None, *, owner: bool = False) -> str:
        """The database: `dsn`, KEYLEDGER_POSTGRES, or the local run's own, as a reader or as its owner."""
        if given := dsn or self.local.postgres:
            return given
        passwords = self.local.home / "postgres.json"
        if not passwords.is_file():
            raise LocalRunError(
                f"which database? set KEYLEDGER_POSTGRES or pass --dsn; {self.local.home} holds no local run"
            )
        role = SUPERUSER if owner else READER
        try:
            password: str = json.loads(passwords.read_text())[role]
        except (OSError, ValueError, KeyError) as error:
            raise LocalRunError(f"{passwords} cannot be used: {type(error).__name__}") from None
        host = f"[{self.local.loopback}]" if ":" in self.local.loopback else self.local.loopback
        port = self.local.port("postgres")
        return f"postgresql://{role}:{quote(password, safe='')}@{host}:{port}/postgres"

    def secret_file(self, variable: str, local: str, *, given_dsn: bool = False) -> Path | None:
        """The file that the variable names, else the local run's, unless `given_dsn` leads elsewhere.

        None when there is neither; a named file that is not there is an error.
        """
        if named := self._environment.get(variable):
            if not Path(named).is_file():
                raise LocalRunError(f"{variable} names {named}, which is no file")
            return Path(named)
        own = self.local.home / local
        return own if own.is_file() and not given_dsn else None


def read_hex(path: Path) -> str:
    """The text of a secret file; LocalRunError names the file and never what is in it."""
    try:
        text = path.read_text().strip()
        bytes.fromhex(text)
    except (OSError, ValueError):
        raise LocalRunError(f"{path} cannot be read as hex") from None
    return text

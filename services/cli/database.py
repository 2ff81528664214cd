"""`keyledger migrate` and `keyledger bootstrap`: preparing a database outside the local run."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import Parameter

from infra.local.errors import LocalRunError

SECONDS = 120.0
T = TypeVar("T")

Dsn = Annotated[str | None, Parameter(name="--dsn", help="The database; KEYLEDGER_POSTGRES when left out.")]


def migrate(*, dsn: Dsn = None) -> int:
    """Bring the schema of a database up to date. The run-time roles stay the operator's."""
    database = _database(dsn)
    from services.cli import provision  # noqa: PLC0415

    within(provision.migrate(database, role_passwords=None))
    print("the schema is up to date")
    return 0


def bootstrap(*, dsn: Dsn = None, secrets: Path | None = None) -> int:
    """Make the system workspace and print its id and management key as JSON, this once.

    KEYLEDGER_PEPPERS and KEYLEDGER_SEAL_SECRET_FILE name the secrets the key service will run with.

    Parameters
    ----------
    secrets
        The folder for the services' own keys (`verifier`, `verifier-prove`, `usage`); the current folder's
        `secrets` when left out.
    """
    folder = (secrets or Path("secrets")).absolute()
    database = _database(dsn)
    peppers, seal_secret = _given("KEYLEDGER_PEPPERS"), _given("KEYLEDGER_SEAL_SECRET_FILE")
    from services.cli import provision  # noqa: PLC0415

    os.umask(0o077)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=folder) as passing:
        out = Path(passing) / "bootstrap.json"
        made = within(
            provision.bootstrap(
                database, peppers=peppers, seal_secret_file=seal_secret, out=out, secrets=folder, resume=False
            )
        )
        if not made:
            raise LocalRunError("this database has its system workspace already; its key is shown only once")
        sys.stdout.write(out.read_text().rstrip() + "\n")
    return 0


def within(work: Coroutine[object, object, T]) -> T:
    """Run it to its end; a database that cannot be reached or used is a sentence, not a traceback."""

    async def bounded() -> T:
        async with asyncio.timeout(SECONDS):
            return await work

    try:
        return asyncio.run(bounded())
    except LocalRunError:
        raise
    except TimeoutError:
        raise LocalRunError(f"the database did not answer within {SECONDS:.0f} s") from None
    except OSError as error:
        raise LocalRunError(f"the database cannot be reached: {error}") from None
    except Exception as error:
        raise LocalRunError(f"{type(error).__name__}: {error}") from error


def _database(dsn: str | None) -> str:
    if given := dsn or os.environ.get("KEYLEDGER_POSTGRES"):
        return given
    raise LocalRunError("which database? set KEYLEDGER_POSTGRES or pass --dsn")


def _given(variable: str) -> Path:
    path = Path(os.environ.get(variable) or "")
    if not os.environ.get(variable) or not path.exists():
        raise LocalRunError(f"{variable} must name an existing path")
    return path

"""`keyledger project`: projections rebuilt from the log while the services run, or held against it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from infra.local.errors import LocalRunError
from services.cli.audit import reading, sealer
from services.cli.places import Places

app = App(name="project", help="Rebuild what is derived from the log, or compare it with a fresh fold.")

OwnerDsn = Annotated[
    str | None,
    Parameter(name="--dsn", help="The database, as its owner; KEYLEDGER_POSTGRES or the local run's own."),
]


@app.command
def rebuild(*, only: Literal["state", "usage"] | None = None, dsn: OwnerDsn = None) -> int:
    """Build the states and the counters anew from the log, beside those in use, and swap; services go on.

    KEYLEDGER_SEAL_SECRET_FILE, or the local run's own, opens what was typed.

    Parameters
    ----------
    only
        Just one of the two.
    """
    places = Places()
    database = places.database(dsn, owner=True)
    if only != "usage":
        seal = places.secret_file("KEYLEDGER_SEAL_SECRET_FILE", "seal.secret", given_dsn=dsn is not None)
        if seal is None:
            raise LocalRunError("the states hold what is sealed in the log; set KEYLEDGER_SEAL_SECRET_FILE")
        asyncio.run(_states(database, seal))
    if only != "state":
        asyncio.run(_usage(database))
    return 0


@app.command
def diff(*, verifier: str | None = None, keys_url: str | None = None, dsn: str | None = None) -> int:
    """Compare what a verifier holds with a fresh fold of the log to the same position; name what differs.

    The log is read from the key service's feed with KEYLEDGER_SERVICE_KEY_FILE, or with --dsn from the
    database with KEYLEDGER_SEAL_SECRET_FILE; the verifier is asked with KEYLEDGER_VERIFIER_TOKEN_FILE, if it
    wants one. All of them, where left out, are the local run's own.

    Parameters
    ----------
    verifier
        The verifier's address; KEYLEDGER_VERIFIER_URL, or the local run's.
    keys_url
        The key service's address; KEYLEDGER_KEYS_URL, or the local run's.
    dsn
        The database to read the log from instead.
    """
    from services.cli.project_diff import compare, log_of, verifier_of  # noqa: PLC0415

    places = Places()
    return asyncio.run(compare(log_of(places, keys_url, dsn), verifier_of(places, verifier)))


async def _states(dsn: str, seal: Path) -> None:
    import asyncpg  # noqa: PLC0415

    from keyledger.clock import SystemClock  # noqa: PLC0415
    from services.cli.progress import Progress  # noqa: PLC0415
    from services.keys.adapters.state_shadow import PostgresShadow, RebuildRuns  # noqa: PLC0415
    from services.keys.handlers.auditing import Audit  # noqa: PLC0415
    from services.keys.handlers.rebuilding import NotConverging, Rebuild  # noqa: PLC0415

    opened = sealer(seal)
    busy = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
    try:
        async with reading(dsn) as log:
            async with PostgresShadow.open(dsn) as shadow:
                work = Rebuild(log, shadow, opened, SystemClock(), busy=busy)
                with Progress("streams folded") as told:
                    done = await work.run(told, print)
            print(
                f"swapped at position {done.position}: {done.repaired} states were not what the log says; "
                f"appends waited {done.held_ms:.0f} ms"
            )
            with Progress("streams compared") as told:
                checked = await Audit(log, opened).states(told)
    except RebuildRuns:
        raise LocalRunError("another rebuild of the states is at work") from None
    except NotConverging:
        raise LocalRunError(
            "more is appended than can be folded meanwhile; nothing was lost, try later"
        ) from None
    print(f"states: {checked.streams} streams are what a fresh fold says")


async def _usage(dsn: str) -> None:
    from keyledger.clock import SystemClock  # noqa: PLC0415
    from keyledger.events import Epoch  # noqa: PLC0415
    from keyledger.server.postgres import close_pool, open_pool  # noqa: PLC0415
    from services.cli.progress import Progress  # noqa: PLC0415
    from services.keys.adapters.feed import UseLogSource  # noqa: PLC0415
    from services.usage.adapters.rebuild import NoQuiet, UsageRebuild, UsageRebuildRuns  # noqa: PLC0415

    async with reading(dsn):
        pool = await open_pool(dsn, name="rebuild", most=2)
        try:
            log = UseLogSource(pool)

            async def epoch() -> Epoch:
                return (await log.head()).epoch

            async with UsageRebuild.open(dsn, log, SystemClock()) as work:
                with Progress("batches folded") as told:
                    done = await work.run(epoch, told)
                print(
                    f"counters swapped at batch {done.position}, {done.uses} records; "
                    f"folds and reads waited {done.held_ms:.0f} ms"
                )
                if done.parked:
                    print(f"{done.parked} batches are left out: they cannot be counted (usage.parked)")
                differing = {table: rows for table, rows in (await work.differing()).items() if rows}
                if differing:
                    raise LocalRunError(f"the counters are not what the use log adds up to: {differing}")
                await work.drop_before()
        except UsageRebuildRuns:
            raise LocalRunError("another rebuild of the counters is at work") from None
        except NoQuiet:
            raise LocalRunError(
                "the counters were never free for the swap; nothing changed, try later"
            ) from None
        finally:
            await close_pool(pool)
    print("usage: the counters are what the use log adds up to")

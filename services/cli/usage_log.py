"""`keyledger usage retain` and `keyledger usage prove`: at work on the use log and the counters."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime

import asyncpg

from infra.local.errors import LocalRunError
from keyledger.clock import SystemClock, rfc3339
from keyledger.errors import Refusal
from keyledger.server.postgres import AWAY
from services.cli.progress import Progress
from services.usage.adapters import deriving
from services.usage.adapters.rebuild import UsageRebuildRuns
from services.usage.adapters.retention import Busy, NotFolded, Retention
from services.usage.domain.derivation import Derivation, Difference, LastUses, month_of
from services.usage.domain.retention import DAY, Policy, cut


def retain(dsn: str, log_days: int, minute_days: int, hour_days: int) -> None:
    """Drop what the policy no longer wants, and say what it was."""
    with _told():
        policy = Policy(log_days, minute_days, hour_days)
        policy.check()
        asyncio.run(_retain(dsn, policy))


def prove(dsn: str, workspace_id: str, month: str) -> None:
    """Derive the month and compare; a difference is an error that names it."""
    with _told():
        start, end = month_of(month)
        found = asyncio.run(_prove(dsn, workspace_id, start, end))
    _show(found)
    if (first := found.first) is not None:
        raise LocalRunError(f"DIFFERENCE at {_named(first)}")
    if found.last_uses.differing:
        raise LocalRunError(f"DIFFERENCE at {_last_use(found.last_uses)}")
    if found.nothing:
        print(f"nothing was used in {month}: there is nothing to prove, at batch {found.position}")
        return
    print(f"the counters of {month} are what the use log adds up to, at batch {found.position}")


async def _retain(dsn: str, policy: Policy) -> None:
    async with Retention.open(dsn) as work:
        with Progress("pages gone through") as told:
            gone = await work.run(cut(policy, SystemClock().now()), told)
    for granularity, rows in gone.counters.items():
        print(f"{rows:,} counters by the {granularity} dropped")
    days = [f"{datetime.fromtimestamp(day * DAY // 1_000_000, UTC):%Y-%m-%d}" for day in gone.days]
    print(f"days of the use log dropped: {', '.join(days) or 'none'}")
    if gone.parked:
        print(f"{gone.parked:,} batches that could not be counted went with them")


async def _prove(dsn: str, workspace_id: str, start: int, end: int) -> Derivation:
    async with deriving.reading(dsn) as connection:
        found = await deriving.derive(connection, workspace_id, start, end)
        if found.nothing and (where := await deriving.whereabouts(connection, workspace_id)) != "there":
            raise LocalRunError(
                f"--workspace: {workspace_id} was deleted, and nothing of it is counted"
                if where == "deleted"
                else f"--workspace: there is no {workspace_id}"
            )
        return found


def _show(found: Derivation) -> None:
    print(f"{found.uses:,} uses, {found.carried:,} of them carried on from days of the log that are gone")
    for each in found.compared:
        since = "" if each.since is None else f" since {rfc3339(each.since)}, the others were dropped"
        print(f"  by the {each.granularity:<7}{each.counters:>9,} counters, {each.differing:,} differ{since}")
    print(f"  last uses     {found.last_uses.keys:>9,} keys, {found.last_uses.differing:,} differ")
    if found.parked:
        print(f"{found.parked:,} recorded sums of uses are left out: they cannot be counted (usage.parked)")


def _named(difference: Difference) -> str:
    bucket = difference.bucket
    names = (bucket.key_id or "the whole workspace", bucket.outcome, bucket.environment, bucket.external_id)
    derived, kept = difference.derived, difference.kept
    return (
        f"the {difference.granularity} of {rfc3339(bucket.start)}, {', '.join(filter(None, names))}: "
        f"the log says {derived.count:,} uses at {derived.cost:,}, "
        f"the counter {kept.count:,} at {kept.cost:,}"
    )


def _last_use(last: LastUses) -> str:
    derived, kept = ("never" if at is None else rfc3339(at) for at in (last.derived, last.kept))
    return f"the last use of {last.key_id}: the log says {derived}, the counter {kept}"


@contextmanager
def _told() -> Generator[None]:
    """What goes wrong as one line."""
    try:
        yield
    except Refusal as refusal:
        raise LocalRunError(f"--{(refusal.field or '').replace('_', '-')}: {refusal.message}") from None
    except UsageRebuildRuns:
        raise LocalRunError("a rebuild or another retention is at work") from None
    except NotFolded as error:
        raise LocalRunError(f"{error}; the usage service has to catch up first") from None
    except Busy as error:
        raise LocalRunError(f"{error}; nothing was lost, try later") from None
    except AWAY as error:
        raise LocalRunError(f"the database does not answer: {type(error).__name__}") from None
    except asyncpg.PostgresError as error:
        raise LocalRunError(f"the database refuses: {type(error).__name__}") from None

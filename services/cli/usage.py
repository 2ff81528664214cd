"""`keyledger usage`: what was used, as a table and a plot; what is granted; retention; proof from the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from services.cli.operator import ask_usage
from services.cli.places import Places
from services.cli.tables import Json, print_json, print_plot, print_table
from services.cli.usage_pages import pages_of, path_of

app = App(name="usage", help="See what was used, drop what is old, and prove the counters from the use log.")

_SECONDS = {"minute": 60, "hour": 3600, "day": 86_400}

Workspace = Annotated[str, Parameter(help="The workspace's id, ws_….")]
OwnerDsn = Annotated[
    str | None,
    Parameter(name="--dsn", help="The database, as its owner; KEYLEDGER_POSTGRES or the local run's own."),
]


@app.default
def show(
    *,
    workspace: Workspace,
    key: str | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    to: str | None = None,
    granularity: Literal["minute", "hour", "day"] = "hour",
    group_by: str = "outcome",
    plot: bool = True,
    as_json: Json = False,
) -> int:
    """Print how often keys were used: a plot over time and a table of the groups' sums.

    KEYLEDGER_USAGE_URL and KEYLEDGER_ADMIN_KEY_FILE, or the local run's own, say whom to ask and as whom.

    Parameters
    ----------
    key
        One key's id, key_…; the whole workspace when left out.
    from_
        RFC 3339, inclusive; 24 hours before the end when left out.
    to
        RFC 3339, exclusive; now, with the current bucket, when left out.
    granularity
        The length of a bucket.
    group_by
        Any of key, outcome, environment, external_id, separated by commas; empty for none.
    plot
        Draw the plot.
    """
    asked = {"from": from_, "to": to, "granularity": granularity, "group_by": group_by}
    query = {name: value for name, value in asked.items() if value}
    if as_json:
        print_json(_joined(pages_of(Places(), workspace, key, query)))
        return 0
    groups = [group.strip() for group in group_by.split(",") if group.strip()]
    times: Counter[int] = Counter()
    counts: dict[tuple[str, ...], list[int]] = {}
    totals, last = {"count": 0, "cost": 0}, None
    for page in pages_of(Places(), workspace, key, query):
        totals, last = page["totals"], page.get("last_used_at")
        for point in page["series"]:
            times[int(datetime.fromisoformat(point["start"]).timestamp())] += point["count"]
            sums = counts.setdefault(tuple(point[group] or "" for group in groups), [0, 0])
            sums[0] += point["count"]
            sums[1] += point["cost"]
    if plot and times:
        start, end = _asked(from_, to, granularity)
        print_plot(times, _SECONDS[granularity], f"uses by the {granularity}", start=start, end=end)
    rows = [
        [*group, f"{count:,}", f"{cost:,}", f"{count / max(1, totals['count']):.1%}"]
        for group, (count, cost) in sorted(counts.items(), key=lambda item: -item[1][0])
    ]
    rows.append([*("total" if number == 0 else "" for number in range(len(groups))),
                 f"{totals['count']:,}", f"{totals['cost']:,}", ""])  # fmt: skip
    print_table([*groups, "count", "cost", "share"], rows, text=len(groups))
    if last is not None:
        print(f"last used {last}")
    return 0


@app.command
def limits(*, workspace: Workspace, key: str | None = None, as_json: Json = False) -> int:
    """Print the running cell of the rate limit and of the quota: admitted, granted, and who holds what.

    Parameters
    ----------
    key
        One key's own limit; the workspace's when left out.
    """
    told = ask_usage(Places(), f"{path_of(workspace, key)}/rate-limit", {})
    if as_json:
        print_json(told)
        return 0
    for name, cell in (("rate limit", told), ("quota", told["quota"])):
        if cell is None or cell["limit"] is None:
            print(f"{name}: none")
            continue
        window = f"{cell['window_seconds']} s" if name == "rate limit" else cell["period"]
        resets = f"{datetime.fromtimestamp(cell['reset'], UTC):%Y-%m-%dT%H:%M:%SZ}"
        print(
            f"{name} {cell['limit']:,} per {window}: {cell['admitted']:,} admitted, {cell['granted']:,} "
            f"granted, {cell['remaining']:,} remaining, resets at {resets}"
        )
        rows = [
            [each["verifier"], f"{each['granted']:,}", f"{each['spent']:,}"] for each in cell["verifiers"]
        ]
        print_table(["verifier", "granted", "spent"], rows)
    return 0


@app.command
def retain(
    *,
    log_days: int = 90,
    minute_days: int = 30,
    hour_days: int = 400,
    dsn: OwnerDsn = None,
) -> int:
    """Drop what is older than the policy: counters by minute and by hour, and days of the use log.

    Days are UTC. Counters by day are kept for ever; what a dropped day of the log added up to is carried on,
    so that `prove` and `project rebuild` still can tell. A day that is not counted to its end stays. Run it
    daily.

    Parameters
    ----------
    log_days
        Days of the use log to keep besides today, by receipt; more than minute_days.
    minute_days
        Days of counters by the minute; at least 2.
    hour_days
        Days of counters by the hour; no fewer than log_days.
    """
    from services.cli.usage_log import retain as run  # noqa: PLC0415

    run(Places().database(dsn, owner=True), log_days, minute_days, hour_days)
    return 0


@app.command
def prove(*, workspace: Workspace, month: str, dsn: OwnerDsn = None) -> int:
    """Add up a month anew from the use log, and hold the counters against it; name the first that differs.

    Parameters
    ----------
    month
        Such as 2026-11, UTC.
    """
    from services.cli.usage_log import prove as run  # noqa: PLC0415

    path_of(workspace, None)
    run(Places().database(dsn, owner=True), workspace, month)
    return 0


def _joined(pages: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """All pages of a series as one."""
    whole, series = dict[str, Any](), list[Any]()
    for page in pages:
        series += page["series"]
        whole = page
    return {name: value for name, value in whole.items() if name != "next_cursor"} | {"series": series}


def _asked(
    start: str | None, end: str | None, granularity: Literal["minute", "hour", "day"]
) -> tuple[int, int]:
    """The period (unix seconds) that the service answers for these options."""
    from keyledger.clock import SECOND, SystemClock, parse_rfc3339  # noqa: PLC0415
    from services.usage.domain.period import period_of  # noqa: PLC0415

    first, last = (None if text is None else parse_rfc3339(text) for text in (start, end))
    period = period_of(first, last, granularity, now=SystemClock().now())
    return period.start // SECOND, -(-period.end // SECOND)

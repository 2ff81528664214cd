"""`keyledger what-if`: recorded uses replayed against a policy that was not in force."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from infra.local.errors import LocalRunError
from services.cli.operator import entries
from services.cli.places import Places
from services.cli.tables import print_plot, print_table
from services.cli.usage_pages import pages_of, path_of

if TYPE_CHECKING:
    from services.usage.domain.what_if import Outlook, Policy, Sum

SECOND = 1_000_000
DAY = 86_400 * SECOND
NOTES = """\
Uses are recorded by the minute: \"at least\" and \"at most\" hold for every order they may have come in.
{resolution}
Refused uses are replayed at one unit each; whether a refused caller tried again is not known."""
EXACT = "Whole minutes fill whole cells of {window} s, so what the limit refuses in all is exact."
LOOSE = "A minute lies across cells of {window} s: at least is what an even flow, at most what one burst met."


def what_if(
    *,
    workspace: Annotated[str, Parameter(help="The workspace's id, ws_….")],
    from_: Annotated[str, Parameter(name="--from", help="RFC 3339, inclusive.")],
    to: Annotated[str, Parameter(help="RFC 3339, exclusive.")],
    key: str | None = None,
    limit: str | None = None,
    each_key: bool = False,
    scopes: str = "",
    expires: str | None = None,
    max_age_days: int | None = None,
) -> int:
    """Replay recorded uses against another policy: which keys it would have refused, when and how often.

    KEYLEDGER_USAGE_URL, KEYLEDGER_KEYS_URL and KEYLEDGER_ADMIN_KEY_FILE, or the local run's own, say whom to
    ask and as whom. Minutes must still be kept.

    Parameters
    ----------
    key
        Only this key's uses, against a limit of its own.
    limit
        A limit for the whole workspace, units/seconds, such as 500/60.
    each_key
        The limit holds for every key by itself.
    scopes
        Scopes that every use would have required, separated by commas; keys are looked at as they are now.
    expires
        When every key would have expired, RFC 3339.
    max_age_days
        How long after its creation every key would have expired.
    """
    from keyledger.errors import Refusal  # noqa: PLC0415
    from services.usage.domain.what_if import Policy, limit_of, replay  # noqa: PLC0415

    if limit is None and not scopes and expires is None and max_age_days is None:
        raise LocalRunError("what would be otherwise? pass --limit, --scopes, --expires or --max-age-days")
    places = Places()
    path_of(workspace, key)
    try:
        changed = None if limit is None else limit_of(limit)
    except Refusal as refusal:
        raise LocalRunError(f"--limit: {refusal.message}") from None
    start, end = _moment("from", from_), _moment("to", to)
    if changed is not None:
        # a cell that was replayed in part would seem emptier than it was
        start, end = start - start % changed.block, end + -end % changed.block
    ends, lacking = _refused_keys(places, workspace, scopes, expires, max_age_days)
    policy = Policy(changed, key is not None or each_key, ends, lacking)
    outlook = replay(_sums(places, workspace, key, start, end), policy)
    _show(outlook, policy)
    return 0


def _sums(places: Places, workspace: str, key: str | None, start: int, end: int) -> Iterator[Sum]:
    from keyledger.clock import parse_rfc3339, rfc3339  # noqa: PLC0415
    from services.usage.domain.what_if import Sum  # noqa: PLC0415

    query = {
        "from": rfc3339(start),
        "to": rfc3339(end),
        "granularity": "minute",
        "group_by": "key,outcome",
    }
    for page in pages_of(places, workspace, key, query):
        for point in page["series"]:
            yield Sum(
                parse_rfc3339(point["start"]), point["key"], point["outcome"], point["count"], point["cost"]
            )


def _refused_keys(
    places: Places, workspace: str, scopes: str, expires: str | None, max_age_days: int | None
) -> tuple[dict[str, int], frozenset[str]]:
    """When keys would have ended, and which would have lacked a scope."""
    from keyledger.clock import parse_rfc3339  # noqa: PLC0415
    from keyledger.verification.verdict import covers  # noqa: PLC0415

    if max_age_days is not None and max_age_days < 1:
        raise LocalRunError("--max-age-days is at least 1")
    needed = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    at = None if expires is None else _moment("expires", expires)
    ends: dict[str, int] = {}
    lacking: set[str] = set()
    if needed or at is not None or max_age_days is not None:
        for each in entries(places, f"{path_of(workspace, None)}/keys", "keys"):
            moments = [] if at is None else [at]
            if max_age_days is not None:
                moments.append(parse_rfc3339(each["created_at"]) + max_age_days * DAY)
            if moments:
                ends[each["id"]] = min(moments)
            if not all(covers(tuple(each["scopes"]), scope) for scope in needed):
                lacking.add(each["id"])
    return ends, frozenset(lacking)


def _show(outlook: Outlook, policy: Policy) -> None:
    print(
        f"{outlook.asked:,} uses could have been let in; limits refused {outlook.was_refused:,} of them then."
    )
    print("The changed policy would have refused:")
    rows = [
        [
            key,
            code,
            f"{bounds.at_least:,}",
            f"{bounds.at_most:,}",
            f"{bounds.stretches:,}",
            _time(bounds.first),
            _time(bounds.last),
        ]
        for (key, code), bounds in sorted(outlook.would.items(), key=lambda item: -item[1].at_most)
    ]
    head = ["key", "code", "at least", "at most", "times", "first", "last"]
    if rows:
        print_table(head, rows, text=2)
    for code, bounds in sorted(outlook.totals.items()):
        told = f"{bounds.at_least:,}" if bounds.at_least == bounds.at_most else (
            f"{bounds.at_least:,} to {bounds.at_most:,}"
        )  # fmt: skip
        print(f"in all {told} {code}")
    if not rows:
        print("nobody")
    if outlook.times:
        counts = {minute // SECOND: count for minute, count in outlook.times.items()}
        print_plot(counts, 60, "at most refused")
    limit = policy.limit
    if limit is not None:
        resolution = (EXACT if limit.cells == 1 else LOOSE).format(window=limit.window_seconds)
        print(NOTES.format(resolution=resolution))


def _moment(name: str, text: str) -> int:
    from keyledger.clock import parse_rfc3339  # noqa: PLC0415

    try:
        return parse_rfc3339(text)
    except ValueError:
        raise LocalRunError(f"--{name} is RFC 3339 with an offset, 2026-01-31T09:00:00Z") from None


def _time(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment // SECOND, UTC):%Y-%m-%dT%H:%MZ}"

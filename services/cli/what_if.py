"""`keyledger what-if`: recorded uses replayed against a policy that was not in force."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from infra.local.errors import LocalRunError
from services.cli.operator import entries
from services.cli.places import Places
from services.cli.tables import Json, print_json
from services.cli.usage_pages import pages_of, path_of
from services.cli.what_if_told import Told, as_dict, show_all, show_one

if TYPE_CHECKING:
    from services.usage.domain.what_if import Limit, Sum

SECOND = 1_000_000
DAY = 86_400 * SECOND


def what_if(
    *,
    from_: Annotated[str, Parameter(name="--from", help="RFC 3339, inclusive.")],
    to: Annotated[str, Parameter(help="RFC 3339, exclusive.")],
    workspace: Annotated[
        str | None, Parameter(help="The workspace's id, ws_…; every one in turn when left out.")
    ] = None,
    key: str | None = None,
    limit: str | None = None,
    each_key: bool = False,
    scopes: str = "",
    expires: str | None = None,
    max_age_days: int | None = None,
    as_json: Json = False,
) -> int:
    """Replay recorded uses against another policy: which keys it would have refused, when and how often.

    KEYLEDGER_USAGE_URL, KEYLEDGER_KEYS_URL and KEYLEDGER_ADMIN_KEY_FILE, or the local run's own, say whom to
    ask and as whom. Minutes must still be kept.

    Parameters
    ----------
    key
        Only this key's uses, against a limit of its own.
    limit
        A limit for the whole of each workspace, units/seconds, such as 500/60.
    each_key
        The limit holds for every key by itself.
    scopes
        Scopes that every use would have required, separated by commas; keys are looked at as they are now.
    expires
        When every key would have expired, RFC 3339.
    max_age_days
        How long after its creation every key would have expired.
    """
    if limit is None and not scopes and expires is None and max_age_days is None:
        raise LocalRunError("what would be otherwise? pass --limit, --scopes, --expires or --max-age-days")
    if workspace is not None:
        path_of(workspace, key)
    elif key is not None:
        raise LocalRunError("--key is a key of one workspace: say with --workspace of which")
    change = _Change(limit, scopes, expires, max_age_days, alone=each_key or key is not None)
    start, end = _moment("from", from_), _moment("to", to)
    if change.limit is not None:
        # a cell that was replayed in part would seem emptier than it was
        start, end = start - start % change.limit.block, end + -end % change.limit.block
    places = Places()
    found = [(workspace, None)] if workspace else _workspaces(places)
    told = (change.replayed(places, of, name, key=key, start=start, end=end) for of, name in found)
    if as_json:
        print_json(as_dict(list(told), change.limit, start=start, end=end))
    elif workspace:
        show_one(next(told), change.limit, start=start, end=end)
    else:
        show_all(told, change.limit, start=start, end=end)
    return 0


class _Change:
    """What would be otherwise. LocalRunError names an option that says nothing that can be."""

    def __init__(
        self, limit: str | None, scopes: str, expires: str | None, max_age_days: int | None, *, alone: bool
    ) -> None:
        self.limit: Limit | None = None if limit is None else read_limit(limit)
        self._alone = alone
        self._scopes = _scopes(scopes)
        self._expires = None if expires is None else _moment("expires", expires)
        self._max_age_days = max_age_days
        if max_age_days is not None and max_age_days < 1:
            raise LocalRunError("--max-age-days is at least 1")

    def replayed(
        self, places: Places, workspace: str, name: str | None, *, key: str | None, start: int, end: int
    ) -> Told:
        """What it would have meant for a workspace, or for one key of it."""
        from services.usage.domain.what_if import Policy, replay  # noqa: PLC0415

        ends, lacking = self._refused_keys(places, workspace)
        policy = Policy(self.limit, self._alone, ends, lacking)
        return Told(workspace, name, replay(_sums(places, workspace, key, start, end), policy))

    def _refused_keys(self, places: Places, workspace: str) -> tuple[dict[str, int], frozenset[str]]:
        """When keys would have ended, and which would have lacked a scope."""
        from keyledger.verification.verdict import covers  # noqa: PLC0415

        ends: dict[str, int] = {}
        lacking: set[str] = set()
        if not self._scopes and self._expires is None and self._max_age_days is None:
            return ends, frozenset()
        for each in entries(places, f"{path_of(workspace, None)}/keys", "keys"):
            if moments := self._ends(each):
                ends[each["id"]] = min(moments)
            if not all(covers(tuple(each["scopes"]), scope) for scope in self._scopes):
                lacking.add(each["id"])
        return ends, frozenset(lacking)

    def _ends(self, key: Mapping[str, Any]) -> list[int]:
        from keyledger.clock import parse_rfc3339  # noqa: PLC0415

        moments = [] if self._expires is None else [self._expires]
        if self._max_age_days is not None:
            moments.append(parse_rfc3339(key["created_at"]) + self._max_age_days * DAY)
        return moments


def _workspaces(places: Places) -> list[tuple[str, str | None]]:
    """The id and name of every workspace there is."""
    return [(each["id"], each["name"]) for each in entries(places, "/v1/workspaces", "workspaces")]


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


def read_limit(text: str) -> Limit:
    """What --limit says, units/seconds; a LocalRunError when it says something else."""
    from keyledger.errors import Refusal  # noqa: PLC0415
    from services.usage.domain.what_if import limit_of  # noqa: PLC0415

    try:
        return limit_of(text)
    except Refusal as refusal:
        raise LocalRunError(f"--limit: {refusal.message}") from None


def _scopes(text: str) -> Sequence[str]:
    from keyledger.verification.verdict import SCOPE  # noqa: PLC0415

    found = [scope.strip() for scope in text.split(",")] if text else []
    for scope in found:
        if SCOPE.fullmatch(scope) is None:
            raise LocalRunError("--scopes: a scope is * or [a-z0-9][a-z0-9:._-]{0,63}")
    return found


def _moment(name: str, text: str) -> int:
    from keyledger.clock import parse_rfc3339  # noqa: PLC0415

    try:
        return parse_rfc3339(text)
    except ValueError:
        raise LocalRunError(f"--{name} is RFC 3339 with an offset, 2026-01-31T09:00:00Z") from None

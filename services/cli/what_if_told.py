"""What a replay of recorded uses has shown, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from services.cli.tables import print_plot, print_table

if TYPE_CHECKING:
    from services.usage.domain.what_if import Bounds, Limit, Outlook

SECOND = 1_000_000
ANY_ORDER = 'Uses are recorded by the minute: "at least" and "at most" hold for every order they may have had'
ALIKE = "if the uses of a key in one minute cost alike: some cost more than a unit, and which is not known"
EXACT = "Whole minutes fill whole cells of {window} s, so {what} the limit refuses in all {are} exact."
LOOSE = "A minute lies across cells of {window} s: at least is what an even flow, at most what one burst met."
REFUSED = "Refused uses are replayed at one unit each; whether a refused caller tried again is not known."
HEAD = ("key", "code", "at least", "at most", "times", "first", "last")


@dataclass(frozen=True, slots=True)
class Told:
    """What came of the replay of one workspace's uses; its name when it was looked up."""

    workspace: str
    name: str | None
    outlook: Outlook


def show_one(told: Told, limit: Limit | None, *, start: int, end: int) -> None:
    """Print the one workspace that was asked about, from `start` to `end` (µs)."""
    _show(told.outlook, start=start, end=end)
    if not told.outlook.would:
        print("nobody")
    _notes(limit, costly=told.outlook.costly)


def show_all(all_told: Iterable[Told], limit: Limit | None, *, start: int, end: int) -> None:
    """Print every workspace in which somebody would have been refused, and how many others there are."""
    met = others = asked = 0
    costly = False
    for told in all_told:
        asked += told.outlook.asked
        if not told.outlook.would:
            others += 1
            continue
        met += 1
        costly = costly or told.outlook.costly
        print(f"{told.workspace} {told.name or ''}".rstrip())
        _show(told.outlook, start=start, end=end)
        print()
    print(f"{met:,} of {met + others:,} workspaces would have met a refusal, of {asked:,} uses in all.")
    if met:
        _notes(limit, costly=costly)


def as_dict(all_told: Sequence[Told], limit: Limit | None, *, start: int, end: int) -> dict[str, Any]:
    """The same as JSON's values; every workspace is there."""
    from keyledger.clock import rfc3339  # noqa: PLC0415

    return {
        "from": rfc3339(start),
        "to": rfc3339(end),
        "limit": None if limit is None else {"limit": limit.limit, "window_seconds": limit.window_seconds},
        "workspaces": [
            {
                "workspace": told.workspace,
                "asked": told.outlook.asked,
                "was_refused": told.outlook.was_refused,
                "would": [
                    {
                        "key": key,
                        "code": code,
                        "at_least": bounds.at_least,
                        "at_most": bounds.at_most,
                        "times": bounds.stretches,
                        "first": rfc3339(bounds.first),
                        "last": rfc3339(bounds.last),
                    }
                    for key, code, bounds in _refused(told.outlook)
                ],
                "totals": {
                    code: {"at_least": bounds.at_least, "at_most": bounds.at_most}
                    for code, bounds in sorted(told.outlook.totals.items())
                },
            }
            for told in all_told
        ],
    }


def _refused(outlook: Outlook) -> Iterator[tuple[str, str, Bounds]]:
    """Key, code and bounds; who would have been refused most often comes first."""
    for (key, code), bounds in sorted(outlook.would.items(), key=lambda item: -item[1].at_most):
        yield key, code, bounds


def _show(outlook: Outlook, *, start: int, end: int) -> None:
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
        for key, code, bounds in _refused(outlook)
    ]
    if rows:
        print_table(HEAD, rows, text=2)
    for code, bounds in sorted(outlook.totals.items()):
        told = f"{bounds.at_least:,}"
        if bounds.at_least != bounds.at_most:
            told += f" to {bounds.at_most:,}"
        print(f"in all {told} {code}")
    if outlook.times:
        counts = {minute // SECOND: count for minute, count in outlook.times.items()}
        print_plot(counts, 60, "at most refused", start=start // SECOND, end=-(-end // SECOND))


def _notes(limit: Limit | None, *, costly: bool) -> None:
    """What the figures of a limit are worth."""
    if limit is None:
        return
    what, are = ("the units that", "are") if costly else ("what", "is")
    print(f"{ANY_ORDER},\n{ALIKE}." if costly else f"{ANY_ORDER}.")
    print((EXACT if limit.cells == 1 else LOOSE).format(window=limit.window_seconds, what=what, are=are))
    print(REFUSED)


def _time(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment // SECOND, UTC):%Y-%m-%dT%H:%MZ}"

"""The figures of verifiers, each with what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.checking import Checked
from bench.driving import Asked
from bench.peers import ASGI, AT_ONCE, BETTER_AUTH, FLOORS, LITESTAR, NGINX
from bench.plot import Bar
from bench.serving import OURS, Pair, Served

TIMES = {ASGI: 2.0, LITESTAR: 6.0, NGINX: 0.25, AT_ONCE: 5.0, BETTER_AUTH: 20.0}
"""How many times another server's requests are asked for."""


def of_http(served: Served) -> list[Bar]:
    """The verifier's requests against those of each other server."""
    ours = served.busy[OURS]
    bars = [Bar(f"{OURS}, one connection, p99", "ms", _p99(served.alone[OURS]), 0.2, more_is_better=False)]
    for name, rounds in served.busy.items():
        if name == OURS:
            continue
        pairs = list(zip(ours, rounds, strict=True))
        rates = tuple(one.rate / max(other.rate, 0.1) for one, other in pairs)
        bars.append(Bar(f"ours ÷ {name}", "×", rates, TIMES.get(name)))
        if name in FLOORS:
            # a floor may leave its core idle, and others may take it away from either
            spent = tuple(one.per_cpu_second / max(other.per_cpu_second, 0.1) for one, other in pairs)
            bars.append(Bar(f"ours ÷ {name}, per CPU s", "×", spent, TIMES.get(name)))
    return bars


def of_servers(served: Served) -> list[Bar]:
    """What each server did by itself."""
    bars = [
        Bar(f"{name}, 64 connections", "requests/s", tuple(each.rate for each in rounds))
        for name, rounds in served.busy.items()
    ]
    for name, rounds in served.busy.items():
        if name in {OURS, *FLOORS}:
            spent = tuple(each.per_cpu_second for each in rounds)
            bars.append(Bar(f"{name}, for a second of CPU", "requests", spent))
    for connections, asked in (("64 connections", served.busy), ("one connection", served.alone)):
        for name, rounds in asked.items():
            p50 = tuple(each.p50 for each in rounds)
            bars.append(Bar(f"{name}, {connections}, p50", "ms", p50))
            if name != OURS or connections != "one connection":
                bars.append(Bar(f"{name}, {connections}, p99", "ms", _p99(rounds)))
    return bars


def _p99(rounds: Sequence[Asked]) -> tuple[float, ...]:
    return tuple(each.p99 for each in rounds)


def of_checks(checked: Checked) -> list[Bar]:
    """`check()` in this process."""
    bars: list[Bar] = []
    for name, rounds in checked.median.items():
        garbage = name.startswith("garbage")
        bound = 2 if garbage else 6
        bars.append(Bar(f"check(), {name}, median", "µs", tuple(rounds), bound, more_is_better=False))
        bound = None if garbage else 20
        p99 = tuple(checked.p99[name])
        bars.append(Bar(f"check(), {name}, p99", "µs", p99, bound, more_is_better=False))
        if not garbage:
            bars.append(Bar(f"check(), {name}", "checks/CPU s", tuple(checked.rate[name]), 130_000))
    return bars


def of_lags(idle: Mapping[str, Sequence[float]], busy: Mapping[str, Sequence[float]]) -> list[Bar]:
    """From the answer to a change until the first refusal."""
    bars: list[Bar] = []
    for when, lags, bounds in (("idle", idle, (2, 10)), ("half of the peak", busy, (None, 50))):
        for what, values in lags.items():
            ordered = sorted(values)
            p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
            bars += [
                Bar(f"{what} → refused, {when}, p50", "ms", (p50,), bounds[0], more_is_better=False),
                Bar(f"{what} → refused, {when}, p99", "ms", (p99,), bounds[1], more_is_better=False),
            ]
    return bars


def of_pauses(pauses: Mapping[str, Sequence[float]]) -> list[Bar]:
    """The longest in which the event loop did not get round."""
    return [
        Bar("longest pause of the loop", "ms", tuple(pauses["held"]), 5, more_is_better=False),
        Bar("the same, with waits for a core", "ms", tuple(pauses["late"])),
    ]


def of_memory(key: float, one: int, of_two: int) -> list[Bar]:
    """Bytes of the store for each key; of a process's own, in the only one and in the largest of several."""
    return [
        Bar("store", "bytes/key", (key,), 250, more_is_better=False),
        Bar("private memory, one process", "MB", (one / 1e6,), 150, more_is_better=False),
        Bar("private memory, largest of two workers'", "MB", (of_two / 1e6,), 150, more_is_better=False),
    ]


def of_restarts(seconds: Sequence[float]) -> list[Bar]:
    """From the start of the process until it is ready."""
    return [Bar("restart to ready", "s", tuple(seconds), 1, more_is_better=False)]


def of_workers(close: Sequence[Pair], free: Sequence[Pair]) -> list[Bar]:
    """Two workers against one, on one core and on all."""

    def spent(pairs: Sequence[Pair]) -> tuple[float, ...]:
        return tuple(two.per_cpu_second / one.per_cpu_second for one, two in pairs)

    return [
        Bar("two workers ÷ one, per CPU s, one core", "×", spent(close), 0.9),
        Bar("two workers ÷ one, per CPU s, all cores", "×", spent(free), 0.9),
        Bar("two workers ÷ one, all cores", "×", tuple(two.rate / one.rate for one, two in free)),
    ]

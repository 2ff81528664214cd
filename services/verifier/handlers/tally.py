"""What is counted of the checks, and what `/metrics` shows of them: no key, no workspace, no token.

Plain numbers, read out when they are asked for: a counter object costs as much as half a check.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from keyledger.verification.judge import STATES, Judge
from keyledger.verification.verdict import CODES

BUCKETS = (5e-6, 1e-5, 1.5e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2)
"""Upper bounds in seconds; a check takes some 5 to 10 µs."""


class Tally(Collector):
    """The verdicts so far by code, how long they took, and how the verifier stands."""

    def __init__(self, verifier: Judge) -> None:
        self._verifier = verifier
        self._codes: defaultdict[str, int] = defaultdict(int, dict.fromkeys(CODES, 0))
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def count(self, code: str, seconds: float) -> None:
        """One verdict."""
        self._codes[code] += 1
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self._seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """Everything as it is now."""
        verdicts = CounterMetricFamily("keyledger_verify", "Verdicts given.", labels=["code"])
        for code, count in self._codes.items():
            verdicts.add_metric([code], count)
        yield verdicts
        yield self._durations()
        follower, store, uses = self._verifier.follower, self._verifier.store, self._verifier.uses
        yield GaugeMetricFamily("keyledger_position", "Last position applied.", store.position)
        yield GaugeMetricFamily("keyledger_head_position", "Last head heard of.", follower.freshness.head)
        yield GaugeMetricFamily("keyledger_age_seconds", "Age of what is applied.", follower.age())
        degraded = float(not follower.hearing or follower.freshness.held)
        yield GaugeMetricFamily("keyledger_degraded", "1 while something behind it is away.", degraded)
        yield self._states()
        dropped = uses.dropped if uses else 0
        yield CounterMetricFamily("keyledger_uses_dropped", "Uses no bound had room for.", dropped)
        unreadable = follower.unreadable
        yield CounterMetricFamily("keyledger_unreadable_events", "Events not understood.", unreadable)
        yield CounterMetricFamily("keyledger_rebuilds", "Times the log was read anew.", follower.rebuilds)
        yield CounterMetricFamily("keyledger_forks", "Times another history was found.", follower.forks)

    def _states(self) -> GaugeMetricFamily:
        states = GaugeMetricFamily("keyledger_state", "1 for the state that holds.", labels=["state"])
        for state in STATES:
            states.add_metric([state], float(state == self._verifier.state))
        return states

    def _durations(self) -> HistogramMetricFamily:
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*BUCKETS, math.inf), self._buckets, strict=True):
            total += count
            buckets.append(("+Inf" if math.isinf(bound) else repr(bound), total))
        return HistogramMetricFamily(
            "keyledger_verify_duration_seconds", "From the token to the verdict.", buckets, self._seconds
        )

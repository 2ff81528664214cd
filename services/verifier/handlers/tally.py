"""What `/metrics` shows of the checks: no key, no workspace, no token.

Plain numbers, read out when they are asked for: a counter object costs as much as half a check. Any worker
answers for all of them, so it does not matter which one is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from keyledger.verification.judge import STATES, Judge
from services.verifier.handlers.counts import Counts


class Tally(Collector):
    """The verdicts so far by code, how long they took, and how the verifier stands."""

    def __init__(self, verifier: Judge, counts: Counts | None = None) -> None:
        self._verifier = verifier
        self._counts = counts or Counts.private()
        self.count = self._counts.count
        """One verdict's code, and the seconds it took."""
        if verifier.uses is not None:
            verifier.uses.when_dropped = self._counts.drop

    def collect(self) -> Iterator[Metric]:
        """Everything as it is now."""
        verdicts = CounterMetricFamily("keyledger_verify", "Verdicts given.", labels=["code"])
        for code, count in self._counts.codes():
            verdicts.add_metric([code], count)
        yield verdicts
        yield self._durations()
        follower, store = self._verifier.follower, self._verifier.store
        yield GaugeMetricFamily("keyledger_position", "Last position applied.", store.position)
        yield GaugeMetricFamily("keyledger_head_position", "Last head heard of.", follower.freshness.head)
        yield GaugeMetricFamily("keyledger_age_seconds", "Age of what is applied.", follower.age())
        degraded = float(not follower.hearing or follower.freshness.held)
        yield GaugeMetricFamily("keyledger_degraded", "1 while something behind it is away.", degraded)
        away = float(self._verifier.limits.away)
        yield GaugeMetricFamily("keyledger_granter_away", "1 while nothing grants limits and quotas.", away)
        yield self._states()
        dropped = self._counts.dropped()
        yield CounterMetricFamily("keyledger_uses_dropped", "Uses without room or in broken files.", dropped)
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
        durations, seconds = self._counts.durations()
        buckets = [("+Inf" if math.isinf(bound) else repr(bound), count) for bound, count in durations]
        return HistogramMetricFamily(
            "keyledger_verify_duration_seconds", "From the token to the verdict.", buckets, seconds
        )

"""Limits and quotas as callers get them: what they were before is the verifiers' business."""

from __future__ import annotations

from msgspec import Struct

from keyledger.events import OnOutage, Period, Quota, RateLimit


class LimitView(Struct, frozen=True, omit_defaults=True):
    """At most `limit` units in each cell of `window_seconds`."""

    limit: int
    window_seconds: int
    on_outage: OnOutage | None = None


class QuotaView(Struct, frozen=True):
    """At most `limit` units in each calendar period, UTC."""

    limit: int
    period: Period


def limit_view(limit: RateLimit | None) -> LimitView | None:
    """A limit as callers get it, if there is one."""
    return None if limit is None else shown_limit(limit)


def quota_view(quota: Quota | None) -> QuotaView | None:
    """A quota as callers get it, if there is one."""
    return None if quota is None else QuotaView(quota.limit, quota.period)


def shown_limit(limit: RateLimit) -> LimitView:
    """A limit as callers get it."""
    return LimitView(limit.limit, limit.window_seconds, limit.on_outage)

"""How long uses are kept: the log itself, counters by the minute and by the hour. Days are kept for ever.

Days are UTC days of receipt in the log, and days of use in the counters; a day is kept whole or not at all.
"""

from __future__ import annotations

from msgspec import Struct

from keyledger.errors import invalid_request
from services.usage.domain.period import SIZES, Granularity

DAY = SIZES["day"]
LEAST_MINUTE_DAYS = 2
"""A question without a period asks for the last 24 hours, which lie in two days."""
MOST_DAYS = 36_500


class Policy(Struct, frozen=True):
    """Full days to keep besides the current one: of the log, of minutes, of hours.

    Minutes go before the log does, a day at least, so that every counter of a minute can be derived anew;
    hours are carried on when the log goes.
    """

    log_days: int = 90
    minute_days: int = 30
    hour_days: int = 400

    def check(self) -> None:
        """Return, or a refusal that names the setting."""
        for field, days, least in (
            ("minute_days", self.minute_days, LEAST_MINUTE_DAYS),
            ("log_days", self.log_days, self.minute_days + 1),
            ("hour_days", self.hour_days, self.log_days),
        ):
            if not least <= days <= MOST_DAYS:
                raise invalid_request(f"{field} is at least {least} and at most {MOST_DAYS}.", field=field)


class Cut(Struct, frozen=True):
    """What goes: days of the log before `log_day` (since 1970-01-01), buckets from before a time (µs)."""

    log_day: int
    minute: int
    hour: int

    def of(self, granularity: Granularity) -> int | None:
        """The first bucket that is kept; None where all are."""
        return {"minute": self.minute, "hour": self.hour, "day": None}[granularity]


def cut(policy: Policy, now: int) -> Cut:
    """Where the policy cuts at this moment (µs)."""
    today = now // DAY
    return Cut(today - policy.log_days, (today - policy.minute_days) * DAY, (today - policy.hour_days) * DAY)

"""How long a dead child waits."""

from infra.local.backoff import Backoff


def test_delays_double_up_to_a_limit() -> None:
    backoff = Backoff(first=1.0, most=8.0)
    delays = [backoff.after(0.1) for _ in range(6)]
    for delay, full in zip(delays, [1, 2, 4, 8, 8, 8], strict=True):
        assert full / 2 <= delay <= full


def test_a_calm_life_forgets_the_deaths_before() -> None:
    backoff = Backoff(first=1.0, most=64.0, calm=30.0)
    for _ in range(5):
        backoff.after(0.1)
    assert backoff.after(30.0) <= 1.0


def test_no_number_of_deaths_overflows() -> None:
    backoff = Backoff()
    assert all(backoff.after(0.0) <= backoff.most for _ in range(2000))

"""What is shown of a limit's running cell."""

import pytest

from keyledger.events import Quota, RateLimit
from services.usage.domain.cell import Cell, Part, current
from services.usage.domain.pool import Holding, Pool

KEY = "key_" + "2" * 22
LIMIT, QUOTA = RateLimit(100, 60), Quota(50, "day")


def pool(window: int | str = 60, *, start: int = 600, limit: int = 100, **parts: tuple[int, int]) -> Pool:
    """A cell of a minute; each part is what is charged, and what was said to be spent."""
    holdings = {name: Holding(*part) for name, part in parts.items()}
    return Pool(KEY, window, start, start + 60, limit, holdings)


def test_a_cell_tells_what_is_spent_and_what_is_out_and_with_whom() -> None:
    limit, quota = current([pool(b=(40, 30), a=(20, 20), gone=(0, 0))], 630, LIMIT, None)
    assert limit is not None
    assert (limit.admitted, limit.granted, limit.remaining, limit.reset) == (50, 60, 50, 660)
    assert limit.verifiers == (Part("a", 20, 20), Part("b", 40, 30))
    assert quota is None


def test_nothing_remains_of_a_limit_that_was_lowered_below_what_is_spent() -> None:
    limit, _ = current([pool(limit=10, a=(30, 25))], 630, LIMIT, None)
    assert limit is not None
    assert (limit.limit, limit.admitted, limit.remaining) == (10, 25, 0)


@pytest.mark.parametrize(("second", "admitted"), [(599, 0), (600, 3), (659, 3), (660, 0)])
def test_a_cell_is_shown_while_it_runs_and_else_a_whole_one(second: int, admitted: int) -> None:
    limit, _ = current([pool(a=(5, 3))], second, LIMIT, None)
    assert limit is not None
    assert (limit.admitted, limit.reset) == (admitted, second // 60 * 60 + 60)


def test_what_nobody_has_asked_for_is_whole_and_what_has_no_limit_has_no_cell() -> None:
    limit, quota = current([], 630, LIMIT, QUOTA)
    assert limit == Cell(60, 600, 660, 100, 0, 0, 100, ())
    assert quota == Cell("day", 0, 86_400, 50, 0, 0, 50, ())
    assert current([pool(a=(5, 3))], 630, None, None) == (None, None)


def test_after_a_change_of_the_window_the_cell_of_todays_is_shown() -> None:
    limit, _ = current([pool(3600, start=590, limit=7), pool(limit=9)], 620, LIMIT, None)
    assert limit is not None
    assert limit.limit == 9


def test_a_quota_is_told_beside_the_limit() -> None:
    limit, quota = current([pool("day", limit=5, a=(2, 1)), pool()], 620, LIMIT, QUOTA)
    assert limit is not None
    assert quota is not None
    assert (limit.window, quota.window, quota.admitted) == (60, "day", 1)

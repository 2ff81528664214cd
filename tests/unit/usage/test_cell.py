"""What is shown of a limit's running cell."""

import pytest

from services.usage.domain.cell import Part, current
from services.usage.domain.pool import Holding, Pool

KEY = "key_" + "2" * 22


def pool(window: int | str = 60, *, start: int = 600, limit: int = 100, **parts: tuple[int, int]) -> Pool:
    """A cell of a minute; each part is what is charged, and what was said to be spent."""
    holdings = {name: Holding(*part) for name, part in parts.items()}
    return Pool(KEY, window, start, start + 60, limit, holdings)


def test_a_cell_tells_what_is_spent_and_what_is_out_and_with_whom() -> None:
    limit, quota = current([pool(b=(40, 30), a=(20, 20), gone=(0, 0))], 630)
    assert limit is not None
    assert (limit.admitted, limit.granted, limit.remaining, limit.reset) == (50, 60, 50, 660)
    assert limit.verifiers == (Part("a", 20, 20), Part("b", 40, 30))
    assert quota is None


def test_nothing_remains_of_a_limit_that_was_lowered_below_what_is_spent() -> None:
    limit, _ = current([pool(limit=10, a=(30, 25))], 630)
    assert limit is not None
    assert (limit.limit, limit.admitted, limit.remaining) == (10, 25, 0)


@pytest.mark.parametrize(("second", "there"), [(599, False), (600, True), (659, True), (660, False)])
def test_a_cell_is_shown_while_it_runs(second: int, there: bool) -> None:
    assert (current([pool()], second)[0] is not None) is there


def test_after_a_change_of_the_window_the_cell_that_began_last_is_shown() -> None:
    limit, _ = current([pool(3600, start=590, limit=7), pool(limit=9)], 620)
    assert limit is not None
    assert limit.limit == 9


def test_a_quota_is_told_beside_the_limit() -> None:
    limit, quota = current([pool("day", limit=5, a=(2, 1)), pool()], 620)
    assert limit is not None
    assert quota is not None
    assert (limit.window, quota.window, quota.admitted) == (60, "day", 1)

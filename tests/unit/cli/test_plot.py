"""Columns of characters: what there is shows, and the highest fills the plot."""

from hypothesis import given
from hypothesis import strategies as st

from services.cli.plot import columns


def test_the_highest_column_fills_the_plot_and_the_scale_says_how_much_it_is() -> None:
    lines, each = columns([0, 4, 8], width=10, height=2)
    assert lines == ["8 ┤  █", "0 ┤ ██"]
    assert each == 1


def test_values_that_do_not_fit_are_summed() -> None:
    lines, each = columns([1] * 100, width=10, height=2)
    assert (len(lines[0]), each) == (len("10 ┤") + 10, 10)


@given(
    values=st.lists(st.integers(0, 10**9), max_size=300), width=st.integers(1, 80), height=st.integers(2, 9)
)
def test_every_column_with_anything_in_it_shows(values: list[int], width: int, height: int) -> None:
    lines, each = columns(values, width=width, height=height)
    bars = [line.partition("┤")[2] for line in lines]
    assert {len(bar) for bar in bars} == {-(-len(values) // each)}
    for at, shown in enumerate(bars[-1]):
        assert (shown != " ") == (sum(values[at * each : (at + 1) * each]) > 0)
    if any(values):
        assert "█" in bars[0]

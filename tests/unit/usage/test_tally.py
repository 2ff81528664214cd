"""Counting: each use as often as it is given, whatever the order and the parts it comes in."""

from hypothesis import given
from hypothesis import strategies as st

from keyledger.wire import Use
from services.usage.domain.period import MINUTE, SIZES, Granularity
from services.usage.domain.tally import NOTHING, Bucket, Count, Tally, tally

minutes = st.integers(0, 3000).map(lambda number: number * MINUTE)
uses = st.builds(
    Use,
    st.sampled_from(["ws_1", "ws_2"]),
    st.sampled_from(["key_1", "key_2"]),
    st.sampled_from(["live", "test"]),
    minutes,
    st.sampled_from(["VALID", "RATE_LIMITED"]),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    minutes,
)
lists = st.lists(uses, max_size=30)


def merged(first: Tally, second: Tally) -> Tally:
    """What a store holds that was given both."""
    buckets: dict[Granularity, dict[Bucket, Count]] = {}
    for granularity in SIZES:
        one, two = first.buckets[granularity], second.buckets[granularity]
        buckets[granularity] = {key: one.get(key, NOTHING) + two.get(key, NOTHING) for key in one | two}
    keys = first.last_used.keys() | second.last_used.keys()
    last = {key: max(first.last_used.get(key, 0), second.last_used.get(key, 0)) for key in keys}
    return Tally(buckets, last)


@given(lists.flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))))
def test_the_order_makes_no_difference(pair: tuple[list[Use], list[Use]]) -> None:
    assert tally(pair[0]) == tally(pair[1])


@given(lists, lists)
def test_the_parts_add_up_to_the_whole(first: list[Use], second: list[Use]) -> None:
    assert merged(tally(first), tally(second)) == tally(first + second)


@given(lists)
def test_every_granularity_counts_every_use(some: list[Use]) -> None:
    totals = tally(some)
    expected = Count(sum(use.count for use in some), sum(use.cost for use in some))
    for granularity in SIZES:
        assert sum(totals.buckets[granularity].values(), NOTHING) == expected


@given(lists)
def test_rows_come_in_one_order(some: list[Use]) -> None:
    totals = tally(some)
    buckets = [bucket for bucket, _ in totals.sorted_buckets("minute")]
    assert buckets == sorted(set(buckets))
    assert [key for key, _ in totals.sorted_last_used()] == sorted(totals.last_used)

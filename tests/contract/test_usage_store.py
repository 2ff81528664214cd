"""One suite for every `UsageStore`: what is folded counts once, and is read back in order."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyledger.events import Epoch
from keyledger.wire import Use
from services.usage.domain.parking import Parked, Unfoldable
from services.usage.domain.period import MINUTE, SIZES, Granularity, Period
from services.usage.domain.series import Mark, Question
from services.usage.domain.tally import NOTHING, Count, tally
from services.usage.ports import UsageStore
from tests.support.memory_usage import MemoryUsageStore
from tests.support.usage_postgres import open_store

EPOCH, NEXT_EPOCH = Epoch(1, b"line-one"), Epoch(2, b"line-two")
WS, OTHER = "ws_" + "1" * 22, "ws_" + "2" * 22
KEY_A, KEY_B = "key_" + "A" * 22, "key_" + "b" * 22
NOON = 20_000 * 1440 * MINUTE + 720 * MINUTE


def use(
    key: str = KEY_A,
    *,
    at: int = NOON,
    outcome: str = "VALID",
    count: int = 1,
    ws: str = WS,
    owner: str = "",
) -> Use:
    """`count` uses of a key, each costing 2, in the minute of `at`."""
    return Use(ws, key, "live", at - at % MINUTE, outcome, count, 2 * count, at, owner)


def costing(cost: int) -> Use:
    """One use of key A at this cost."""
    return Use(WS, KEY_A, "live", NOON, "VALID", 1, cost, NOON)


_MANY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_OFFSETS = st.integers(0, 6)
_USES = st.builds(
    use,
    st.sampled_from([KEY_A, KEY_B]),
    at=st.integers(0, 90).map(lambda minute: NOON + minute * MINUTE),
    outcome=st.sampled_from(["VALID", "RATE_LIMITED"]),
    count=st.integers(1, 5),
    owner=st.sampled_from(["", "u1"]),
)


def asking(*groups: str, key: str | None = None, minutes: int = 60) -> Question:
    """The minutes from noon on."""
    return Question(WS, key, Period(NOON, NOON + minutes * MINUTE, "minute"), groups)


class UsageStoreSuite:
    """What every store promises."""

    async def test_an_empty_store_stands_at_zero_and_answers_nothing(self, store: UsageStore) -> None:
        assert await store.position(EPOCH.line) == await store.position(NEXT_EPOCH.line) == 0
        reading = await store.read(asking("key"), None, 10)
        assert (reading.points, reading.totals, reading.position) == ([], NOTHING, 0)
        assert await store.last_used(WS, [KEY_A]) == ({}, 0)
        await store.ping()

    async def test_a_fold_moves_the_position_and_adds_to_every_granularity(self, store: UsageStore) -> None:
        assert await store.fold(EPOCH, 0, 3, tally([use(count=2), use(KEY_B, at=NOON + 61 * MINUTE)]))
        assert await store.position(EPOCH.line) == 3
        expectations: list[tuple[Granularity, int]] = [("minute", 2), ("hour", 2), ("day", 1)]
        for granularity, expected in expectations:
            period = Period(NOON - 720 * MINUTE, NOON + 720 * MINUTE, granularity)
            reading = await store.read(Question(WS, None, period, ()), None, 10)
            assert len(reading.points) == expected
            assert reading.totals == Count(3, 6)
            assert reading.position == 3

    async def test_a_total_is_what_the_minutes_add_up_to(self, store: UsageStore) -> None:
        minutes = [0, 59, 60, 719, 720, 1439, 2160, 2161, 3600, 3719, 5000]
        uses = [
            use(key, at=NOON + minute * MINUTE, outcome=outcome, count=place + 1)
            for place, minute in enumerate(minutes)
            for key, outcome in ((KEY_A, "VALID"), (KEY_B, "REVOKED"))
        ]
        assert await store.fold(EPOCH, 0, 1, tally(uses))
        bounds = [NOON + minute * MINUTE for minute in (0, 1, 60, 300, 720, 1440, 2161, 3600, 4200, 5001)]
        for start, end in itertools.combinations(bounds, 2):
            for key, groups in ((None, ()), (None, ("key", "outcome")), (KEY_B, ("outcome",))):
                by_minute = await store.read(
                    Question(WS, key, Period(start, end - 1, "minute"), groups), None, 1000
                )
                total = await store.read(
                    Question(WS, key, Period(start, end - 1, "total"), groups), None, 1000
                )
                expected: Counter[Mark] = Counter()
                for point in by_minute.points:
                    expected[Mark(start, point.mark.key, point.mark.outcome)] += point.count.count
                assert {point.mark: point.count.count for point in total.points} == expected
                assert total.totals == by_minute.totals

    async def test_a_total_has_pages(self, store: UsageStore) -> None:
        keys = [f"key_{number:022d}" for number in range(5)]
        uses = [use(key, at=NOON + at * MINUTE) for key in keys for at in (0, 70)]
        assert await store.fold(EPOCH, 0, 1, tally(uses))
        asked = Question(WS, None, Period(NOON, NOON + 100 * MINUTE, "total"), ("key",))
        first = await store.read(asked, None, 3)
        rest = await store.read(asked, first.points[-1].mark, 3)
        found = [(point.mark.key, point.count.count) for point in (*first.points, *rest.points)]
        assert found == [(key, 2) for key in keys]
        assert first.totals == rest.totals == Count(10, 20)

    async def test_what_a_deleted_workspace_left_is_erased_in_steps(self, store: UsageStore) -> None:
        many = [use(f"key_{number:022d}", at=NOON + number % 60 * MINUTE) for number in range(6000)]
        assert await store.fold(EPOCH, 0, 1, tally([*many, use(ws=OTHER)]))
        assert not await store.erase_some()
        assert await store.fold(EPOCH, 1, 2, tally([]), {WS})
        assert await store.position(EPOCH.line) == 2
        while await store.erase_some():
            pass
        for granularity in SIZES:
            period = Period(NOON - 720 * MINUTE, NOON + 720 * MINUTE, granularity)
            for workspace, count in ((WS, 0), (OTHER, 1)):
                reading = await store.read(Question(workspace, None, period, ()), None, 10)
                assert (len(reading.points), reading.totals.count) == (count, count)
        assert (await store.last_used(WS, ["key_" + "0" * 22]))[0] == {}
        assert (await store.last_used(OTHER, [KEY_A]))[0] == {KEY_A: NOON}

    async def test_an_erasure_belongs_to_the_step_that_tells_of_it(self, store: UsageStore) -> None:
        assert await store.fold(EPOCH, 0, 1, tally([use()]))
        assert not await store.fold(EPOCH, 0, 1, tally([]), {WS})
        assert not await store.erase_some()
        assert (await store.read(asking(), None, 10)).totals.count == 1

    async def test_folds_add_up(self, store: UsageStore) -> None:
        assert await store.fold(EPOCH, 0, 1, tally([use(count=2)]))
        assert await store.fold(EPOCH, 1, 2, tally([use(count=3)]))
        reading = await store.read(asking("key", "outcome", "environment"), None, 10)
        assert [point.mark for point in reading.points] == [Mark(NOON, KEY_A, "VALID", "live")]
        assert reading.totals == Count(5, 10)

    async def test_the_same_positions_are_never_folded_twice(self, store: UsageStore) -> None:
        assert await store.fold(EPOCH, 0, 2, tally([use()]))
        assert not await store.fold(EPOCH, 0, 2, tally([use()]))
        assert not await store.fold(EPOCH, 1, 3, tally([use()]))
        assert await store.position(EPOCH.line) == 2
        assert (await store.read(asking(), None, 10)).totals == Count(1, 2)

    async def test_of_two_that_fold_at_once_one_counts(self, store: UsageStore) -> None:
        answers = await asyncio.gather(*(store.fold(EPOCH, 0, 1, tally([use()])) for _ in range(5)))
        assert sorted(answers) == [False] * 4 + [True]
        assert (await store.read(asking(), None, 10)).totals == Count(1, 2)

    async def test_a_line_that_has_not_begun_takes_no_fold(self, store: UsageStore) -> None:
        assert not await store.fold(NEXT_EPOCH, 0, 1, tally([use()]))
        assert (await store.read(asking(), None, 10)).totals == NOTHING

    async def test_a_line_begins_once(self, store: UsageStore) -> None:
        assert await store.fold(EPOCH, 0, 7, tally([use()]))
        assert await asyncio.gather(*(store.begin(EPOCH, head) for head in (9, 3, 0))) == [7, 7, 7]

    @pytest.mark.parametrize(("head", "begins"), [(9, 7), (7, 7), (4, 4), (0, 0)])
    async def test_a_new_line_begins_where_the_one_before_was_left_or_at_its_head(
        self, store: UsageStore, head: int, begins: int
    ) -> None:
        assert await store.fold(EPOCH, 0, 7, tally([use()]))
        assert await store.begin(NEXT_EPOCH, head) == begins
        assert await store.position(EPOCH.line) == 7
        assert await store.fold(NEXT_EPOCH, begins, begins + 2, tally([use()]))
        reading = await store.read(asking(), None, 10)
        assert (reading.totals, reading.position) == (Count(2, 4), begins + 2)

    async def test_points_are_ordered_and_paged_behind_a_mark(self, store: UsageStore) -> None:
        uses = [
            use(key, at=NOON + minute * MINUTE, outcome=outcome)
            for minute in (2, 0, 1)
            for key in (KEY_B, KEY_A)
            for outcome in ("VALID", "RATE_LIMITED")
        ]
        await store.fold(EPOCH, 0, 1, tally(uses))
        question = asking("key", "outcome")
        whole = [point.mark for point in (await store.read(question, None, 100)).points]
        assert whole == sorted(whole)
        assert len(whole) == 12
        paged: list[Mark] = []
        while True:
            reading = await store.read(question, paged[-1] if paged else None, 5)
            assert reading.totals == Count(12, 24)
            if not reading.points:
                break
            paged += [point.mark for point in reading.points]
        assert paged == whole

    async def test_uses_stay_with_the_external_id_of_their_time(self, store: UsageStore) -> None:
        await store.fold(EPOCH, 0, 1, tally([use(owner="u1", count=2), use(owner="u2"), use()]))
        await store.fold(EPOCH, 1, 2, tally([use(owner="u2", count=4), use(KEY_B, owner="u2")]))
        for question in (asking("external_id"), asking("external_id", key=KEY_A)):
            reading = await store.read(question, None, 10)
            told = {point.mark.external_id: point.count.count for point in reading.points}
            assert told == {"": 1, "u1": 2, "u2": 5 + (question.key_id is None)}
        assert [point.count.count for point in (await store.read(asking(), None, 10)).points] == [9]

    async def test_pages_of_everything_told_apart_have_no_gap_and_no_repeat(self, store: UsageStore) -> None:
        uses = [
            use(key, at=NOON + minute * MINUTE, outcome=outcome, owner=owner)
            for minute in (1, 0)
            for key in (KEY_B, KEY_A)
            for outcome in ("VALID", "REVOKED")
            for owner in ("u2", "", "U1")
        ]
        await store.fold(EPOCH, 0, 1, tally(uses))
        question = asking("key", "outcome", "environment", "external_id")
        paged: list[Mark] = []
        while points := (await store.read(question, paged[-1] if paged else None, 7)).points:
            paged += [point.mark for point in points]
        assert paged == sorted(set(paged))
        assert len(paged) == 24

    async def test_what_is_not_told_apart_is_one_point_a_bucket(self, store: UsageStore) -> None:
        await store.fold(EPOCH, 0, 1, tally([use(), use(KEY_B), use(at=NOON + MINUTE)]))
        reading = await store.read(asking(), None, 10)
        assert [(point.mark, point.count.count) for point in reading.points] == [
            (Mark(NOON), 2),
            (Mark(NOON + MINUTE), 1),
        ]

    async def test_the_start_is_inside_the_period_and_the_end_is_not(self, store: UsageStore) -> None:
        await store.fold(EPOCH, 0, 1, tally([use(at=NOON - 1), use(at=NOON), use(at=NOON + 5 * MINUTE)]))
        reading = await store.read(asking(minutes=5), None, 10)
        assert [point.mark.start for point in reading.points] == [NOON]

    async def test_a_question_about_a_key_sees_no_other_and_its_last_use(self, store: UsageStore) -> None:
        late = NOON + 40 * 1440 * MINUTE + 5
        await store.fold(EPOCH, 0, 1, tally([use(), use(KEY_B), use(KEY_B, at=late)]))
        reading = await store.read(asking(key=KEY_B), None, 10)
        assert (reading.totals, reading.last_used_at) == (Count(1, 2), late)
        assert (await store.read(asking(), None, 10)).last_used_at is None

    async def test_another_workspace_is_never_seen(self, store: UsageStore) -> None:
        await store.fold(EPOCH, 0, 1, tally([use(ws=OTHER)]))
        assert (await store.read(asking("key"), None, 10)).points == []
        assert (await store.read(asking(key=KEY_A), None, 10)).last_used_at is None
        assert await store.last_used(WS, [KEY_A]) == ({}, 1)
        assert await store.last_used(OTHER, [KEY_A, KEY_B]) == ({KEY_A: NOON}, 1)

    async def test_the_last_use_never_goes_back(self, store: UsageStore) -> None:
        await store.fold(EPOCH, 0, 1, tally([use(at=NOON + 9)]))
        await store.fold(EPOCH, 1, 2, tally([use(at=NOON + 3)]))
        assert await store.last_used(WS, [KEY_A]) == ({KEY_A: NOON + 9}, 2)

    async def test_a_batch_without_uses_only_moves_the_position(self, store: UsageStore) -> None:
        assert await store.fold(EPOCH, 0, 1, tally([]))
        assert await store.position(EPOCH.line) == 1

    async def test_a_batch_that_is_passed_over_moves_the_position_and_is_kept_in_mind(
        self, store: UsageStore
    ) -> None:
        assert await store.parked() == 0
        assert await store.fold(EPOCH, 0, 1, tally([use()]))
        assert await store.fold(EPOCH, 1, 2, tally([]), parked=[Parked(2, 7, "count")])
        assert not await store.fold(EPOCH, 1, 2, tally([]), parked=[Parked(9, 7, "count")])
        assert (await store.position(EPOCH.line), await store.parked()) == (2, 1)
        assert (await store.read(asking(), None, 10)).totals == Count(1, 2)

    @pytest.mark.parametrize(("head", "left"), [(9, 2), (4, 2), (3, 1), (0, 0)])
    async def test_what_a_restored_log_has_lost_is_passed_over_no_more(
        self, store: UsageStore, head: int, left: int
    ) -> None:
        for position in range(1, 6):
            parked = [Parked(position, 1, "cost")] if position in {2, 4} else []
            assert await store.fold(EPOCH, position - 1, position, tally([]), parked=parked)
        await store.begin(NEXT_EPOCH, head)
        assert await store.parked() == left
        await store.begin(EPOCH, head)
        assert await store.parked() == left, "a line that is known begins nothing"

    async def test_what_can_never_be_added_is_said_to_be_so_and_leaves_everything(
        self, store: UsageStore
    ) -> None:
        assert await store.fold(EPOCH, 0, 1, tally([use()]))
        with pytest.raises(Unfoldable):
            await store.fold(EPOCH, 1, 3, tally([use(), use("key\0")]), {OTHER})
        assert await store.position(EPOCH.line) == 1
        assert (await store.read(asking(), None, 10)).totals == Count(1, 2)
        assert not await store.erase_some()

    async def test_a_counter_stays_at_the_most_it_can_hold(self, store: UsageStore) -> None:
        most, half = 2**63 - 1, 2**62
        assert await store.fold(EPOCH, 0, 1, tally([costing(half), costing(half - 1)]))
        assert (await store.read(asking(), None, 10)).totals == Count(2, most)
        assert await store.fold(EPOCH, 1, 2, tally([costing(half), use(KEY_B)]))
        for question in (asking(), asking(key=KEY_A), asking("external_id"), asking("outcome")):
            reading = await store.read(question, None, 10)
            assert reading.totals.cost == most
            assert [point.count.cost for point in reading.points] == [most]
        reading = await store.read(asking(key=KEY_B), None, 10)
        assert reading.totals == Count(1, 2)

    @pytest.mark.parametrize("outcome", ["NOT_FOUND", "MALFORMED"])
    async def test_who_proves_no_secret_has_not_used_the_key(self, store: UsageStore, outcome: str) -> None:
        assert await store.fold(EPOCH, 0, 1, tally([use(outcome=outcome, at=NOON + 9), use(KEY_B, at=NOON)]))
        assert await store.fold(EPOCH, 1, 2, tally([use(KEY_B, outcome=outcome, at=NOON + 9)]))
        assert await store.last_used(WS, [KEY_A, KEY_B]) == ({KEY_B: NOON}, 2)
        assert (await store.read(asking(key=KEY_A), None, 10)).last_used_at is None
        assert (await store.read(asking(), None, 10)).totals.count == 3, "it is counted all the same"
        assert await store.fold(EPOCH, 2, 3, tally([use(KEY_B, outcome="REVOKED", at=NOON + 20)]))
        assert (await store.last_used(WS, [KEY_B]))[0] == {KEY_B: NOON + 20}, "its holder tried"

    async def sums(self, store: UsageStore, data: st.DataObject) -> None:
        """Batches at dense positions, told again and out of turn: each counts once, in every counter."""
        await store.begin(EPOCH, 0)
        start = await store.position(EPOCH.line)
        before = {size: await self.everything(store, size) for size in SIZES}
        batches = data.draw(st.lists(st.lists(_USES, max_size=4), min_size=1, max_size=6))
        end = start + len(batches)
        for first, last in data.draw(st.lists(st.tuples(_OFFSETS, _OFFSETS), max_size=8)):
            if 0 <= first < last <= len(batches):
                told = tally(each for batch in batches[first:last] for each in batch)
                stood = await store.position(EPOCH.line)
                assert await store.fold(EPOCH, start + first, start + last, told) is (stood == start + first)
        rest = await store.position(EPOCH.line)
        if rest < end:
            told = tally(each for batch in batches[rest - start :] for each in batch)
            assert await store.fold(EPOCH, rest, end, told)
        sent = Counter[tuple[str, str, str]]()
        for each in (each for batch in batches for each in batch):
            sent[each.key_id, each.outcome, each.external_id] += each.count
        for size in SIZES:
            assert await self.everything(store, size) - before[size] == sent

    async def everything(self, store: UsageStore, size: Granularity) -> Counter[tuple[str, str, str]]:
        """What is counted by key, outcome and external id; the workspace's own counters must say the same."""
        period = Period(NOON - 720 * MINUTE, NOON + 720 * MINUTE, size)
        question = Question(WS, None, period, ("key", "outcome", "external_id"))
        reading = await store.read(question, None, 10_000)
        found = Counter[tuple[str, str, str]]()
        for point in reading.points:
            found[point.mark.key, point.mark.outcome, point.mark.external_id] += point.count.count
        whole = await store.read(Question(WS, None, period, ("outcome",)), None, 10_000)
        assert sum(point.count.count for point in whole.points) == found.total() == reading.totals.count
        return found


class TestMemory(UsageStoreSuite):
    @_MANY
    @given(data=st.data())
    async def test_sums_are_what_was_sent_however_often_and_in_whatever_parts_it_comes(
        self, store: UsageStore, data: st.DataObject
    ) -> None:
        await self.sums(store, data)

    @pytest.fixture
    async def store(self) -> UsageStore:
        store = MemoryUsageStore()
        await store.begin(EPOCH, 0)
        return store


class TestPostgres(UsageStoreSuite):
    @_MANY
    @given(data=st.data())
    async def test_sums_are_what_was_sent_however_often_and_in_whatever_parts_it_comes(
        self, store: UsageStore, data: st.DataObject
    ) -> None:
        await self.sums(store, data)

    @pytest.fixture
    async def store(self, database: str) -> AsyncIterator[UsageStore]:
        async with open_store(database) as store:
            await store.begin(EPOCH, 0)
            yield store

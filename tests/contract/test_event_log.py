"""One suite for every `EventLog` and `UseLog`: what is appended is there once, in order, or not at all."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from keyledger.errors import Refusal
from keyledger.events import chain_hash
from keyledger.server.ids import new_id
from keyledger.server.postgres import open_pool
from keyledger.wire import Use, UseBatch
from services.keys.adapters.log import PostgresLog
from services.keys.adapters.states import PostgresStates
from services.keys.adapters.uses import PostgresUseLog
from services.keys.ports import (
    AlreadyAnswered,
    AnswerInProgress,
    Appended,
    Command,
    EventLog,
    KeyFilter,
    NewAnswer,
    NewEvent,
    States,
    UseLog,
    VersionConflict,
)
from tests.support import servers_fresh as fresh
from tests.support.keys import migrated
from tests.support.memory_keys import MemoryKeys

NOW = 1_800_000_000_000_000
DAY = 86_400_000_000


@dataclass(frozen=True)
class Place:
    """One implementation of the ports; tests share it, and each has workspaces of its own."""

    log: EventLog
    states: States
    uses: UseLog
    dsn: str = ""


@pytest.fixture(scope="module")
async def postgres(postgres_server: str) -> AsyncIterator[Place]:
    async with fresh.database(postgres_server) as admin_dsn:
        dsn = await migrated(admin_dsn)
        pool = await open_pool(dsn, name="test")
        async with PostgresLog(pool) as log:
            yield Place(log, PostgresStates(pool), PostgresUseLog(pool), dsn)
        await pool.close()


@pytest.fixture(params=["memory", "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "postgres":
        return request.getfixturevalue("postgres")
    memory = MemoryKeys()
    return Place(memory, memory, memory)


def event(number: int = 0) -> NewEvent:
    return NewEvent("key_changed", 1, "key_actor", f"req-{number}", b'{"number":%d}' % number)


def command(stream: str, workspace: str, expected: int = 0, **fields: Any) -> Command:
    """A command with one event, on a key's stream."""
    given: dict[str, Any] = {
        "kind": "key",
        "now": NOW,
        "events": (event(),),
        "body": b'{"name":"k","environment":"live"}',
        **fields,
    }
    return Command(
        UUID(bytes=secrets.token_bytes(16)),
        stream,
        workspace_id=workspace,
        expected_version=expected,
        **given,
    )


def kept(name: bytes, *, until: int = NOW + DAY) -> NewAnswer:
    return NewAnswer(name, b"hash of the request", b"sealed", until)


@pytest.fixture
def ws() -> str:
    return new_id("ws")


@pytest.fixture
def key() -> str:
    return new_id("key")


async def outcome(log: EventLog, asked: Command) -> Appended | Exception:
    try:
        return await log.append(asked)
    except (VersionConflict, AlreadyAnswered, AnswerInProgress, Refusal) as error:
        return error


async def test_what_is_appended_is_at_the_head(place: Place, ws: str, key: str) -> None:
    before = await place.states.head()
    appended = await place.log.append(command(key, ws, events=(event(1), event(2))))
    head = await place.states.head()
    assert (appended.version, appended.position) == (2, before.position + 2)
    assert (head.position, head.at, head.epoch) == (appended.position, appended.at, appended.epoch)
    stored, _ = await place.states.get(key)
    assert stored is not None
    assert (stored.version, stored.position, stored.created_position) == (
        2,
        head.position,
        before.position + 1,
    )
    assert msgspec.json.decode(stored.body) == {"name": "k", "environment": "live"}


async def test_events_are_stored_byte_for_byte_and_chained(place: Place, ws: str, key: str) -> None:
    before = await place.states.head()
    data = b'{ "spaced" : 1,"b":"\xc3\xbc" }'
    await place.log.append(command(key, ws, events=(msgspec.structs.replace(event(1), data=data), event(2))))
    found, head = await place.states.events(ws, key, after=0, limit=10)
    previous = before.hash
    for recorded in found:
        assert recorded.hash == chain_hash(previous, head.epoch.line, recorded)
        previous = recorded.hash
    assert previous == head.hash
    assert found[0].data == data
    assert [(each.stream_id, each.workspace_id, each.version) for each in found] == [
        (key, ws, 1),
        (key, ws, 2),
    ]
    assert [each.request_id for each in found] == ["req-1", "req-2"]


@pytest.mark.parametrize("expected", [0, 2, 7])
async def test_another_version_is_a_conflict_and_changes_nothing(
    place: Place, ws: str, key: str, expected: int
) -> None:
    await place.log.append(command(key, ws))
    before = await place.states.head()
    with pytest.raises(VersionConflict):
        await place.log.append(command(key, ws, expected, body=b'{"name":"other"}'))
    assert await place.states.head() == before
    assert (await place.log.append(command(key, ws, 1))).version == 2


async def test_a_stream_that_is_not_there_has_version_nought(place: Place, ws: str, key: str) -> None:
    with pytest.raises(VersionConflict):
        await place.log.append(command(key, ws, 1))
    assert (await place.states.get(key))[0] is None


async def test_a_stream_is_its_workspace_s(place: Place, ws: str, key: str) -> None:
    await place.log.append(command(key, ws))
    before = await place.states.head()
    for expected in (0, 1):
        with pytest.raises(VersionConflict):
            await place.log.append(command(key, new_id("ws"), expected))
    assert await place.states.head() == before


async def test_fifty_at_once_take_dense_positions_in_commit_order(place: Place, ws: str) -> None:
    before = await place.states.head()
    streams = [new_id("key") for _ in range(50)]
    done = await asyncio.gather(*(place.log.append(command(stream, ws)) for stream in streams))
    assert sorted(each.position for each in done) == list(range(before.position + 1, before.position + 51))
    found, _ = await place.states.events(ws, None, after=before.position, limit=100)
    assert [each.position for each in found] == list(range(before.position + 1, before.position + 51))
    assert {each.stream_id: each.position for each in found} == {
        stream: each.position for stream, each in zip(streams, done, strict=True)
    }
    ats = [each.at for each in found]
    assert ats == sorted(ats)


async def test_of_many_on_one_stream_one_wins(place: Place, ws: str, key: str) -> None:
    outcomes = await asyncio.gather(*(outcome(place.log, command(key, ws)) for _ in range(20)))
    assert [type(each) for each in outcomes].count(Appended) == 1
    assert [type(each) for each in outcomes].count(VersionConflict) == 19


async def test_a_conflict_costs_the_others_nothing(place: Place, ws: str, key: str) -> None:
    await place.log.append(command(key, ws))
    before = await place.states.head()
    asked = [command(key, ws, 9) if number % 3 == 0 else command(new_id("key"), ws) for number in range(30)]
    outcomes = await asyncio.gather(*(outcome(place.log, each) for each in asked))
    positions = [each.position for each in outcomes if isinstance(each, Appended)]
    assert [type(each) for each in outcomes].count(VersionConflict) == 10
    assert sorted(positions) == list(range(before.position + 1, before.position + 21))


async def test_commands_for_two_streams_stay_apart(place: Place, ws: str) -> None:
    one, other = new_id("key"), new_id("key")
    first, second = await asyncio.gather(
        place.log.append(command(one, ws, events=(event(1), event(2), event(3)))),
        place.log.append(command(other, ws, events=(event(4), event(5)))),
    )
    assert (first.version, second.version) == (3, 2)
    for stream, numbers in ((one, [1, 2, 3]), (other, [4, 5])):
        found, _ = await place.states.events(ws, stream, after=0, limit=10)
        assert [each.request_id for each in found] == [f"req-{number}" for number in numbers]
        positions = [each.position for each in found]
        assert positions == list(range(positions[0], positions[0] + len(numbers)))


async def test_time_never_goes_back(place: Place, ws: str) -> None:
    late = await place.log.append(command(new_id("key"), ws, now=NOW + 5))
    early = await place.log.append(command(new_id("key"), ws, now=NOW - DAY))
    later = await place.log.append(command(new_id("key"), ws, now=late.at + 9))
    assert late.at >= NOW + 5
    assert (early.at, later.at) == (late.at, late.at + 9)


async def test_the_last_position_of_a_moment_is_found(place: Place, ws: str) -> None:
    start = (await place.states.head()).at + DAY
    done = [await place.log.append(command(new_id("key"), ws, now=start + step)) for step in (0, 0, 10, 20)]
    assert await place.states.position_at(start - 1) == done[0].position - 1
    assert await place.states.position_at(start) == done[1].position
    assert await place.states.position_at(start + 19) == done[2].position
    assert await place.states.position_at(start + 10**9) == done[3].position
    assert await place.states.position_at(-1) == 0
    assert await place.states.moment_of(done[2].position) == start + 10
    assert await place.states.moment_of(done[3].position + 1) is None
    assert await place.states.moment_of(0) is None


async def test_stamps_take_the_moment_of_the_commit(place: Place, ws: str, key: str) -> None:
    body = (
        b'{"environment":"live","created_at":-1,"secrets":[{"created_at":7},{"created_at":-1,"a":{"b":-1}}]}'
    )
    stamps = (("created_at",), ("secrets", "1", "created_at"), ("secrets", "1", "a", "b"))
    done = await place.log.append(command(key, ws, body=body, stamps=stamps))
    stored, _ = await place.states.get(key)
    assert stored is not None
    assert msgspec.json.decode(stored.body) == {
        "environment": "live",
        "created_at": done.at,
        "secrets": [{"created_at": 7}, {"created_at": done.at, "a": {"b": done.at}}],
    }


async def test_an_answer_is_kept_with_its_command_and_only_once(place: Place, ws: str, key: str) -> None:
    name = secrets.token_bytes(32)
    done = await place.log.append(command(key, ws, answer=kept(name)))
    found = await place.states.answer(name, now=NOW)
    assert found is not None
    assert (found.request_hash, found.sealed) == (b"hash of the request", b"sealed")
    assert (found.position, found.at) == (done.position, done.at)
    with pytest.raises(AlreadyAnswered):
        await place.log.append(command(new_id("key"), ws, answer=kept(name)))
    assert (await place.states.head()).position == done.position


async def test_an_answer_expires(place: Place, ws: str) -> None:
    name = secrets.token_bytes(32)
    await place.log.append(command(new_id("key"), ws, answer=kept(name, until=NOW + 10)))
    assert await place.states.answer(name, now=NOW + 9) is not None
    assert await place.states.answer(name, now=NOW + 10) is None
    assert await place.states.answer(b"unknown", now=NOW) is None
    again = await place.log.append(command(new_id("key"), ws, now=NOW + 10, answer=kept(name)))
    found = await place.states.answer(name, now=NOW + 10)
    assert found is not None
    assert found.position == again.position


async def test_a_command_that_conflicts_keeps_no_answer(place: Place, ws: str, key: str) -> None:
    name = secrets.token_bytes(32)
    with pytest.raises(VersionConflict):
        await place.log.append(command(key, ws, 3, answer=kept(name)))
    assert await place.states.answer(name, now=NOW) is None


async def test_the_same_name_many_times_at_once_is_answered_once(place: Place, ws: str) -> None:
    name = secrets.token_bytes(32)
    asked = [command(new_id("key"), ws, answer=kept(name)) for _ in range(20)]
    outcomes = await asyncio.gather(*(outcome(place.log, each) for each in asked))
    assert [type(each) for each in outcomes].count(Appended) == 1
    rest = [each for each in outcomes if not isinstance(each, Appended)]
    assert all(isinstance(each, AlreadyAnswered | AnswerInProgress) for each in rest)
    found, _ = await place.states.events(ws, None, after=0, limit=100)
    assert len(found) == 1


async def test_nothing_to_do_can_still_be_answered(place: Place, ws: str, key: str) -> None:
    done = await place.log.append(command(key, ws))
    await place.log.append(command(new_id("key"), ws))
    head, name = await place.states.head(), secrets.token_bytes(32)
    same = await place.log.append(
        command(key, ws, 1, events=(), body=b'{"name":"ignored"}', answer=kept(name))
    )
    assert (same.version, same.position) == (1, done.position)
    found = await place.states.answer(name, now=NOW)
    assert found is not None
    assert found.position == done.position
    assert (await place.states.head()).position == head.position
    stored, _ = await place.states.get(key)
    assert stored is not None
    assert msgspec.json.decode(stored.body)["name"] == "k"


async def test_a_deleted_workspace_is_gone_with_its_data_key_and_takes_no_more(
    place: Place, ws: str, key: str
) -> None:
    await place.log.append(command(ws, ws, kind="workspace", data_key=b"wrapped"))
    await place.log.append(command(key, ws))
    assert await place.states.data_key(ws) == b"wrapped"
    gone = NewEvent("workspace_deleted", 1, "system", "req", b"{}")
    done = await place.log.append(command(ws, ws, 1, kind="workspace", events=(gone,)))
    head = await place.states.head()
    assert head.position == done.position
    for stream in (ws, key):
        assert await place.states.get(stream) == (None, head)
    assert await place.states.keys(ws, KeyFilter(NOW), before=None, limit=9) == ([], head)
    assert await place.states.data_key(ws) is None
    for late in (command(key, ws, 1), command(new_id("key"), ws), command(ws, ws, 2, kind="workspace")):
        refused = await outcome(place.log, late)
        assert getattr(refused, "code", "") == "not_found"
    assert await place.states.head() == head


USE = Use("ws_1", "key_1", "live", 60_000_000, "VALID", 2, 3, 61_000_000)


async def test_a_batch_is_recorded_once_however_often_it_comes(place: Place) -> None:
    boot = secrets.token_hex(8)

    async def send(seq: int) -> int:
        return await place.uses.record(UseBatch(boot, seq, (USE, USE)), now=NOW)

    assert [await send(seq) for seq in (0, 0, 1, 0, 2)] == [1, 1, 2, 2, 3]
    # what was lost on the way is lost; what comes late after it, too
    assert [await send(seq) for seq in (7, 5, 7, 8)] == [8, 8, 8, 9]
    assert await place.uses.record(UseBatch(boot + "x", 3, ()), now=NOW) == 4


async def test_the_same_batch_at_once_counts_once(place: Place) -> None:
    boot = secrets.token_hex(8)
    answers = await asyncio.gather(
        *(place.uses.record(UseBatch(boot, 0, (USE,)), now=NOW) for _ in range(10))
    )
    assert answers == [1] * 10


async def test_use_positions_are_dense_and_hold_each_batch_once(postgres: Place) -> None:
    connection = await asyncpg.connect(postgres.dsn)
    try:
        before = await connection.fetchval("SELECT position FROM ledger.use_head")
        boots = [secrets.token_hex(8) for _ in range(20)]
        await asyncio.gather(
            *(
                postgres.uses.record(UseBatch(boot, 0, (USE,) * 3), now=NOW)
                for boot in boots
                for _ in range(2)
            )
        )
        rows = await connection.fetch(
            "SELECT b.position, b.boot, count(r.*) AS uses FROM ledger.use_batch b "
            "LEFT JOIN ledger.use_record r USING (position) WHERE b.position > $1 GROUP BY 1, 2 ORDER BY 1",
            before,
        )
        assert [row["position"] for row in rows] == list(range(before + 1, before + 21))
        assert sorted(row["boot"] for row in rows) == sorted(boots)
        assert {row["uses"] for row in rows} == {3}
    finally:
        await connection.close()


async def test_an_answer_that_another_process_is_giving_is_in_progress(postgres: Place, ws: str) -> None:
    name = secrets.token_bytes(32)
    other = await asyncpg.connect(postgres.dsn)
    try:
        async with other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock(hashtextextended(encode($1, 'hex'), 7))", name)
            with pytest.raises(AnswerInProgress):
                await postgres.log.append(command(new_id("key"), ws, answer=kept(name)))
        assert isinstance(
            await outcome(postgres.log, command(new_id("key"), ws, answer=kept(name))), Appended
        )
    finally:
        await other.close()


async def test_what_the_database_cannot_hold_costs_only_its_own_command(postgres: Place, ws: str) -> None:
    before = await postgres.states.head()
    asked = [command(new_id("key"), ws) for _ in range(10)]
    asked[4] = command(new_id("key"), ws, body=b'{"name":"\\u0000"}')
    outcomes = await asyncio.gather(*(outcome(postgres.log, each) for each in asked))
    assert [isinstance(each, Appended) for each in outcomes] == [number != 4 for number in range(10)]
    assert getattr(outcomes[4], "code", "") == "internal_error"
    assert (await postgres.states.head()).position == before.position + 9

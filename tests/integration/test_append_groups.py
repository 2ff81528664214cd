"""The append for whole groups does what the append for one command after the other did, in every table."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from services.keys.adapters import log as adapter
from services.keys.adapters.log import command_row
from services.keys.ports import Command, Kind, NewAnswer, NewEvent
from tests.support.keys import migrated
from tests.support.waiting import until

FIRST = Path(adapter.__file__).parent / "migrations" / "0001_log.sql"
TABLES = {"event": "position", "stream": "id", "state": "stream_id", "log_head": "one", "idempotency": "id",
          "workspace_key": "workspace_id"}  # fmt: skip
GROUPS = 150
WORKSPACES = ("ws_a", "ws_b")
NOW = 1_800_000_000_000_000


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    await migrated(database)
    connection = await asyncpg.connect(database)
    text = FIRST.read_text()
    start = text.index("CREATE FUNCTION ledger.append(")
    before = text[start : text.index("END $$;", start) + len("END $$;")]
    # but for what 0013 mends: a stream is created where its first event stands
    ended = "command.workspace_id, ver, head.position, head.position, body)"
    began = "head.position - (ver - command.expected_version) + 1, body)"
    assert ended in before
    before = before.replace(ended, ended.replace("head.position, body)", began))
    await connection.execute(re.sub(r"ledger\.append\(", "ledger.append_before(", before, count=1))
    yield connection
    await connection.close()


def a_command(dice: random.Random, number: int, known: dict[str, int]) -> Command:
    stream = f"key_{dice.randrange(12)}"
    guess = known.get(stream, 0) + dice.choice((0, 0, 0, 1, 2, -1))
    count = dice.choice((0, 1, 1, 1, 2, 3))
    named = dice.random() < 0.3
    return Command(
        UUID(int=dice.getrandbits(128)),
        stream,
        "key",
        # mostly the stream's own workspace
        owner_of(stream) if dice.random() < 0.9 else dice.choice(WORKSPACES),
        max(0, guess),
        NOW + dice.randrange(-1000, 1000) + number,
        tuple(
            NewEvent(
                dice.choice(("key_changed", "ключ")), 1, f"a{n}", 'r"\\', dice.randbytes(dice.randrange(99))
            )
            for n in range(count)
        ),
        b'{"at": -1, "list": [{"at": -1}, {"at": -1}], "n": %d}' % number,
        (("at",), ("list", "0", "at"), ("list", "1", "at"), ("gone", "at"))[: dice.randrange(5)],
        dice.randbytes(4) if dice.random() < 0.01 else None,
        NewAnswer(bytes([dice.randrange(6)]), b"hash", dice.randbytes(8), NOW + dice.randrange(-900, 900))
        if named
        else None,
    )


def owner_of(stream: str) -> str:
    return WORKSPACES[int(stream.removeprefix("key_")) % 2]


def arguments(commands: list[Command]) -> tuple[list[Any], list[Any]]:
    rows = [command_row(ordinal, command) for ordinal, command in enumerate(commands, 1)]
    events = [
        (ordinal, event.type, event.schema_version, event.actor, event.request_id, event.data)
        for ordinal, command in enumerate(commands, 1)
        for event in command.events
    ]
    return rows, events


async def outcome(connection: asyncpg.Connection, function: str, commands: list[Command]) -> Any:
    """What the call answers and leaves behind in every table; all of it undone again."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        answers = await connection.fetch(f"SELECT * FROM ledger.{function}($1, $2)", *arguments(commands))
        tables = {
            name: [tuple(row) for row in await connection.fetch(f"SELECT * FROM ledger.{name} ORDER BY {by}")]
            for name, by in TABLES.items()
        }
    except asyncpg.IntegrityConstraintViolationError as error:
        # a workspace made twice, an answer about nothing
        return type(error).__name__
    finally:
        await transaction.rollback()
    return [tuple(answer) for answer in answers], tables


async def test_a_group_is_appended_as_its_commands_were_one_by_one(connection: asyncpg.Connection) -> None:
    seed = random.randrange(2**32)
    dice, known = random.Random(seed), dict[str, int]()
    seen = dict[str, int]()
    for group in range(GROUPS):
        commands = [a_command(dice, group, known) for _ in range(dice.randrange(1, 20))]
        if (group % 3) == 0:
            # every command right behind the one before it on its stream
            commands = sequenced(commands, known)
        before = await outcome(connection, "append_before", commands)
        after = await outcome(connection, "append", commands)
        assert after == before, f"seed {seed}, group {group}"
        if isinstance(after, str):
            continue
        await connection.fetch("SELECT * FROM ledger.append($1, $2)", *arguments(commands))
        for answer in after[0]:
            seen[answer[1]] = seen.get(answer[1], 0) + 1
        known = {row[0]: row[2] for row in after[1]["stream"]}
    # the dice have tried everything
    assert min(seen[word] for word in ("done", "conflict", "replay")) > 20, seen


async def test_a_group_of_new_streams_gives_each_its_own(connection: asyncpg.Connection) -> None:
    dice = random.Random(seed := random.randrange(2**32))
    for group in range(30):
        streams = dice.sample([f"key_{group}{n:03}" for n in range(500)], dice.randrange(2, 65))
        commands = [
            msgspec.structs.replace(
                a_command(dice, n, {}), stream_id=stream, workspace_id=owner_of(stream), expected_version=0,
                answer=None, data_key=None,
            )
            for n, stream in enumerate(streams)
        ]  # fmt: skip
        before = await outcome(connection, "append_before", commands)
        assert await outcome(connection, "append", commands) == before, f"seed {seed}, group {group}"
        await connection.fetch("SELECT * FROM ledger.append($1, $2)", *arguments(commands))
        rows = await connection.fetch("SELECT stream_id, data FROM ledger.event ORDER BY position")
        told = [(each.stream_id, event.data) for each in commands for event in each.events]
        assert [tuple(row) for row in rows[-len(told) :]] == told, f"seed {seed}, group {group}"


def sequenced(commands: list[Command], known: dict[str, int]) -> list[Command]:
    at = dict(known)
    found: list[Command] = []
    for each in commands:
        expected = at.get(each.stream_id, 0)
        found.append(
            msgspec.structs.replace(
                each,
                workspace_id=owner_of(each.stream_id),
                expected_version=expected,
                answer=None,
                data_key=None,
            )
        )
        at[each.stream_id] = expected + len(each.events)
    return found


async def test_a_stream_that_another_process_begins_meanwhile_is_a_conflict_of_its_own(
    connection: asyncpg.Connection, database: str
) -> None:
    dice = random.Random(1)
    ours = [
        msgspec.structs.replace(a_command(dice, 0, {}), stream_id=f"key_{n}", answer=None) for n in (2, 4, 6)
    ]
    ours = [
        msgspec.structs.replace(
            each,
            workspace_id="ws_a",
            expected_version=0,
            data_key=None,
            events=(NewEvent("t", 1, "a", "r", b""),),
        )
        for each in ours
    ]
    other = await asyncpg.connect(database)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetch("SELECT * FROM ledger.append($1, $2)", *arguments(ours[1:2]))
        waiting = asyncio.create_task(
            other.fetch("SELECT * FROM ledger.append($1, $2)", *arguments(ours), timeout=10)
        )

        async def waits() -> bool:
            return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))

        await until(waits)
        await transaction.commit()
        answers = await waiting
        assert [(row["outcome"], row["version"]) for row in answers] == [
            ("done", 1),
            ("conflict", 1),
            ("done", 1),
        ]
        assert await connection.fetchval("SELECT position FROM ledger.log_head") == 3
        assert await connection.fetchval(
            "SELECT array_agg(position ORDER BY position) FROM ledger.event"
        ) == [
            1,
            2,
            3,
        ]
    finally:
        await other.close()


async def test_in_one_group_a_deletion_lets_in_what_stands_before_it_and_nothing_behind_it(
    connection: asyncpg.Connection,
) -> None:
    def told(number: int, stream: str, kind: Kind, tag: str) -> Command:
        event = NewEvent(tag, 1, "a", "r", b"")
        return Command(UUID(int=number), stream, kind, "ws_a", 0, NOW, (event,), b"{}")

    before = told(1, "key_2", "key", "key_changed")
    deletion = told(2, "ws_a", "workspace", "workspace_deleted")
    behind = told(3, "key_4", "key", "key_changed")
    for refused in (
        [before, deletion, behind],
        [deletion, before],
        [deletion, told(4, "ws_a2", "workspace", "workspace_deleted")],
    ):
        with pytest.raises(asyncpg.PostgresError) as raised:
            await connection.fetch("SELECT * FROM ledger.append($1, $2)", *arguments(refused))
        assert getattr(raised.value, "sqlstate", "") == "KL404"
    await connection.fetch("SELECT * FROM ledger.append($1, $2)", *arguments([before, deletion]))
    assert await connection.fetchval("SELECT position FROM ledger.erasure WHERE workspace_id = 'ws_a'") == 2
    with pytest.raises(asyncpg.PostgresError) as raised:
        await connection.fetch("SELECT * FROM ledger.append($1, $2)", *arguments([behind]))
    assert getattr(raised.value, "sqlstate", "") == "KL404"

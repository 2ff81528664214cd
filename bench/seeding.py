"""Fill a log with keys as the key service would have recorded them: sealed, chained, folded.

Everything goes through `ledger.append`, a thousand creations a call on two connections; only the requests
before it and the Argon2id proofs are left out (the proof is the text of one).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from bench.stage import Stage, say
from keyledger import events
from keyledger.digest import load_peppers
from keyledger.events import KeyCreated, KeyText, NewSecret, RateLimit, WorkspaceCreated, WorkspaceText
from keyledger.server.ids import new_id
from keyledger.server.seal import Sealer, seal_text
from keyledger.token import ALPHABET, SECRET_LENGTH, mint
from services.keys.adapters.log import command_row
from services.keys.domain import key as keys
from services.keys.domain import workspace as workspaces
from services.keys.domain.key import Context
from services.keys.ports import Command, NewEvent

GROUP = 1000
WORKSPACES = 100
ACTOR = "key_0000000000000000000000"
APPEND = "SELECT outcome FROM ledger.append($1, $2)"
_PROOF = "$argon2id$v=19$m=1024,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "p" * 43


def micros() -> int:
    """Now, as events tell it."""
    return time.time_ns() // 1000


def key_command(
    workspace_id: str, data_key: bytes, number: int, *, key_id: str = "", digest: bytes = b""
) -> Command:
    """The creation of a key, as the key service writes it; nobody knows its token unless it is given."""
    key_id, at = key_id or new_id("key"), micros()
    text = KeyText(f"billing {number}", metadata={"team": "payments"}, proof=_PROOF)
    event = KeyCreated(
        "live",
        ("contacts:read",),
        NewSecret("cvtk_live_…0000", {"p1": digest or os.urandom(32)}),
        private=text,
    )
    state = keys.evolve(None, event, Context(key_id, workspace_id, ACTOR, at))
    place = events.private_place(key_id, 1, "key_created")
    sealed = msgspec.structs.replace(event, private=seal_text(data_key, msgspec.json.encode(text), place))
    new = NewEvent("key_created", 1, ACTOR, "req_bench", events.encode(sealed))
    body = msgspec.json.encode(msgspec.structs.replace(state, created_at=-1))
    return Command(
        UUID(bytes=os.urandom(16)), key_id, "key", workspace_id, 0, at, (new,), body, (("created_at",),)
    )


async def new_workspace(
    sealer: Sealer, connection: asyncpg.Connection, limit: int = 1000
) -> tuple[str, bytes]:
    """A workspace in the log with so many uses a minute: its id and its data key."""
    workspace_id = new_id("ws")
    data_key, wrapped = sealer.new_data_key(workspace_id)
    text = WorkspaceText("Acme")
    event = WorkspaceCreated(RateLimit(limit, 60), private=text)
    state = workspaces.evolve(None, event, Context(workspace_id, workspace_id, ACTOR, micros()))
    place = events.private_place(workspace_id, 1, "workspace_created")
    sealed = msgspec.structs.replace(event, private=seal_text(data_key, msgspec.json.encode(text), place))
    new = NewEvent("workspace_created", 1, ACTOR, "req_bench", events.encode(sealed))
    command = Command(
        UUID(bytes=os.urandom(16)), workspace_id, "workspace", workspace_id, 0, micros(), (new,),
        msgspec.json.encode(state), (), wrapped,
    )  # fmt: skip
    await append(connection, [command])
    return workspace_id, data_key


async def append(connection: asyncpg.Connection, commands: list[Command]) -> None:
    """Append them in one call; each must be done."""
    rows = [command_row(ordinal, command) for ordinal, command in enumerate(commands, 1)]
    told = [
        (ordinal, event.type, event.schema_version, event.actor, event.request_id, event.data)
        for ordinal, command in enumerate(commands, 1)
        for event in command.events
    ]
    outcomes = await connection.fetch(APPEND, rows, told, timeout=60)
    assert all(row["outcome"] == "done" for row in outcomes)


class Seeded(Struct, frozen=True):
    """How long it took, and the tokens of the keys of which they are known."""

    seconds: float
    tokens: list[str]


async def seed(stage: Stage, count: int, *, known: int = 0, limit: int = 1000) -> Seeded:
    """Append so many keys, of workspaces with so many uses a minute.

    Of about `known` of them, evenly spread over all, the tokens are known.
    """
    began = time.perf_counter()
    connections = [await asyncpg.connect(stage.postgres) for _ in range(2)]
    places = [await new_workspace(stage.sealer, connections[0], limit) for _ in range(WORKSPACES)]
    starts, every = iter(range(0, count, GROUP)), count // known if known else count
    peppers, tokens = load_peppers(stage.home.peppers), list[str]()

    def command(number: int) -> Command:
        if not known or number % every:
            return key_command(*places[number % WORKSPACES], number)
        key_id = new_id("key")
        token = mint("cvtk", "live", key_id, _secret()).reveal()
        tokens.append(token)
        place = places[number // every % WORKSPACES]
        return key_command(*place, number, key_id=key_id, digest=peppers.digest(token))

    async def fill(connection: asyncpg.Connection) -> None:
        for start in starts:
            await append(connection, [command(n) for n in range(start, min(start + GROUP, count))])
            if start % 100_000 == 0:
                say(f"  {start:,} of {count:,} keys recorded")

    try:
        await asyncio.gather(*map(fill, connections))
        administrator = await asyncpg.connect(stage.admin)
        # what autovacuum would have done by then
        await administrator.execute("VACUUM (ANALYZE)", timeout=120)
        await administrator.close()
    finally:
        for connection in connections:
            await connection.close()
    return Seeded(time.perf_counter() - began, tokens)


def _secret() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))

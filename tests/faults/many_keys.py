"""Many keys at once: through the log itself, since over HTTP each would cost an Argon2id."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg
import msgspec
import uuid_utils

from keyledger import events
from keyledger.clock import SystemClock
from keyledger.digest import load_peppers
from keyledger.events import KeyCreated, KeyText, NewSecret
from keyledger.server.ids import new_id, new_secret
from keyledger.server.postgres import close_pool, open_pool
from keyledger.server.seal import Sealer, seal_text
from keyledger.token import hint, mint
from services.keys.adapters.log import PostgresLog
from services.keys.domain.key import PENDING, Context, Key, evolve
from services.keys.handlers.writing import pending_paths
from services.keys.ports import Command, NewEvent
from tests.faults.rig import Rig
from tests.support.keys import as_role

AT_ONCE = 512


async def many_keys(rig: Rig, workspace: str, count: int) -> list[str]:
    """The tokens of so many new keys."""
    connection = await asyncpg.connect(rig.admin_dsn, timeout=5)
    wrapped = await connection.fetchval(
        "SELECT wrapped FROM ledger.workspace_key WHERE workspace_id = $1", workspace
    )
    await connection.close()
    data_key = Sealer(bytes.fromhex(rig.home.seal.read_text())).unwrap(workspace, wrapped)
    peppers = load_peppers(rig.home.peppers)
    clock = SystemClock()
    tokens: list[str] = []

    def command() -> Command:
        key_id = new_id("key")
        token = mint("cvtk", "live", key_id, new_secret())
        tokens.append(token.reveal())
        secret = NewSecret(hint(token), {peppers.active: peppers.digest(token.reveal())})
        text = KeyText(name=f"one of {count}")
        created = KeyCreated("live", ("*",), secret, private=text)
        state: Key = evolve(None, created, Context(key_id, workspace, "system", PENDING))
        body = msgspec.json.encode(state)
        place = events.private_place(key_id, 1, "key_created")
        sealed = seal_text(data_key, msgspec.json.encode(text), place)
        data = events.encode(msgspec.structs.replace(created, private=sealed))
        return Command(
            command_id=UUID(int=uuid_utils.uuid7().int),
            stream_id=key_id,
            kind="key",
            workspace_id=workspace,
            expected_version=0,
            now=clock.now(),
            events=(NewEvent("key_created", 1, "system", "many", data),),
            body=body,
            stamps=pending_paths(msgspec.json.decode(body)),
        )

    pool = await open_pool(as_role(rig.admin_dsn), name="many", most=2)
    try:
        async with PostgresLog(pool) as log:
            for at in range(0, count, AT_ONCE):
                some = [log.append(command()) for _ in range(min(AT_ONCE, count - at))]
                await asyncio.gather(*some)
    finally:
        await close_pool(pool)
    return tokens

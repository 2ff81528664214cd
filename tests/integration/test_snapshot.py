"""`GET /v1/snapshot`: pages of every key and workspace, each a cut of the log, without a proof in them."""

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from keyledger import wire
from keyledger.events import EpochAccepted, encode
from keyledger.verification.frozen import Frozen
from keyledger.verification.snapshot import load
from keyledger.verification.state_digest import digest_of
from keyledger.verification.store import MemoryStore
from keyledger.verification.telling import read_telling
from keyledger.wire import KeyState, Page, SnapshotPage, WorkspaceState
from tests.support.clock import ManualClock
from tests.support.keys import Caller, House, Keys, house, refused
from tests.support.servers import Servers
from tests.support.waiting import until

STATES = msgspec.msgpack.Decoder(list[KeyState | WorkspaceState])


@pytest.fixture
async def here(servers: Servers, tmp_path: Path) -> AsyncIterator[House]:
    async with house(servers, tmp_path / "home") as found:
        yield found


class Served:
    """The service's snapshot and feed as a follower asks for them, a few records a page."""

    def __init__(self, by: Caller, size: int = 3) -> None:
        self.by = by
        self.size = size
        self.before_page: Callable[[], Awaitable[None]] | None = None
        self.pages: list[SnapshotPage] = []

    async def snapshot(self, after: str, limit: int, since: int) -> tuple[SnapshotPage, list[memoryview]]:
        if self.before_page is not None:
            await self.before_page()
        answer = await self.by(
            "GET", f"/v1/snapshot?after={after}&limit={min(limit, self.size)}&since={since}"
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/octet-stream"
        first, *frames = wire.unframe(answer.content)
        self.pages.append(msgspec.msgpack.decode(first, type=SnapshotPage))
        return self.pages[-1], frames

    async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
        answer = await self.by("GET", f"/v1/feed?after={after}&limit={limit}")
        first, *records = wire.unframe(answer.content)
        return msgspec.msgpack.decode(first, type=Page), records

    async def states(self) -> tuple[list[SnapshotPage], list[KeyState | WorkspaceState]]:
        found: list[KeyState | WorkspaceState] = []
        pages: list[SnapshotPage] = []
        while not pages or pages[-1].after:
            page, frames = await self.snapshot(
                pages[-1].after if pages else "", self.size, pages[0].head_position if pages else 0
            )
            pages.append(page)
            for frame in frames:
                found += STATES.decode(frame)
        return pages, found


async def digest(store: MemoryStore) -> object:
    with store.freeze() as frozen:
        assert isinstance(frozen, Frozen)
        return await digest_of(frozen)


async def read_all(source: Served) -> MemoryStore:
    store = MemoryStore()
    await read_telling(store, source, ManualClock())
    return store


async def anything(here: House, dice: random.Random, places: list[str], made: list[tuple[str, str]]) -> None:
    """One write of any kind. What is refused (a revoked key, a deleted workspace) is one, too."""
    ws = dice.choice(places)
    at = Keys(ws)
    kind = dice.randrange(10)
    if kind < 2 or not made:
        answer = await here.admin(
            "POST", at.all, {"name": "Ünï", "environment": "live", "metadata": {"a": "b"}}
        )
        if answer.status_code == 201:
            made.append((ws, answer.json()["id"]))
        return
    ws, key = dice.choice(made)
    one = Keys(ws).one(key)
    if kind == 2:
        digest = hashlib.sha256(dice.randbytes(9)).hexdigest()
        item = {"sha256": digest, "name": "old", "environment": "test", "allowed_ips": ["10.0.0.0/8"]}
        answer = await here.admin("POST", f"{at.all}/import", {"keys": [item]})
        if answer.status_code == 201:
            made.append((at.workspace.rpartition("/")[2], answer.json()["results"][0]["key"]["id"]))
    elif kind < 5:
        how = {
            "overlap_seconds": dice.randrange(1, 99),
            "retire": dice.choice(["at_overlap", "on_first_use"]),
        }
        await here.admin("POST", f"{one}/rotate", how)
    elif kind == 5:
        limit = dice.choice([None, {"limit": 5, "window_seconds": 60, "on_outage": "open"}])
        patch = {"enabled": dice.random() < 0.5, "rate_limit": limit, "external_id": str(dice.random())}
        await here.admin("PATCH", one, patch)
    elif kind == 6:
        await here.admin("POST", f"{one}/revoke", {"reason": "r"})
    elif kind == 7:
        await here.admin("PATCH", at.workspace, {"suspended": dice.random() < 0.5, "name": "n"})
    elif kind == 8:
        member = f"{at.workspace}/members/user_{dice.randrange(3):022}"
        await here.admin("PUT", member, {"role": dice.choice(["owner", "viewer"])})
        await here.admin("DELETE", member)
    elif len(places) > 2:
        places.remove(ws) if ws in places else None
        await here.admin("DELETE", Keys(ws).workspace)


async def test_a_snapshot_read_while_others_write_and_the_feed_after_it_are_a_fresh_fold(here: House) -> None:
    seed = random.randrange(2**32)
    dice = random.Random(seed)
    places = [await here.workspace(f"w{number}") for number in range(5)]
    made: list[tuple[str, str]] = []

    async def write() -> None:
        for _ in range(dice.randrange(5)):
            await anything(here, dice, places, made)

    for _ in range(8):
        await write()
    source = Served(here.follower)
    source.before_page = write
    store = MemoryStore()
    assert await load(store, source, ManualClock())
    await write()
    await read_telling(store, source, ManualClock())
    fresh = await read_all(source)
    assert await digest(store) == await digest(fresh), f"seed {seed}"
    assert store.last_hash == fresh.last_hash
    positions = [page.head_position for page in source.pages]
    assert positions == sorted(positions)
    assert len(set(positions)) > 1
    # and read again in one piece, where nobody writes
    quiet = MemoryStore()
    again = Served(here.follower, size=10_000)
    assert await load(quiet, again, ManualClock())
    assert (quiet.position, quiet.last_hash) == (fresh.position, fresh.last_hash)
    assert await digest(quiet) == await digest(fresh), f"seed {seed}"
    assert len(again.pages) == 1


async def test_pages_are_ordered_bounded_and_say_where_they_were_read(here: House) -> None:
    ws = await here.workspace()
    for _ in range(7):
        await here.key(ws)
    pages, states = await Served(here.follower, size=4).states()
    ids = [each.key_id if isinstance(each, KeyState) else each.workspace_id for each in states]
    assert ids == sorted(ids)
    # the bootstrap's own besides
    assert len([each for each in states if isinstance(each, KeyState) and each.workspace_id == ws]) == 7
    assert {each.workspace_id for each in states if isinstance(each, WorkspaceState)} == {ws, here.system_ws}
    head = await here.admin.ok("GET", "/v1/head")
    for page in pages:
        assert (page.head_position, page.head_hash.hex()) == (head["position"], head["hash"])
        assert (page.epoch_number, page.epoch_line.hex()) == tuple(head["epoch"].values())
        assert (page.whole, page.accepted, page.meaning) == (True, None, wire.SNAPSHOT_MEANING)
    # the last one is the first that is not full
    assert [page.after for page in pages] == [*ids[3::4], ""]


async def test_no_proof_and_no_hint_leaves_the_service(here: House) -> None:
    ws = await here.workspace()
    made = await here.key(ws, metadata={"proof": "$argon2id$mine"}, name='"proof": "x"')
    await here.admin.ok("POST", Keys(ws).one(made["id"], "rotate"), {"overlap_seconds": 60})
    answer = await here.follower("GET", "/v1/snapshot")
    assert b"$argon2id$v=" not in answer.content
    assert made["secrets"][0]["hint"].encode() not in answer.content
    assert b"\xe2\x80\xa6" not in answer.content
    _, states = await Served(here.follower).states()
    (state,) = (each for each in states if isinstance(each, KeyState) and each.key_id == made["id"])
    # what a person typed is theirs, whatever it looks like
    assert (state.body.metadata, state.body.name) == ({"proof": "$argon2id$mine"}, '"proof": "x"')
    assert [list(secret.digests) for secret in state.body.secrets] == [["p1"], ["p1"]]


async def test_it_needs_the_followers_scope_and_asks_well(here: House) -> None:
    manager = await here.manager(await here.workspace(), "keys:read", "keys:write")
    refused(await here.nobody("GET", "/v1/snapshot"), 401, "missing_api_key")
    refused(await manager("GET", "/v1/snapshot?nope=1"), 403, "insufficient_permissions")
    for field, value in (
        ("after", "x"), ("after", "key_1"), ("after", "key_" + "%00" * 22), ("after", "prf_" + "0" * 22),
        ("limit", "0"), ("limit", "10001"), ("limit", "x"), ("since", "-1"), ("nope", "1"),
    ):  # fmt: skip
        answer = await here.follower("GET", f"/v1/snapshot?{field}={value}")
        refused(answer, 400, "invalid_request", field)
    assert (await here.admin("POST", "/v1/snapshot")).status_code == 405


async def test_a_deleted_workspace_is_told_of_and_its_keys_are_not_even_before_they_are_erased(
    here: House,
) -> None:
    ws = await here.workspace("Canary Ltd")
    key = await here.key(ws, name="canary")
    connection = await asyncpg.connect(here.admin_dsn)
    try:
        row = await connection.fetchrow("SELECT * FROM ledger.state WHERE stream_id = $1", key["id"])
        assert row is not None
        assert (await here.admin("DELETE", Keys(ws).workspace)).status_code == 202

        async def erased() -> bool:
            return bool(
                await connection.fetchval("SELECT rows_gone FROM ledger.erasure WHERE workspace_id = $1", ws)
            )

        await until(erased)
        # as it is while the rows go in small steps
        await connection.execute("UPDATE ledger.erasure SET rows_gone = false, marker = NULL, purged = true")
        await connection.execute(
            "INSERT INTO ledger.state VALUES ($1, $2, $3, $4, $5, $6, $7)", *row.values()
        )
        _, states = await Served(here.follower).states()
    finally:
        await connection.close()
    told = [each for each in states if each.workspace_id == ws]
    assert [type(each) for each in told] == [WorkspaceState]
    assert msgspec.to_builtins(told[0].body) == {"deleted": True}
    assert "canary" not in repr(states)


async def test_denials_in_force_send_a_follower_to_the_feed_until_they_are_accepted(here: House) -> None:
    connection = await asyncpg.connect(here.admin_dsn)

    async def page() -> SnapshotPage:
        return (await Served(here.follower).states())[0][0]

    async def sql(statement: str, *values: Any) -> None:
        await connection.execute(statement, *values)

    try:
        await sql("INSERT INTO ledger.lost_denial VALUES (1, $1, NULL, 'suspended')", here.system_ws)
        assert not (await page()).whole
        assert not await load(MemoryStore(), Served(here.follower), ManualClock())
        accepted = encode(EpochAccepted(1))
        await sql("SELECT ledger.accept_epoch(1, $1, 1::smallint, 'a', 'r', $2, 1)", here.system_ws, accepted)
        digest = await connection.fetchval("SELECT hash FROM ledger.log_head")
        told = await page()
        assert (told.whole, told.accepted) == (True, (1, digest))
    finally:
        await connection.close()


async def test_a_page_read_ahead_is_for_those_who_began_before_it(here: House) -> None:
    ws = await here.workspace()
    for _ in range(9):
        await here.key(ws)
    source = Served(here.follower, size=3)
    first, _ = await source.snapshot("", 3, 0)
    written = (await here.key(ws))["position"]
    # whoever began before the write may have it as it was, and whoever began after it may not
    ahead, _ = await source.snapshot(first.after, 3, first.head_position)
    assert ahead.head_position == first.head_position
    again, _ = await source.snapshot("", 3, 0)
    last = (await here.key(ws))["position"]
    later, _ = await source.snapshot(again.after, 3, last)
    assert (again.head_position, later.head_position) == (written, last)
    # and without a word of when it began, nothing is taken for granted
    plain, _ = await source.snapshot(later.after, 3, 0)
    assert plain.head_position == last

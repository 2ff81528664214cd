"""H8: everything at once, as Hypothesis thinks of it: writers, killed backends, relays, streams, uses.

Postgres, the append and the readers are real; the broker between them is in memory, where it can be made to
lose, double, delay and forget whatever it likes. Each example goes on in the log of the one before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
import secrets
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from keyledger.errors import Refusal
from keyledger.server.log_stream import KEY_LOG
from keyledger.server.relay import Relay, RelaySettings
from keyledger.verification.follower import Follower
from keyledger.verification.frozen import BUCKETS
from keyledger.verification.ports import FeedUnavailable
from keyledger.verification.store import MemoryStore
from keyledger.wire import Followed, Use, UseBatch
from services.keys.ports import Command, VersionConflict
from tests.faults.checker import log_violations
from tests.faults.conftest import Figures
from tests.faults.history import read_log
from tests.faults.machine_scene import NOW, Scene, Served
from tests.support.appending import append, blocked
from tests.support.followed_log import HandClock
from tests.support.keys import Home, migrated
from tests.support.memory_bus import MemoryBus
from tests.support.memory_jetstream import Fate, MemoryJetStream, MemoryStream
from tests.support.relays import never
from tests.support.waiting import until

FAST = RelaySettings(poll=0.002, recheck=0.02, longest_pause=0.005)
FATES: Sequence[Fate] = ("stored", "stored", "lost", "unheard", "late")
KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keyledger-machine'"
COUNTED = "SELECT key_id, sum(count)::bigint AS count FROM ledger.use_record GROUP BY key_id"


STEPS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "create": {"keys": st.integers(1, 5)},
    "change": {"many": st.integers(1, 6), "revoke": st.booleans()},
    "kill_backends": {"many": st.integers(1, 6)},
    "hold_open": {"commit": st.booleans()},
    "use": {"count": st.integers(1, 9), "heard": st.booleans()},
    "send_old_batches_again": {"many": st.integers(1, 12)},
    "delete_the_stream": {},
    "purge_the_stream": {},
    "copy_the_stream": {},
    "put_the_copy_back": {},
    "reach_the_broker": {"connected": st.booleans()},
    "hear": {},
    "repair": {},
}
STEP = st.one_of(*(st.tuples(st.just(name), st.fixed_dictionaries(how)) for name, how in STEPS.items()))
# drawn before anything is done: a state machine has to be able to draw the same again, and servers differ
SCRIPT = st.lists(STEP, min_size=10, max_size=30)


class Whole:
    """One example: two relays, one follower, one source of uses.

    Every step may come at any time, and does nothing where there is nothing to do it to.
    """

    def __init__(self, scene: Scene, number: int) -> None:
        self.scene = scene
        self.chance = random.Random(number)
        self.versions: dict[str, int] = {}
        self.broker = MemoryJetStream(lambda: self.chance.choice(FATES))
        self.bus = MemoryBus()
        self.store = MemoryStore()
        self.copied: MemoryStream | None = None
        self.republished = 0
        self.boot = secrets.token_hex(16)
        self.batches: list[UseBatch] = []
        self.stop = asyncio.Event()
        self.relays: list[Relay] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.bus.drop = lambda _: self.chance.random() < 0.2
        self.bus.duplicate = lambda _: self.chance.random() < 0.2
        self.bus.hold = lambda _: self.chance.random() < 0.3
        self._run(self._begin())

    # -- the log

    def create(self, keys: int) -> None:
        self._run(self._append([self.scene.creation() for _ in range(keys)]))

    def change(self, many: int, *, revoke: bool) -> None:
        """Several commands at once, some on the same key: one wins each version."""
        self._run(self._append(self._changes(many, revoke=revoke)))

    def kill_backends(self, many: int) -> None:
        """In the middle of whatever they do; nobody knows what became of it."""
        self._run(self._killed(self._changes(many, revoke=False)))

    def hold_open(self, *, commit: bool) -> None:
        """An append that is not committed lets none behind it be seen, and leaves no hole if it never is."""
        self._run(self._held(commit=commit))

    # -- uses

    def use(self, count: int, *, heard: bool) -> None:
        """A batch that is recorded; `heard` or not, it may be sent again."""
        if not self.versions:
            return
        key = self.chance.choice(sorted(self.versions))
        use = Use(self.scene.workspace, key, "live", NOW, "VALID", count, count, NOW)
        self.batches.append(UseBatch(self.boot, len(self.batches), (use,)))
        self.scene.uses_sent[key] += count
        self._run(self._send([self.batches[-1]] * (1 if heard else 3)))

    def send_old_batches_again(self, many: int) -> None:
        if self.batches:
            self._run(self._send(self.chance.choices(self.batches, k=many)))

    # -- the stream

    def delete_the_stream(self) -> None:
        self.broker.streams.clear()
        self.scene.done["deleted"] += 1

    def purge_the_stream(self) -> None:
        for stream in self.broker.streams.values():
            stream.messages.clear()
        self.scene.done["purged"] += 1

    def copy_the_stream(self) -> None:
        self.copied = copy.deepcopy(self._stream)

    def put_the_copy_back(self) -> None:
        """The store is of yesterday."""
        if self.copied is None:
            return
        self.broker.streams[self.copied.config["name"]] = copy.deepcopy(self.copied)
        self.scene.done["put back"] += 1

    def reach_the_broker(self, *, connected: bool) -> None:
        self.broker.connected = connected

    # -- the follower

    def hear(self) -> None:
        """What is stored is republished, and what was held back arrives, in any order."""
        self._run(self._hear())

    def repair(self) -> None:
        # a feed whose connections were killed is asked again by the next repair
        with contextlib.suppress(FeedUnavailable):
            self._run(self.follower.repair())

    # -- what holds

    def the_stream_is_a_slice_of_the_log_and_its_tail_has_no_gap(self) -> None:
        # the stream first: what is stored was committed before
        stored = [(stream.last, dict(stream.messages)) for stream in self.broker.streams.values()]
        self._run(self.scene.look())
        for last, messages in stored:
            assert last <= len(self.scene.seen)
            for sequence, (_, headers, _) in messages.items():
                assert headers["Kl-Hash"] == self.scene.seen[sequence - 1].hex()

    def end(self) -> None:
        """All is well again: then the stream ends with the log, and the follower is a fresh fold of it."""
        self._run(self._heal())

    # -- how

    async def _begin(self) -> None:
        await self.scene.look()
        self.follower = Follower(
            self.store, Served(self.scene.sources[0]), self.bus, HandClock(), name="machine"
        )
        await self.follower.start()
        await self.follower.stop()
        for source in self.scene.sources:
            relay = Relay(self.broker, source, KEY_LOG, on_regression=never, settings=FAST)
            self.relays.append(relay)
            self.tasks.append(asyncio.create_task(relay.run(self.stop)))

    def _changes(self, many: int, *, revoke: bool) -> list[Command]:
        tag, data = (
            ("key_revoked", {}) if revoke else ("key_changed", {"enabled": self.chance.random() < 0.5})
        )
        streams = self.chance.choices(sorted(self.versions), k=many) if self.versions else []
        return [self.scene.command(stream, self.versions[stream], tag, data) for stream in streams]

    async def _append(self, commands: Sequence[Command], *, undisturbed: bool = True) -> None:
        logs = self.scene.logs
        answers = await asyncio.gather(
            *(self.chance.choice(logs).append(each) for each in commands), return_exceptions=True
        )
        for asked, answer in zip(commands, answers, strict=True):
            if isinstance(answer, BaseException):
                expected = VersionConflict if undisturbed else (VersionConflict, Refusal)
                assert isinstance(answer, expected), answer
                found = "SELECT version FROM ledger.stream WHERE id = $1"
                version = await self.scene.admin.fetchval(found, asked.stream_id)
            else:
                assert answer.version == asked.expected_version + 1
                version = answer.version
                self.scene.done["appended"] += 1
            if version is not None:
                self.versions[asked.stream_id] = max(version, self.versions.get(asked.stream_id, 0))

    async def _killed(self, commands: Sequence[Command]) -> None:
        appending = asyncio.create_task(self._append(commands, undisturbed=False))
        await self.scene.admin.execute(KILL)
        await appending
        self.scene.done["killed"] += 1

    async def _held(self, *, commit: bool) -> None:
        held, behind = self.scene.creation(), self.scene.creation()
        connection = await asyncpg.connect(self.scene.role, timeout=5)
        try:
            opened = connection.transaction()
            await opened.start()
            await append(connection, held)
            waiting = asyncio.create_task(self._append([behind]))
            await until(lambda: blocked(self.scene.watcher))
            await self.scene.look()
            assert not waiting.done()
            await (opened.commit() if commit else opened.rollback())
            await waiting
        finally:
            connection.terminate()
        if commit:
            self.versions[held.stream_id] = 1
        self.scene.done["held"] += 1

    async def _send(self, batches: Sequence[UseBatch]) -> None:
        async def send(batch: UseBatch) -> None:
            assert await self.chance.choice(self.scene.uses).record(batch, now=NOW) > batch.seq

        await asyncio.gather(*map(send, batches))
        self.scene.done["batches"] += len(batches)

    @property
    def _stream(self) -> MemoryStream | None:
        return next(iter(self.broker.streams.values()), None)

    async def _hear(self) -> None:
        stream = self._stream
        for sequence in sorted(stream.messages) if stream else ():
            if stream and sequence > self.republished:
                self.republished = sequence
                subject, _, body = stream.messages[sequence]
                await self.bus.publish(subject.replace(KEY_LOG.subject, KEY_LOG.live, 1), body)
        await self.bus.release(self.chance)

    async def _heal(self) -> None:
        self.broker.connected = True
        self.chance = random.Random(0)
        try:
            # whatever was lost, the relays find it without help, and in spite of further losses
            async def told() -> bool:
                await self.scene.look()
                return self._stream is not None and self._stream.last == len(self.scene.seen)

            await until(told, within=20, describe="the stream ends with the log")
            assert self._stream is not None
            for sequence, (_, headers, _) in self._stream.messages.items():
                assert headers["Kl-Hash"] == self.scene.seen[sequence - 1].hex()
            await self._hear()

            async def followed() -> bool:
                with contextlib.suppress(FeedUnavailable):
                    await self.follower.ask()
                    await self.follower.repair()
                return self.store.position == len(self.scene.seen)

            # connections that were killed while they were idle are found out one by one
            await until(followed, describe="the follower is at the end of the log")
            assert self.follower.rebuilds == self.follower.unreadable == 0
            once = MemoryStore()
            for event in await self.scene.sources[1].followed(0, len(self.scene.seen)):
                once.apply(msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=Followed))
            assert records(self.store) == records(once)
            counted = {row["key_id"]: row["count"] for row in await self.scene.admin.fetch(COUNTED)}
            assert counted == self.scene.uses_sent
        finally:
            self.stop.set()
            await asyncio.wait_for(asyncio.gather(*self.tasks), 10)

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        self.scene.run(work)


def records(store: MemoryStore) -> dict[str, Any]:
    with store.freeze() as frozen:
        return {record_id: record for number in range(BUCKETS) for record_id, record in frozen.bucket(number)}


@pytest.mark.parametrize(
    "examples",
    [
        pytest.param(20, id="short"),
        pytest.param(60, id="long", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
def test_whatever_happens_in_whatever_order_nothing_is_lost_and_all_agree(
    database: str, folder: Path, figures: Figures, examples: int
) -> None:
    with asyncio.Runner() as runner:
        role = runner.run(migrated(database))
        home = Home.new(folder / "home")
        assert runner.run(home.bootstrap(role))
        scene = Scene(runner, database, role, home)
        stack = AsyncExitStack()
        runner.run(scene.open(stack))

        @seed(figures.seed)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            # an example goes on where the last one stopped, so it cannot be tried again and made smaller
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(number=st.integers(0, 2**32), script=SCRIPT)
        def example(number: int, script: list[tuple[str, dict[str, Any]]]) -> None:
            whole = Whole(scene, number)
            try:
                for name, how in script:
                    getattr(whole, name)(**how)
                    whole.the_stream_is_a_slice_of_the_log_and_its_tail_has_no_gap()
            finally:
                whole.end()

        try:
            example()
            assert log_violations(runner.run(read_log(database))) == []
        finally:
            runner.run(stack.aclose())
    figures(examples=examples, events=len(scene.seen), **scene.done)
    assert all(scene.done[each] for each in ("appended", "batches", "held", "killed", "deleted", "purged"))

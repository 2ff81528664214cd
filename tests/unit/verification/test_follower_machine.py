"""The follower under everything at once: loss, disorder, forks, restores, new epochs, silence.

Whenever it says that it is fresh it is a fresh fold of the log; and what it once refused it goes on refusing,
whatever history it is told, until an operator has accepted that.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from keyledger.events import (
    Epoch,
    EpochAccepted,
    EpochStarted,
    Event,
    KeyChanged,
    KeyRevoked,
    LostDenial,
    WorkspaceChanged,
)
from keyledger.verification.frozen import BUCKETS, AnyRecord
from keyledger.verification.ports import FeedUnavailable
from keyledger.verification.store import MemoryStore
from tests.support.followed_log import (
    START,
    WORKSPACE,
    FollowedLog,
    key_created,
    key_id,
    key_rotated,
)
from tests.support.verifying import World

KEYS = range(1, 5)
numbers = st.sampled_from(KEYS)


class Following(RuleBasedStateMachine):
    """One log, one follower, and a bus between them that can be anything but honest."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.chance = random.Random(0)
        self.world = World()
        self.log = self.world.log
        self.changed_at = self.world.clock.steady()
        self.went_back = self.ever_back = False
        self.epochs = 1
        self.secrets = 1
        self.refused: set[str] = set()
        self.accepted: set[tuple[int, bytes]] = set()

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        """Four keys; a live subscription whose messages get lost, doubled and held back."""
        self.chance = random.Random(seed)
        bus = self.world.bus
        bus.drop = lambda _: self.chance.random() < 0.2
        bus.duplicate = lambda _: self.chance.random() < 0.2
        bus.hold = lambda _: self.chance.random() < 0.3
        self._run(self.world.follower.start())
        self._run(self.world.follower.stop())
        for number in KEYS:
            self._record(key_id(number), key_created(number))

    # -- the log

    @rule(number=numbers, enabled=st.booleans())
    def enable_or_disable(self, number: int, *, enabled: bool) -> None:
        self._record(key_id(number), KeyChanged(enabled=enabled))

    @rule(number=numbers)
    def revoke(self, number: int) -> None:
        self._record(key_id(number), KeyRevoked())

    @rule(number=numbers, overlap=st.booleans())
    def rotate(self, number: int, *, overlap: bool) -> None:
        self.secrets += 1
        self._record(key_id(number), key_rotated(number, self.secrets, START + overlap * 10**12))

    @rule(suspended=st.booleans())
    def suspend(self, *, suspended: bool) -> None:
        self._record(WORKSPACE, WorkspaceChanged(suspended=suspended))

    @rule(number=numbers)
    def write_what_nobody_can_read(self, number: int) -> None:
        if self.log.writable:
            followed = self.log.append_raw(key_id(number), "of_the_future", 1, b"{}")
            self._changed()
            self._publish(followed)

    @rule(back=st.integers(1, 12), tells=st.booleans(), number=numbers)
    def restore_and_begin_an_epoch(self, back: int, *, tells: bool, number: int) -> None:
        """With the stream at hand, what was lost is told: here, one denial or none."""
        self._go_back(back)
        self.epochs += 1
        base = self.log.position
        self.log.epoch = Epoch(self.epochs, self.epochs.to_bytes(8))
        lost = (LostDenial(WORKSPACE, "revoked", key_id(number)),) if tells else ()
        self._record("epochs", EpochStarted(self.epochs, self.log.epoch.line, base, lost=lost))

    @rule(back=st.integers(1, 12))
    def restore_unnoticed(self, back: int) -> None:
        """The stream is lost as well, so the line stays."""
        self._go_back(back)

    @rule()
    def accept(self) -> None:
        self._record("epochs", EpochAccepted(self.log.epoch.number))
        if self.log.writable:
            self.accepted.add((self.log.position, self.log.hash))

    @rule(writable=st.booleans())
    def reach_postgres(self, *, writable: bool) -> None:
        self.log.writable = writable

    @rule(away=st.booleans())
    def reach_the_key_service(self, *, away: bool) -> None:
        self.log.away = away

    # -- the bus

    @rule(connected=st.booleans())
    def connect(self, *, connected: bool) -> None:
        self.world.bus.connected = connected
        self.world.bus.disturb()

    @rule()
    def deliver_what_was_held_back(self) -> None:
        self._run(self.world.bus.release(self.chance))

    @rule(position=st.integers(1, 20))
    def forge(self, position: int) -> None:
        """Somebody publishes another history, or an old stream is heard again."""
        if position <= self.log.position:
            forged = msgspec.structs.replace(self.log.events[position - 1], hash=b"x" * 32)
            self._publish(forged)

    # -- the follower

    @rule()
    def ask(self) -> None:
        self._run(self.world.follower.ask())

    @rule()
    def repair(self) -> None:
        with contextlib.suppress(FeedUnavailable):
            self._run(self.world.follower.repair())

    @rule(seconds=st.sampled_from([0.5, 60, 1000]))
    def wait(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    # -- what holds

    @invariant()
    def fresh_is_a_fresh_fold(self) -> None:
        if self.world.follower.freshness.held and self.went_back:
            # a key service that lost Postgres as soon as it was restored knows no more than before
            return
        if self.world.store.position > self.log.position and self.ever_back:
            # what was published before the restore may come late; the next answer shows it
            return
        proven_at = self.world.clock.steady() - self.world.follower.age()
        if proven_at > self.changed_at:
            self.went_back = False
            assert self.world.store.position == self.log.position
            assert self.world.store.epoch == self.log.epoch
            assert records(self.world.store) == records(folded(self.log))

    @invariant()
    def what_was_refused_is_refused_still(self) -> None:
        store = self.world.store
        seen = {each for each in self.accepted if store.hash_at(each[0]) == each[1]}
        if seen:
            self.accepted -= seen
            self.refused.clear()
        now = {key_id(number) for number in KEYS if self._refuses(key_id(number))}
        assert self.refused <= now
        self.refused = now

    def teardown(self) -> None:
        """All is well again: then it becomes a fresh fold, with nobody's help."""
        try:
            self._heal()
        finally:
            self.loop.close()

    def _heal(self) -> None:
        self.log.writable, self.log.away = True, False
        self.world.bus.connected = True
        self.world.bus.drop = self.world.bus.duplicate = self.world.bus.hold = lambda _: False
        self.world.clock.advance(1)
        for _ in range(3):
            self._run(self.world.follower.ask())
            self.repair()
        self.fresh_is_a_fresh_fold()
        self.what_was_refused_is_refused_still()
        assert self.world.follower.age() == 0

    def _refuses(self, key: str) -> bool:
        """For ever, as far as this telling goes: the key was revoked, or an event about it cannot be read."""
        record = self.world.store.get(key)
        return record is not None and (record.revoked or record.unreadable)

    def _record(self, stream: str, event: Event) -> None:
        if self.log.writable:
            followed = self.log.append(stream, event)
            self._changed()
            self._publish(followed)

    def _publish(self, followed: Any) -> None:
        if self.world.bus.connected:
            self._run(self.log.publish(self.world.bus, followed))

    def _go_back(self, back: int) -> None:
        self.log.writable = self.went_back = self.ever_back = True
        # the workspace and its keys were there before any backup
        del self.log.events[max(len(KEYS) + 1, self.log.position - back) :]
        self._changed()

    def _changed(self) -> None:
        self.changed_at = self.world.clock.steady()
        self.world.clock.advance(0.001)

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        self.loop.run_until_complete(work)


def records(store: MemoryStore) -> dict[str, AnyRecord]:
    with store.freeze() as frozen:
        return {record_id: record for number in range(BUCKETS) for record_id, record in frozen.bucket(number)}


def folded(log: FollowedLog) -> MemoryStore:
    store = MemoryStore()
    for event in log.events:
        store.apply(event)
    return store


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)

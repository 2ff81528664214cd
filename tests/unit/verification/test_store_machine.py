"""Whatever happens to a log and to the process, the store on disk is the store in memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keyledger.digest import Peppers
from keyledger.events import (
    EpochAccepted,
    EpochStarted,
    Event,
    KeyChanged,
    KeyImported,
    KeyRevoked,
    KeyText,
    KeyTextChange,
    LostDenial,
    NewSecret,
    SecretDigested,
    SecretRetired,
    WorkspaceChanged,
    WorkspaceDeleted,
)
from keyledger.verification.store import MemoryStore, Store
from tests.support.followed_log import FollowedLog, key_created, key_id, key_rotated, workspace_created
from tests.support.stores import Kept, digest, folded, swap

NUMBERS = st.integers(1, 6)
WORKSPACES = [f"ws_{number:022d}" for number in (1, 2, 3)]
HELD = Peppers({"p1": bytes(32)}, active="p1")
PEPPERS = ("p1", "p2")
LOST = ("revoked", "disabled", "unreadable", "expired", "from the future")
CHANGES: list[Any] = [
    KeyChanged(scopes=("a:b", "c")),
    KeyChanged(scopes=()),
    KeyChanged(enabled=False),
    KeyChanged(expires_at=5),
    KeyChanged(private=KeyTextChange(metadata={"team": "ü"}, allowed_ips=("::1",), name="other")),
    KeyChanged(private=b"sealed"),
    KeyRevoked(),
    SecretRetired(1),
]


def foreign_digest(number: int, pepper: str) -> bytes:
    return f"{number} {pepper}".encode().ljust(32)


def home(number: int) -> str:
    """The workspace of a key, which never changes."""
    return WORKSPACES[number % 2]


class Twins(RuleBasedStateMachine):
    """One log, told to both stores."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.memory: Store = MemoryStore()
        self.kept = Kept(self.folder / "store", map_size=1 << 18)
        self.log = FollowedLog()
        self.applied = 0

    def teardown(self) -> None:
        self.kept.place.close()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self) -> None:
        for store in self.stores:
            store.begin(self.log.epoch)

    @property
    def stores(self) -> tuple[Store, Store]:
        return self.memory, self.kept.store

    # -- what is recorded

    @rule(number=NUMBERS, team=st.sampled_from(["", "payments", "x" * 2000]))
    def create(self, number: int, team: str) -> None:
        self._record(number, key_created(number, metadata={"team": team} if team else {}))

    @rule(number=NUMBERS, pepper=st.sampled_from(PEPPERS))
    def imports(self, number: int, pepper: str) -> None:
        secret = NewSecret("…0000", {pepper: foreign_digest(number, pepper)})
        self._record(number, KeyImported("test", ("*",), secret, private=KeyText("imported")))

    @rule(number=NUMBERS, pepper=st.sampled_from(PEPPERS))
    def digests(self, number: int, pepper: str) -> None:
        self._record(number, SecretDigested(1, {pepper: foreign_digest(number, pepper)}))

    @rule(number=NUMBERS, change=st.sampled_from(CHANGES))
    def change(self, number: int, change: Any) -> None:
        self._record(number, change)

    @rule(number=NUMBERS, secret=st.integers(2, 5), until=st.integers(0, 9))
    def rotate(self, number: int, secret: int, until: int) -> None:
        self._record(number, key_rotated(number, secret, until))

    @rule(number=NUMBERS)
    def cannot_be_read(self, number: int) -> None:
        self.log.append_raw(key_id(number), "of_tomorrow", 1, b"{}", workspace=home(number))

    @rule(
        workspace=st.sampled_from(WORKSPACES),
        what=st.sampled_from(
            [workspace_created(5, 60), WorkspaceChanged(suspended=True), WorkspaceDeleted()]
        ),
    )
    def workspaces(self, workspace: str, what: Any) -> None:
        self.log.append(workspace, what, workspace=workspace)

    @rule(number=NUMBERS, what=st.sampled_from(LOST), whole=st.booleans())
    def loses(self, number: int, what: str, whole: bool) -> None:
        denial = LostDenial(
            home(number), "suspended" if whole else what, None if whole else key_id(number), since=3
        )
        self.log.append("epochs", EpochStarted(2, bytes(8), 0, lost=(denial,)))

    @rule(number=st.integers(1, 4))
    def accepts(self, number: int) -> None:
        self.log.append("epochs", EpochAccepted(number))

    def _record(self, number: int, event: Event) -> None:
        self.log.append(key_id(number), event, workspace=home(number))

    # -- what becomes of it

    @rule(count=st.integers(1, 12), together=st.booleans())
    def apply(self, count: int, together: bool) -> None:
        events = self.log.events[self.applied : self.applied + count]
        effects: list[list[Any]] = []
        for store in self.stores:
            if together:
                with store.batch():
                    effects.append([store.apply(event) for event in events])
            else:
                effects.append([store.apply(event) for event in events])
        assert effects[0] == effects[1]
        self.applied += len(events)

    @rule(most=st.integers(1, 3))
    def tidies(self, most: int) -> None:
        self.kept.store.tidy(most)

    @rule()
    def restart(self) -> None:
        self.kept.again()

    @precondition(lambda self: self.applied)
    @rule(at=st.integers(0, 30))
    def read_anew(self, at: int) -> None:
        self.log = self.log.restored(min(at, self.log.position))
        self.applied = self.log.position
        for store in self.stores:
            swap(store, folded(self.log, store.beside()))

    @precondition(lambda self: self.applied > 1)
    @rule(began=st.integers(1, 30), told=st.integers(0, 30))
    def from_a_snapshot(self, began: int, told: int) -> None:
        """The records are told at a later position than the one the store begins at."""
        began = min(began, self.applied)
        told = min(began + told, self.applied)
        known = FollowedLog(self.log.epoch.number, self.log.epoch.line)
        known.events = self.log.events[:told]
        then, last = folded(known), {event.stream_id: event.position for event in known.events}
        for store in self.stores:
            beside = store.beside()
            beside.seed(self.log.epoch, began, self.log.events[began - 1].hash, None)
            with beside.batch():
                for stream, position in last.items():
                    record = then.get(stream) or then.workspace(stream)
                    if record is not None:
                        beside.put(record, position)
            for event in self.log.events[began : self.applied]:
                beside.apply(event)
            swap(store, beside)

    # --

    @invariant()
    def the_same(self) -> None:
        memory, kept = self.stores
        assert kept.position == memory.position
        assert kept.epoch == memory.epoch
        assert kept.last_hash == memory.last_hash
        for number in range(1, 7):
            assert kept.get(key_id(number)) == memory.get(key_id(number))
            for pepper in PEPPERS:
                found = foreign_digest(number, pepper)
                assert kept.find(found) == memory.find(found)
        for workspace in WORKSPACES:
            assert kept.workspace(workspace) == memory.workspace(workspace)
        if kept.untidy:
            assert kept.unfindable(HELD) or not memory.unfindable(HELD)
        else:
            assert kept.unfindable(HELD) == memory.unfindable(HELD)
        for position in range(max(1, self.applied - 3), self.applied + 1):
            assert kept.hash_at(position) == memory.hash_at(position)
        for event in self.log.events[-2:]:
            assert kept.fit(event) == memory.fit(event)
        assert digest(kept) == digest(memory)


TestTwins = Twins.TestCase
TestTwins.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)

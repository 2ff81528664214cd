"""Stores for tests: in memory, and in a folder that can be closed and opened again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from keyledger.verification.opening import WritingPlace, open_store
from keyledger.verification.state_digest import StateDigest, digest_of
from keyledger.verification.store import MemoryStore, Store
from keyledger.verification.store_file import MAP_SIZE
from keyledger.verification.turns import MOST
from tests.support.followed_log import FollowedLog

BOOT = bytes(range(16))
FOLLOWS = "http://keys"


def standing_still() -> float:
    """A clock that does not move."""
    return 0.0


class Kept:
    """An LMDB store in a folder; `again` is a restart of its process."""

    def __init__(self, folder: Path, *, map_size: int = MAP_SIZE) -> None:
        self.folder = folder
        self.map_size = map_size
        self.place = self.open()

    @property
    def store(self) -> Store:
        return self.place.store

    def open(self, *, boot: bytes = BOOT, follows: str = FOLLOWS) -> WritingPlace:
        """What is in the folder."""
        return open_store(
            self.folder, follows=follows, steady=standing_still, boot=boot, map_size=self.map_size
        )

    def again(self, *, boot: bytes = BOOT, follows: str = FOLLOWS) -> Store:
        """Close, open again, and hand out the store."""
        self.place.close()
        self.place = self.open(boot=boot, follows=follows)
        return self.place.store

    def file(self) -> Path:
        """The file that is current."""
        return self.folder / f"records-{self.place.board.current.serial}.lmdb"


def folded(log: FollowedLog, store: Store | None = None) -> Store:
    """The store, one in memory unless given, with the whole log applied."""
    store = MemoryStore() if store is None else store
    store.begin(log.epoch)
    with store.batch():
        for event in log.events:
            store.apply(event)
    return store


def swap(store: Store, other: Store) -> None:
    """The store becomes the other, in as many steps as it takes."""
    for _ in store.become(other):
        pass


def digest(store: Store) -> StateDigest:
    """What the store's fold holds."""
    with store.freeze() as frozen:
        return asyncio.run(digest_of(frozen))


def tidied(store: Store, most: int = MOST) -> int:
    """Have all that was put off done; in how many turns."""
    turns = 0
    while store.untidy:
        store.tidy(most)
        turns += 1
    return turns

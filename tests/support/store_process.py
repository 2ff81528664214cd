"""A process with a store of its own: `python -m tests.support.store_process <kind> <folder>`.

It does what single lines of JSON on its standard input say, and answers each with one line.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

from keyledger.clock import SystemClock
from keyledger.errors import Refusal
from keyledger.events import KeyRevoked, WorkspaceDeleted
from keyledger.verification.board_follower import BoardFollower
from keyledger.verification.opening import WritingPlace, open_records, open_store
from keyledger.verification.projector import Projector
from keyledger.verification.store import Records, Store
from tests.support.followed_log import WORKSPACE, FollowedLog, key_created, key_id, workspace_created
from tests.support.stores import BOOT, FOLLOWS, folded, swap

CLOCK = SystemClock()


class Reader:
    """Only reads."""

    def __init__(self, folder: Path) -> None:
        self.store: Records = open_records(folder, steady=CLOCK.steady)
        self.follower = BoardFollower(self.store, CLOCK, held_seconds=900)  # type: ignore[arg-type]
        self.freezing: Any = None

    def get(self, *numbers: int) -> list[str | None]:
        """Of each key whether it is revoked or active, None when it is not known."""
        for number in numbers:
            # what is asked for again is kept in memory
            self.store.get(key_id(number))
        records = [self.store.get(key_id(number)) for number in numbers]
        return [None if record is None else "revoked" if record.revoked else "active" for record in records]

    def at(self) -> tuple[int, str | None]:
        epoch = self.store.epoch
        return self.store.position, None if epoch is None else epoch.text

    def age(self) -> float | None:
        age = self.follower.age()
        return None if age == float("inf") else age

    def standing(self) -> dict[str, Any]:
        each = self.follower
        return {"held": each.held, "head": each.head, "hearing": each.hearing, "pepper": each.pepper}

    def reached(self, position: int) -> bool:
        return asyncio.run(self.follower.reached(position, None))

    def freeze(self) -> int:
        """Hold what is there now, for as long as the process lives."""
        self.freezing = self.store.freeze()
        return self.freezing.__enter__().position


class Writer:
    """Writes what it says happened; each key in turn is created, and may be revoked."""

    def __init__(self, folder: Path, *, map_size: int = 1 << 30) -> None:
        self.place: WritingPlace = open_store(
            folder, follows=FOLLOWS, steady=CLOCK.steady, boot=BOOT, map_size=map_size
        )
        self.store: Store = self.place.store
        self.log = FollowedLog()
        if self.store.epoch is None:
            self.store.begin(self.log.epoch)
            self._apply(self.log.append(WORKSPACE, workspace_created()))

    def _apply(self, event: Any) -> None:
        self.store.apply(event)

    def create(self, first: int, last: int, size: int = 0) -> int:
        for number in range(first, last):
            self._apply(self.log.append(key_id(number), key_created(number, name="n" * size)))
        return self.store.position

    def revoke(self, *numbers: int) -> int:
        for number in numbers:
            self._apply(self.log.append(key_id(number), KeyRevoked()))
        return self.store.position

    def delete(self) -> int:
        """Delete the workspace that all the keys are in."""
        self._apply(self.log.append(WORKSPACE, WorkspaceDeleted()))
        return self.store.position

    def tidy(self, most: int) -> bool:
        """Remove so many of the rows that this leaves; whether there are more."""
        self.store.tidy(most)
        return self.store.untidy

    def rebuild(self, position: int) -> int:
        """Read the log anew, which has gone back to this position."""
        self.log = self.log.restored(position)
        swap(self.store, folded(self.log, self.store.beside()))
        return self.store.position

    def hang(self, number: int) -> None:
        """Revoke, and never end the batch."""
        with self.store.batch():
            self.revoke(number)
            print(json.dumps("hanging"), flush=True)
            sys.stdin.read()

    def fill_disk(self, room: int) -> None:
        """No file may be longer than the store's is now and this much more; below nothing for no bound."""
        fill_disk(self.place, room)

    def tend(self) -> None:
        self.place.store.tend()

    def close(self) -> None:
        self.place.close()


def fill_disk(place: WritingPlace, room: int) -> None:
    """What a full disk does to a write: it fails. (The limit of a file's size fails it just so.)"""
    sizes = [path.stat().st_size for path in place.folder.folder.glob("*.lmdb")]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if room < 0 else max(sizes) + room, hard))


async def project(folder: Path, known: list[str]) -> None:
    """Follow a log in this very process, in which these keys are; a line of numbers creates more."""
    writer = Writer(folder)
    log = FollowedLog()
    log.append(WORKSPACE, workspace_created())
    for number in map(int, known):
        log.append(key_id(number), key_created(number))
    projector = Projector(
        writer.place, log, None, CLOCK, name="verifier-test", held_seconds=900, peppers=tuple, snapshots=None,
        max_staleness=300,
    )  # fmt: skip
    await projector.start()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin.buffer
    )
    print(json.dumps("up"), flush=True)
    while line := await lines.readline():
        asked = json.loads(line)
        if asked == ["leave"]:
            break
        if asked[0] == "fill_disk":
            fill_disk(writer.place, asked[1])
            asked = []
        for number in asked:
            log.append(key_id(number), key_created(number, name="n" * 500))
        print(json.dumps(log.position), flush=True)
    await projector.stop()
    await projector.leave()
    print(json.dumps("left"), flush=True)


def main() -> None:
    """Do as told until the input ends."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if kind == "project":
        asyncio.run(project(folder, sys.argv[3:]))
        return
    more = {"map_size": int(sys.argv[3])} if len(sys.argv) > 3 else {}
    actor = Writer(folder, **more) if kind == "write" else Reader(folder)
    print(json.dumps("up"), flush=True)
    for line in sys.stdin:
        what, *arguments = json.loads(line)
        try:
            answer = getattr(actor, what)(*arguments)
        except (Refusal, Exception) as error:
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

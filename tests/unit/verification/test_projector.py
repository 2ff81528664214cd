"""One that follows goes on where the one before it was killed, in what it counts as well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyledger.verification.board import Standing
from keyledger.verification.projector import Projector
from tests.support.followed_log import FollowedLog, HandClock, workspace_created
from tests.support.stores import Kept
from tests.support.waiting import until

WORKSPACE = "ws_0000000000000000000001"


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path / "store")
    yield made
    made.place.close()


def projector(kept: Kept, log: FollowedLog) -> Projector:
    return Projector(
        kept.place, log, None, HandClock(), name="verifier-test", held_seconds=900, peppers=tuple,
        snapshots=None, max_staleness=300,
    )  # fmt: skip


async def test_what_one_that_was_killed_had_counted_is_not_lost(kept: Kept) -> None:
    log = FollowedLog()
    log.append(WORKSPACE, workspace_created())
    kept.place.board.stand(Standing(unreadable=1, rebuilds=2, forks=3))
    again = projector(kept, log)
    assert (again.unreadable, again.rebuilds, again.forks) == (1, 2, 3)
    await again.start()

    async def told() -> bool:
        standing = kept.place.board.standing
        return standing.proven_at is not None and (standing.unreadable, standing.rebuilds) == (1, 2)

    await until(told)
    await again.stop()
    await again.leave()
    standing = kept.place.board.standing
    assert (standing.unreadable, standing.rebuilds, standing.forks, standing.proven_at) == (0, 0, 0, None)
    kept.again()
    assert projector(kept, log).forks == 0

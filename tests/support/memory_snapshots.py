"""The key service's snapshot of a log in memory, a few states a page, each page read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from keyledger.events import RateLimit
from keyledger.verification.ports import FeedUnavailable
from keyledger.verification.projection import KeyRecord, WorkspaceRecord
from keyledger.verification.store import MemoryStore
from keyledger.wire import (
    SNAPSHOT_MEANING,
    KeyBody,
    KeyState,
    LimitState,
    SecretState,
    SnapshotPage,
    WorkspaceBody,
    WorkspaceState,
)
from tests.support.followed_log import FollowedLog


class MemorySnapshots:
    """`Snapshots` of a log. `before_page` is called with the page's number, to write something meanwhile."""

    def __init__(self, log: FollowedLog, size: int = 2) -> None:
        self.log = log
        self.size = size
        self.asked: list[str] = []
        self.since: list[int] = []
        self.before_page: Callable[[int], None] = lambda _: None
        self.away = False
        self.changed: dict[str, object] = {}
        """Fields of every page that are told otherwise."""
        self.frames: list[bytes] | None = None

    async def snapshot(self, after: str, limit: int, since: int) -> tuple[SnapshotPage, list[memoryview]]:
        del limit
        self.since.append(since)
        self.before_page(len(self.asked))
        self.asked.append(after)
        if self.away:
            raise FeedUnavailable("away")
        store, positions = MemoryStore(), dict[str, int]()
        for event in self.log.events:
            store.apply(event)
            positions[event.stream_id] = event.position
        streams = [stream for stream in sorted(positions) if stream > after]
        chosen = streams[: self.size]
        page = SnapshotPage(
            SNAPSHOT_MEANING,
            self.log.epoch.number,
            self.log.epoch.line,
            self.log.position,
            self.log.hash,
            chosen[-1] if len(streams) > self.size else "",
            True,
        )
        states = [state_of(store, stream, positions[stream]) for stream in chosen]
        frames = self.frames or [msgspec.msgpack.encode([state]) for state in states if state]
        return msgspec.structs.replace(page, **self.changed), [memoryview(frame) for frame in frames]


def state_of(store: MemoryStore, stream: str, position: int) -> KeyState | WorkspaceState | None:
    """The stream's state as the key service would tell it."""
    key, workspace = store.get(stream), store.workspace(stream)
    if key is not None:
        return KeyState(key.key_id, key.workspace_id, key.version, position, _key(key))
    if workspace is not None:
        return WorkspaceState(stream, stream, 1, position, _workspace(workspace))
    return None


def _key(key: KeyRecord) -> KeyBody:
    return KeyBody(
        key.environment,
        key.name,
        key.scopes,
        tuple(
            SecretState(
                dict(each.digests), each.valid_until, None, each.version, each.foreign, each.on_first_use
            )
            for each in reversed(key.secrets)
        ),
        key.enabled,
        1 if key.revoked else None,
        key.expires_at,
        key.allowed_ips,
        _limit(key.rate_limit),
        key.external_id,
        dict(key.metadata),
    )


def _workspace(workspace: WorkspaceRecord) -> WorkspaceBody:
    if workspace.deleted:
        return WorkspaceBody(deleted=True)
    return WorkspaceBody(workspace.name, _limit(workspace.rate_limit), workspace.suspended)


def _limit(limit: RateLimit | None) -> LimitState | None:
    return None if limit is None else LimitState(limit.limit, limit.window_seconds, limit.on_outage)

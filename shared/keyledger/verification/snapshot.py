"""Start from the key service's snapshot: a record for each key instead of every event there ever was.

The pages of a snapshot are read at different heads. The store begins at the first page's, so everything
after it comes by the feed; a record that a later page told already knows some of that, and passes over it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Protocol

import msgspec

from keyledger.clock import Clock
from keyledger.events import Epoch, Quota, RateLimit
from keyledger.verification.ports import FeedUnavailable, NotServed
from keyledger.verification.projection import KeyRecord, SecretRecord, WorkspaceRecord, deleted
from keyledger.verification.store import Store
from keyledger.verification.turns import Turn
from keyledger.wire import (
    SNAPSHOT_MEANING,
    KeyState,
    LimitState,
    QuotaState,
    SecretState,
    SnapshotPage,
    WorkspaceState,
)

PAGE_SIZE = 10_000
"""States of one answer, in some twenty frames."""
_STATES = msgspec.msgpack.Decoder(list[KeyState | WorkspaceState])
_log = logging.getLogger(__name__)


class Snapshots(Protocol):
    """The key service's snapshot, paged by stream id."""

    async def snapshot(self, after: str, limit: int, since: int) -> tuple[SnapshotPage, list[memoryview]]:
        """The frames behind this id, read at position `since` or later; or `FeedUnavailable`.

        `NotServed` by a key service that has no snapshots.
        """
        ...


async def load(beside: Store, source: Snapshots, clock: Clock) -> bool:
    """Fill an empty store; False, and the store is to be thrown away, when the feed must tell it all.

    The store is not to be asked before it has all that the feed had when this ended. Raises
    `FeedUnavailable` when a page cannot be had, or the line changes on the way.
    """
    asking = asyncio.create_task(source.snapshot("", PAGE_SIZE, 0))
    try:
        while True:
            try:
                page, frames = await asking
            except NotServed:
                return False
            if page.meaning != SNAPSHOT_MEANING or not page.whole:
                return False
            _begin(beside, page)
            if page.after:
                # the next page travels while this one is taken in
                asking = asyncio.create_task(source.snapshot(page.after, PAGE_SIZE, beside.position))
            for frame in frames:
                states, more = iter(_STATES.decode(frame)), True
                while more:
                    await asyncio.sleep(0)
                    more = _put(beside, states, Turn(clock.steady))
                await asyncio.sleep(0)
            if not page.after:
                return True
    except (msgspec.MsgspecError, UnicodeDecodeError):
        _log.warning("a snapshot cannot be read: reading the whole log instead")
        return False
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError, FeedUnavailable):
            await asking


def _begin(store: Store, page: SnapshotPage) -> None:
    epoch = Epoch(page.epoch_number, page.epoch_line)
    if store.epoch is None:
        store.seed(epoch, page.head_position, page.head_hash, page.accepted)
    elif store.epoch.line != epoch.line or page.head_position < store.position:
        raise FeedUnavailable("the log changed meanwhile")


def _put(store: Store, states: Iterator[KeyState | WorkspaceState], turn: Turn) -> bool:
    """Keep the next of these together, as many as the turn has time for; whether there may be more."""
    with store.batch():
        for state in states:
            record = key_record(state) if isinstance(state, KeyState) else workspace_record(state)
            store.put(record, state.position)
            if turn.over():
                return True
    return False


def key_record(state: KeyState) -> KeyRecord:
    """The record that the key's events make when they are folded."""
    body = state.body
    return KeyRecord(
        state.key_id,
        state.workspace_id,
        body.environment,
        body.name,
        body.scopes,
        tuple([_secret(secret) for secret in reversed(body.secrets)]),
        body.expires_at,
        body.allowed_ips,
        None if body.rate_limit is None else _limit(body.rate_limit),
        body.external_id,
        body.metadata,
        body.enabled,
        body.revoked_at is not None,
        version=state.version,
        quota=_quota(body.quota),
    )


def workspace_record(state: WorkspaceState) -> WorkspaceRecord:
    """The record that the workspace's events make when they are folded."""
    body = state.body
    if body.deleted or body.rate_limit is None:
        return deleted(state.workspace_id)
    limit, quota = _limit(body.rate_limit), _quota(body.quota)
    return WorkspaceRecord(state.workspace_id, body.name, limit, body.suspended, quota=quota)


def _secret(secret: SecretState) -> SecretRecord:
    until = secret.valid_until
    if secret.dropped_at is not None and (until is None or secret.dropped_at < until):
        until = secret.dropped_at
    return SecretRecord(secret.digests, until, secret.version, secret.foreign, secret.on_first_use)


def _limit(limit: LimitState) -> RateLimit:
    return msgspec.convert(limit, RateLimit, from_attributes=True)


def _quota(quota: QuotaState | None) -> Quota | None:
    return None if quota is None else msgspec.convert(quota, Quota, from_attributes=True)

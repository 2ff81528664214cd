"""Two tellings of one log, from where they part: what the older one refused and the restored one does not.

Only the streams that the lost part is about are folded, each twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keyledger.events import (
    EpochAccepted,
    EpochStarted,
    LostDenial,
    MemberAdded,
    MemberChanged,
    MemberRemoved,
    decode,
)
from keyledger.verification.lost import lost_of_key, lost_of_workspace
from keyledger.verification.projection import KeyRecord, WorkspaceRecord, change
from keyledger.wire import Followed
from services.keys.domain.roles import rank

#: How many denials one event tells, so that it stays far below what a message may hold.
MOST_TOLD = 1000


class _Telling:
    """The records of some streams."""

    def __init__(self) -> None:
        self.keys: dict[str, KeyRecord] = {}
        self.workspaces: dict[str, WorkspaceRecord] = {}
        self.roles: dict[tuple[str, str], str | None] = {}
        """By workspace and user; None for one who was a member and is none any more."""

    def get(self, key_id: str) -> KeyRecord | None:
        return self.keys.get(key_id)

    def workspace(self, workspace_id: str) -> WorkspaceRecord | None:
        return self.workspaces.get(workspace_id)

    def apply(self, event: Followed) -> None:
        match decode(event.type, event.schema_version, event.data):
            case MemberAdded(user, role) | MemberChanged(user, role):
                self.roles[event.workspace_id, user] = role
            case MemberRemoved(user):
                self.roles[event.workspace_id, user] = None
            case _:
                self._apply(event)

    def _apply(self, event: Followed) -> None:
        effect = change(self, event)
        if effect.key is not None:
            self.keys[effect.key.key_id] = effect.key
        if effect.workspace is not None:
            self.workspaces[effect.workspace.workspace_id] = effect.workspace


class Tellings:
    """The older telling and the restored one."""

    def __init__(self) -> None:
        self._old = _Telling()
        self._new = _Telling()
        self._told: list[LostDenial] = []
        self._lessened: set[tuple[str, str]] = set()

    def shared(self, events: Iterable[Followed]) -> None:
        """What both have in common of some streams, before anything else of these."""
        for event in events:
            self._old.apply(event)
            self._new.apply(event)

    def lost(self, event: Followed) -> None:
        """An event that only the older one has, in order."""
        match decode(event.type, event.schema_version, event.data):
            case EpochStarted() as started:
                self._told += started.lost
            case EpochAccepted():
                self._told.clear()
            case MemberChanged(user) | MemberRemoved(user):
                self._lessened.add((event.workspace_id, user))
                self._old.apply(event)
            case _:
                self._old.apply(event)

    def own(self, events: Iterable[Followed]) -> None:
        """What only the restored one has of these streams, in order."""
        for event in events:
            self._new.apply(event)

    def denials(self) -> list[LostDenial]:
        """What is lost, each once; keys that the restored one does not know are refused anyhow."""
        found = list(self._told)
        for key_id, old in self._old.keys.items():
            if (new := self._new.get(key_id)) is not None:
                found += lost_of_key(old, new)
        for workspace_id, before in self._old.workspaces.items():
            if (now := self._new.workspace(workspace_id)) is not None:
                found += lost_of_workspace(before, now)
        for place in sorted(self._lessened):
            found += _lost_of_member(place, self._old.roles.get(place), self._new.roles.get(place))
        return list(dict.fromkeys(found))


def _lost_of_member(place: tuple[str, str], old: str | None, new: str | None) -> list[LostDenial]:
    """A member whom the older telling had removed, or given a role that may do less, is refused altogether.

    The user's id stands where a key's does: verifiers know no key of that name.
    """
    workspace_id, user = place
    if new is None or (old is not None and rank(old) >= rank(new)):
        return []
    return [LostDenial(workspace_id, "removed" if old is None else "demoted", user)]


def in_parts(denials: Sequence[LostDenial]) -> list[tuple[LostDenial, ...]]:
    """The list in as many parts as it needs events, one at least."""
    return [tuple(denials[at : at + MOST_TOLD]) for at in range(0, max(1, len(denials)), MOST_TOLD)]


def refused(lost: Iterable[LostDenial], secret: int, now: int) -> bool:
    """Whether this secret of the key may not manage anything, by what was lost of it, at `now` (µs).

    A suspended workspace is still managed.
    """
    return any(
        (denial.secret is None or denial.secret == secret) and (denial.since is None or denial.since <= now)
        for denial in lost
        if denial.what != "suspended"
    )

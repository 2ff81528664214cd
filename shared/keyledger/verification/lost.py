"""Denials that outlive a restore: what one telling of the log refuses and another does not know to refuse.

The records of a store stay the pure fold of their log. What is lost lies over them, and goes when an
operator accepts the new telling.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self, TypeAlias

from msgspec.structs import replace

from keyledger.events import LostDenial
from keyledger.verification.projection import KeyRecord, SecretRecord, View, WorkspaceRecord

Denials: TypeAlias = tuple[LostDenial, ...]


def lost_of_key(old: KeyRecord, new: KeyRecord) -> Denials:
    """What `old` refuses or will refuse and `new` does not; both are one key, told twice."""
    found: list[LostDenial] = []

    def lost(what: str, *, secret: int | None = None, since: int | None = None) -> None:
        found.append(LostDenial(old.workspace_id, what, old.key_id, secret, since))

    if old.revoked and not new.revoked:
        lost("revoked")
    if new.enabled and not old.enabled:
        lost("disabled")
    if old.unreadable and not new.unreadable:
        lost("unreadable")
    if old.expires_at is not None and _later(new.expires_at, old.expires_at):
        lost("expired", since=old.expires_at)
    for secret in new.secrets:
        end = _end_of(secret, old)
        if end is not None and _later(secret.valid_until, end):
            lost("retired", secret=secret.version, since=end)
    return tuple(found)


def denies_something(record: KeyRecord) -> bool:
    """Whether anything could be lost of this record."""
    ends = record.expires_at is not None or any(each.valid_until is not None for each in record.secrets)
    several = len(record.secrets) > 1
    return record.revoked or record.unreadable or not record.enabled or ends or several


def lost_of_workspace(old: WorkspaceRecord, new: WorkspaceRecord) -> Denials:
    """As `lost_of_key`, for what stops all keys of a workspace."""
    stops = (
        ("deleted", old.deleted, new.deleted),
        ("suspended", old.suspended, new.suspended),
        ("unreadable", old.unreadable, new.unreadable),
    )
    return tuple(LostDenial(old.workspace_id, what) for what, before, now in stops if before and not now)


def refusing_key(record: KeyRecord, lost: Iterable[LostDenial]) -> KeyRecord:
    """The record, refusing all of this as well."""
    for denial in lost:
        match denial.what:
            case "revoked":
                record = replace(record, revoked=True)
            case "disabled":
                record = replace(record, enabled=False)
            case "expired" if denial.since is not None:
                since = denial.since if _later(record.expires_at, denial.since) else record.expires_at
                record = replace(record, expires_at=since)
            case "retired" if denial.secret is not None:
                ended = (_ended(secret, denial) for secret in record.secrets)
                record = replace(record, secrets=tuple(ended))
            case _:
                # a word from the future: it was refused, and that much is known
                record = replace(record, unreadable=True)
    return record


def refusing_workspace(record: WorkspaceRecord, lost: Iterable[LostDenial]) -> WorkspaceRecord:
    """As `refusing_key`, for a workspace; a deleted one has no keys that anybody knows."""
    for denial in lost:
        if denial.what == "suspended":
            record = replace(record, suspended=True)
        else:
            record = replace(record, unreadable=True)
    return record


def _later(end: int | None, than: int) -> bool:
    return end is None or end > than


def _end_of(secret: SecretRecord, old: KeyRecord) -> int | None:
    """When the old telling ended this secret; None when it did not, or does not know it."""
    before = next((each for each in old.secrets if each.version == secret.version), None)
    if before is None:
        # so long a history has dropped its oldest secrets, which had ended before those that it kept
        oldest = old.secrets[-1]
        return oldest.valid_until if secret.version < oldest.version else None
    # with no pepper in common they cannot be told apart, and then it is refused
    common = before.digests.keys() & secret.digests.keys()
    same = not common or any(before.digests[pepper] == secret.digests[pepper] for pepper in common)
    return before.valid_until if same else None


def _ended(secret: SecretRecord, denial: LostDenial) -> SecretRecord:
    if secret.version != denial.secret or not _later(secret.valid_until, denial.since or 0):
        return secret
    return replace(secret, valid_until=denial.since or 0)


class Lost:
    """What is lost of a store's log, and the records that it changes, as they are to be judged."""

    def __init__(self) -> None:
        self.any = False
        """Whether anything is lost at all."""
        self.keys: dict[str, KeyRecord] = {}
        self.workspaces: dict[str, WorkspaceRecord] = {}
        self._of_keys: dict[str, Denials] = {}
        self._of_workspaces: dict[str, Denials] = {}

    @classmethod
    def of(cls, denials: Iterable[LostDenial]) -> Self:
        """These denials, over no records yet."""
        lost = cls()
        for denial in denials:
            lost._note(denial)
        return lost

    def denials(self) -> Denials:
        """All of them; those about one record are in the order in which they came."""
        each = (*self._of_keys.values(), *self._of_workspaces.values())
        return tuple(denial for denials in each for denial in denials)

    def key(self, record: KeyRecord) -> KeyRecord:
        """The record as it is to be judged."""
        lost = self._of_keys.get(record.key_id)
        return record if lost is None else refusing_key(record, lost)

    def workspace(self, record: WorkspaceRecord) -> WorkspaceRecord:
        """As `key`, for a workspace."""
        lost = self._of_workspaces.get(record.workspace_id)
        return record if lost is None else refusing_workspace(record, lost)

    def _note(self, denial: LostDenial) -> None:
        self.any = True
        if denial.key_id is not None:
            self._of_keys[denial.key_id] = (*self._of_keys.get(denial.key_id, ()), denial)
        else:
            so_far = self._of_workspaces.get(denial.workspace_id, ())
            self._of_workspaces[denial.workspace_id] = (*so_far, denial)

    def note(self, lost: Iterable[LostDenial]) -> None:
        """Take these as well; whoever keeps no `keys` and `workspaces` asks `key` and `workspace`."""
        for denial in lost:
            self._note(denial)

    def add(self, lost: Iterable[LostDenial], view: View) -> None:
        """Lay these over the view's records, too."""
        for denial in lost:
            self._note(denial)
            if denial.key_id is not None:
                if (record := view.get(denial.key_id)) is not None:
                    self.key_changed(record)
            elif (workspace := view.workspace(denial.workspace_id)) is not None:
                self.workspace_changed(workspace)

    def key_changed(self, record: KeyRecord) -> None:
        """The log says something new about this key."""
        if (lost := self._of_keys.get(record.key_id)) is not None:
            self.keys[record.key_id] = refusing_key(record, lost)

    def workspace_changed(self, record: WorkspaceRecord) -> None:
        """As `key_changed`, for a workspace."""
        if (lost := self._of_workspaces.get(record.workspace_id)) is not None:
            self.workspaces[record.workspace_id] = refusing_workspace(record, lost)

    def gone(self, key_id: str) -> None:
        """The key has no record any more."""
        self.keys.pop(key_id, None)

    def clear(self) -> None:
        """It is accepted: the records count as the log tells them."""
        self.any = False
        for each in (self.keys, self.workspaces, self._of_keys, self._of_workspaces):
            each.clear()

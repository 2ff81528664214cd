"""Members and invitations as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from keyledger.client.records import Member
from services.dashboard.pages.actors import Actor, Names
from services.dashboard.pages.moments import Moment, at_micros, moment
from services.dashboard.pages.words import may_manage, role_title
from services.dashboard.ports import Invitation


class MemberView(Struct, frozen=True, kw_only=True):
    """Somebody of the workspace; `may_change` is what the page offers, the key service decides."""

    id: str
    actor: Actor
    mail: str | None
    role: str
    role_title: str
    since: Moment
    added_by: str
    own: bool
    may_change: bool


class InvitationView(Struct, frozen=True, kw_only=True):
    """An open invitation."""

    id: str
    note: str
    role_title: str
    by: str
    ends: Moment


def members(found: Sequence[Member], names: Names, *, role: str | None, own: str) -> list[MemberView]:
    """The members as somebody of this role sees them: only owners change owners."""
    return [_member(each, names, role, own) for each in found]


def _member(member: Member, names: Names, role: str | None, own: str) -> MemberView:
    person = names.people.get(member.user)
    above = member.role == "owner" and role != "owner"
    actor = names.actor(member.user)
    return MemberView(
        id=member.user,
        actor=actor,
        mail=person.mail if person is not None and person.mail not in (None, person.called) else None,
        role=member.role,
        role_title=role_title(member.role),
        since=moment(member.since),
        added_by="themselves" if member.added_by == member.user else names.actor(member.added_by).label,
        own=member.user == own,
        may_change=may_manage(role) and not above and member.user != own,
    )


def invitation(given: Invitation, names: Names) -> InvitationView:
    """An invitation; who has it is not known."""
    return InvitationView(
        id=given.id,
        note=given.note,
        role_title=role_title(given.role),
        by=names.actor(given.invited_by).label,
        ends=moment(at_micros(given.expires_at)),
    )

"""Invitations: made by whom the key service lets, accepted once, in the inviter's name."""

from collections.abc import AsyncIterator

import pytest

from keyledger.clock import SECOND
from keyledger.errors import Refusal
from keyledger.server.ids import new_id, new_secret
from keyledger.server.jwt import KeyRing, SessionTokens
from keyledger.server.seal import Sealer
from keyledger.token import Secret
from services.dashboard.domain.invitation import LASTS, MOST_OPEN
from services.dashboard.domain.sign_in import Identity
from services.dashboard.domain.visitor import Visitor
from services.dashboard.handlers.accounts import AccountsOf
from services.dashboard.handlers.sessions import SessionKeeper
from services.dashboard.handlers.signing import Signer
from services.dashboard.ports import Arrival
from tests.support.clock import ManualClock
from tests.support.memory_accounts import (
    FakeMemberships,
    MemoryAccounts,
    MemoryInvitations,
    MemoryPeople,
    MemorySessions,
    MemorySigningKeys,
)

WS, OTHER_WS = "ws_" + "1" * 22, "ws_" + "2" * 22
ORIGIN = "https://keys.example"


class World:
    """Everything around the accounts."""

    def __init__(self) -> None:
        self.clock, kept = ManualClock(), MemoryAccounts()
        self.memberships = FakeMemberships()
        self.people = MemoryPeople(kept)
        self.signer = Signer(MemorySigningKeys(), Sealer(b"s" * 32), self.clock, lambda: new_id("jwk"))
        tokens = SessionTokens(ORIGIN, KeyRing(self.signer, self.clock), self.clock)
        self.keeper = SessionKeeper(
            MemorySessions(kept), self.memberships, self.signer, tokens, self.clock, issuer=ORIGIN,
            new_id=new_id, new_secret=new_secret,
        )  # fmt: skip
        self.accounts = AccountsOf(
            self.people, MemoryInvitations(kept), self.memberships, self.keeper, self.clock,
            public_url=ORIGIN, new_id=new_id, new_secret=new_secret,
        )  # fmt: skip

    async def visitor(self, name: str, role: str | None, ws: str = WS) -> Visitor:
        """Somebody who is signed in, in this workspace if they have a role."""
        identity = Identity("https://id.example", name, name.title(), f"{name}@example.org")
        arrived = await self.people.arrive(identity, new_id("user"), self.clock.now())
        if role is not None:
            self.memberships.members.setdefault(ws, {})[arrived.person.user_id] = role
        arrival = Arrival(arrived.person, False, ws)
        tokens = await self.keeper.begin(arrival, first_workspace=False, presented=None)
        found = await self.keeper.visitor(tokens.jwt)
        assert found is not None
        return found


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.signer.refresh()
    yield made


def token_of(address: Secret) -> str:
    """The token in an invitation's address."""
    return address.reveal().removeprefix(f"{ORIGIN}/invitations/")


async def refused(call: object) -> str:
    """The code with which this is refused."""
    with pytest.raises(Refusal) as told:
        await call  # type: ignore[misc]
    return told.value.code


async def test_an_invitation_brings_in_once_in_the_inviters_name(world: World) -> None:
    ada, grace, eve = (
        await world.visitor("ada", "admin"), await world.visitor("grace", None),
        await world.visitor("eve", None),
    )  # fmt: skip
    made, address = await world.accounts.invite(ada, "member", "for Grace")
    assert list(await world.accounts.invitations(ada)) == [made]
    assert token_of(address) not in repr((made, address))
    opened = await world.accounts.opened(grace, token_of(address))
    assert (opened.workspace, opened.inviter, opened.invitation.role) == ("Workspace 1", "Ada", "member")
    assert opened.has is None
    assert (await world.accounts.opened(ada, token_of(address))).has == "admin"
    assert await world.accounts.accept(grace, token_of(address)) == WS
    assert world.memberships.members[WS][grace.user_id] == "member"
    assert await refused(world.accounts.accept(eve, token_of(address))) == "not_found"
    assert list(await world.accounts.invitations(ada)) == []


async def test_it_dies_with_its_inviters_role(world: World) -> None:
    ada, grace = await world.visitor("ada", "owner"), await world.visitor("grace", None)
    _, address = await world.accounts.invite(ada, "owner")
    world.memberships.members[WS][ada.user_id] = "admin"
    assert await refused(world.accounts.accept(grace, token_of(address))) == "not_found"
    del world.memberships.members[WS][ada.user_id]
    assert await refused(world.accounts.opened(grace, token_of(address))) == "not_found"


async def test_it_ends_after_a_week_and_when_it_is_withdrawn(world: World) -> None:
    ada, grace = await world.visitor("ada", "admin"), await world.visitor("grace", None)
    made, address = await world.accounts.invite(ada, "viewer")
    elsewhere = await world.visitor("eve", "owner", OTHER_WS)
    assert await refused(world.accounts.withdraw(elsewhere, made.id)) == "not_found"
    await world.accounts.withdraw(ada, made.id)
    assert await refused(world.accounts.withdraw(ada, made.id)) == "not_found"
    assert await refused(world.accounts.accept(grace, token_of(address))) == "not_found"
    _, late = await world.accounts.invite(ada, "viewer")
    world.clock.advance(LASTS / SECOND)
    assert await refused(world.accounts.accept(grace, token_of(late))) == "not_found"


@pytest.mark.parametrize(
    ("own", "role", "code"),
    [
        ("viewer", "viewer", "insufficient_permissions"),
        ("member", "viewer", "insufficient_permissions"),
        ("admin", "owner", "insufficient_permissions"),
        ("owner", "emperor", "invalid_request"),
    ],
)
async def test_who_may_not_invite_so(world: World, own: str, role: str, code: str) -> None:
    ada = await world.visitor("ada", own)
    assert await refused(world.accounts.invite(ada, role)) == code
    if own in ("viewer", "member"):
        assert await refused(world.accounts.invitations(ada)) == code


async def test_a_removed_admin_sees_nothing_though_the_session_goes_on(world: World) -> None:
    ada = await world.visitor("ada", "admin")
    world.memberships.members[WS] = {}
    for call in (world.accounts.invite(ada, "viewer"), world.accounts.invitations(ada)):
        assert await refused(call) == "not_found"


async def test_who_is_a_member_keeps_their_role(world: World) -> None:
    ada, grace = await world.visitor("ada", "owner"), await world.visitor("grace", "admin")
    _, address = await world.accounts.invite(ada, "viewer")
    assert await refused(world.accounts.accept(grace, token_of(address))) == "conflict"
    assert world.memberships.members[WS][grace.user_id] == "admin"


async def test_an_invitation_that_brought_nobody_in_still_stands(world: World) -> None:
    ada, grace = await world.visitor("ada", "admin"), await world.visitor("grace", None)
    _, address = await world.accounts.invite(ada, "viewer")
    world.memberships.put_fails = True
    assert await refused(world.accounts.accept(grace, token_of(address))) == "insufficient_permissions"
    world.memberships.put_fails = False
    assert await world.accounts.accept(grace, token_of(address)) == WS


async def test_a_note_is_one_line_and_there_is_an_end_of_invitations(world: World) -> None:
    ada = await world.visitor("ada", "admin")
    assert await refused(world.accounts.invite(ada, "viewer", "a\nb")) == "invalid_request"
    for _ in range(MOST_OPEN):
        await world.accounts.invite(ada, "viewer")
    assert await refused(world.accounts.invite(ada, "viewer")) == "conflict"


async def test_who_erases_their_account_leaves_every_workspace_but_the_one_they_are_alone_in(
    world: World,
) -> None:
    ada = await world.visitor("ada", "admin")
    members = world.memberships.members
    members[WS]["user_other"] = "owner"
    members[OTHER_WS] = {ada.user_id: "owner"}
    await world.accounts.erase(ada)
    assert members == {WS: {"user_other": "owner"}, OTHER_WS: {ada.user_id: "owner"}}
    assert (await world.accounts.people([ada.user_id]))[ada.user_id].name is None
    assert await world.keeper.visitor(ada.jwt) is None


async def test_the_only_owner_among_others_hands_over_before_they_are_erased(world: World) -> None:
    ada = await world.visitor("ada", "member")
    members = world.memberships.members
    members[WS]["user_other"] = "owner"
    members[OTHER_WS] = {ada.user_id: "owner", "user_other": "viewer"}
    with pytest.raises(Refusal) as told:
        await world.accounts.erase(ada)
    assert told.value.code == "conflict"
    assert "only owner of Workspace 2" in told.value.message
    # nothing was left either: the one that refuses is asked first
    assert ada.user_id in members[WS]
    assert (await world.accounts.people([ada.user_id]))[ada.user_id].name == "Ada"
    members[OTHER_WS]["user_other"] = "owner"
    await world.accounts.erase(ada)
    assert members == {WS: {"user_other": "owner"}, OTHER_WS: {"user_other": "owner"}}


async def test_without_the_key_service_nobody_is_erased(world: World) -> None:
    ada = await world.visitor("ada", "member")
    world.memberships.away = True
    assert await refused(world.accounts.erase(ada)) == "unavailable"
    assert (await world.accounts.people([ada.user_id]))[ada.user_id].name == "Ada"

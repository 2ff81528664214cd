"""One suite for every set of the dashboard's stores: people, sessions, invitations, keys, what is spent."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from keyledger.clock import SECOND
from services.dashboard.adapters.people import PostgresInvitations, PostgresPeople
from services.dashboard.adapters.sessions import PostgresSessions, PostgresSigningKeys, PostgresSpent
from services.dashboard.adapters.store import Database
from services.dashboard.domain.session import ABSOLUTE, IDLE, Session
from services.dashboard.domain.sign_in import Identity
from services.dashboard.domain.signing import KeyTimes
from services.dashboard.ports import (
    Invitation,
    Invitations,
    People,
    Person,
    RefreshDigests,
    Sessions,
    SigningKeys,
    Spent,
    StoredKey,
    StoreUnavailable,
)
from tests.support.accounts_postgres import prepare
from tests.support.memory_accounts import (
    MemoryAccounts,
    MemoryInvitations,
    MemoryPeople,
    MemorySessions,
    MemorySigningKeys,
    MemorySpent,
)

NOW = 1_800_000_000 * SECOND
ADA = Identity("https://id.example", "ada", "Ada", "ada@example.org")
USER, OTHER = "user_" + "1" * 22, "user_" + "2" * 22
SES, SES_2 = "ses_" + "1" * 22, "ses_" + "2" * 22
WS, WS_2 = "ws_" + "1" * 22, "ws_" + "2" * 22
DIGESTS = RefreshDigests(b"h" * 32, b"s" * 32)


@dataclass(frozen=True)
class Stores:
    """One set."""

    people: People
    sessions: Sessions
    invitations: Invitations
    spent: Spent
    keys: SigningKeys


def session(session_id: str = SES, *, user: str = USER, at: int = NOW) -> Session:
    """A session that begins at this time."""
    return Session(session_id, user, WS, "admin", at, at)


def invitation(number: int = 1, *, ws: str = WS, at: int = NOW) -> Invitation:
    """An open invitation of a minute."""
    return Invitation(f"inv_{number:022d}", ws, "member", USER, "for Grace", at, at + 60 * SECOND)


class AccountStoresSuite:
    """What every set of stores promises."""

    async def test_a_user_is_an_issuer_and_a_subject(self, stores: Stores) -> None:
        first = await stores.people.arrive(ADA, USER, NOW)
        assert (first.person, first.is_new, first.workspace_id) == (
            Person(USER, "Ada", "ada@example.org"), True, None,
        )  # fmt: skip
        renamed = Identity(ADA.issuer, ADA.subject, "Ada L.", "ada@elsewhere.example")
        again = await stores.people.arrive(renamed, OTHER, NOW)
        assert (again.person, again.is_new) == (Person(USER, "Ada L.", "ada@elsewhere.example"), False)
        same_mail = Identity("https://evil.example", "ada", "Ada", "ada@elsewhere.example")
        assert (await stores.people.arrive(same_mail, OTHER, NOW)).person.user_id == OTHER
        assert set(await stores.people.known([USER, OTHER, "user_" + "9" * 22])) == {USER, OTHER}
        await stores.people.ping()

    async def test_a_user_is_found_by_a_part_of_their_name_or_mail(self, stores: Stores) -> None:
        await stores.people.arrive(ADA, USER, NOW)
        await stores.people.arrive(Identity(ADA.issuer, "g", None, "grace_h@example.org"), OTHER, NOW + 1)
        for text, found in (
            ("EXAMPLE.org", [OTHER, USER]), ("aDa@", [USER]), ("ce_h", [OTHER]), ("c%h", []), ("ada_", []),
        ):  # fmt: skip
            assert [each.user_id for each in await stores.people.holding(text, 9)] == found
        assert len(await stores.people.holding("example", 1)) == 1
        await stores.people.erase(USER, NOW + 2, NOW + 2)
        assert await stores.people.holding("ada", 9) == []

    async def test_an_erased_person_is_an_id_and_their_sessions_are_over(self, stores: Stores) -> None:
        await stores.people.arrive(ADA, USER, NOW)
        await stores.sessions.open(session(), DIGESTS)
        await stores.invitations.add(invitation(), b"d" * 32, 9)
        assert await stores.people.erase(USER, NOW + 1, NOW + 600 * SECOND)
        assert not await stores.people.erase(USER, NOW + 2, NOW + 600 * SECOND)
        assert not await stores.people.erase(OTHER, NOW + 2, NOW + 600 * SECOND)
        assert await stores.people.known([USER]) == {USER: Person(USER, None, None)}
        found = await stores.sessions.find(SES)
        assert found is not None
        assert found.session.ended_at == NOW + 1
        assert [each.session_id for each in await stores.sessions.untold(NOW + 2, 9)] == [SES]
        assert await stores.invitations.of_workspace(WS, NOW) == []
        again = await stores.people.arrive(ADA, OTHER, NOW + 2)
        assert (again.person.user_id, again.is_new) == (OTHER, True)

    async def test_a_refresh_token_renews_once(self, stores: Stores) -> None:
        await stores.people.arrive(ADA, USER, NOW)
        await stores.sessions.open(session(), DIGESTS)
        found = await stores.sessions.by_handle(DIGESTS.handle)
        assert found is not None
        assert (found[0].session, found[1]) == (session(), DIGESTS.secret)
        assert await stores.sessions.by_handle(b"x" * 32) is None
        tries = [
            stores.sessions.renew(SES, DIGESTS.secret, bytes([number]) * 32, NOW + 5) for number in range(5)
        ]
        assert sorted(await asyncio.gather(*tries)) == [False, False, False, False, True]
        renewed = await stores.sessions.find(SES)
        assert renewed is not None
        assert renewed.session.renewed_at == NOW + 5

    async def test_an_ended_session_renews_no_more_and_is_told_of_until_it_is_known(
        self, stores: Stores
    ) -> None:
        await stores.people.arrive(ADA, USER, NOW)
        for session_id, handle in ((SES, b"1" * 32), (SES_2, b"2" * 32)):
            await stores.sessions.open(session(session_id), RefreshDigests(handle, DIGESTS.secret))
            assert await stores.sessions.end(session_id, NOW, NOW + 100)
            assert not await stores.sessions.end(session_id, NOW + 1, NOW + 100)
        assert not await stores.sessions.renew(SES, DIGESTS.secret, b"n" * 32, NOW)
        assert len(await stores.sessions.untold(NOW, 1)) == 1
        await stores.sessions.told(SES)
        assert [each.session_id for each in await stores.sessions.untold(NOW, 9)] == [SES_2]
        # beyond that no JWT of it is good anyway
        assert await stores.sessions.untold(NOW + 100, 9) == []

    async def test_the_workspace_that_was_chosen_is_where_the_next_sign_in_begins(
        self, stores: Stores
    ) -> None:
        await stores.people.arrive(ADA, USER, NOW)
        await stores.sessions.open(session(), DIGESTS)
        await stores.sessions.choose(SES, WS_2, "viewer")
        found = await stores.sessions.find(SES)
        assert found is not None
        assert (found.session.workspace_id, found.session.role) == (WS_2, "viewer")
        assert (await stores.people.arrive(ADA, OTHER, NOW)).workspace_id == WS_2

    async def test_what_was_left_alone_or_is_too_old_is_forgotten(self, stores: Stores) -> None:
        await stores.people.arrive(ADA, USER, NOW)
        await stores.sessions.open(session(), DIGESTS)
        await stores.sessions.open(session(SES_2), RefreshDigests(b"2" * 32, b"2" * 32))
        assert await stores.sessions.renew(SES_2, b"2" * 32, b"3" * 32, NOW + ABSOLUTE)
        assert await stores.sessions.forget(NOW + IDLE, 9) == 0
        assert await stores.sessions.forget(NOW + IDLE + 1, 9) == 1
        assert await stores.sessions.find(SES) is None
        assert await stores.sessions.find(SES_2) is not None
        assert await stores.sessions.forget(NOW + ABSOLUTE + 1, 9) == 1

    async def test_an_ended_session_is_forgotten_once_it_was_told_of(self, stores: Stores) -> None:
        await stores.people.arrive(ADA, USER, NOW)
        await stores.sessions.open(session(), DIGESTS)
        await stores.sessions.end(SES, NOW, NOW + 5)
        assert await stores.sessions.forget(NOW + 1, 9) == 0
        await stores.sessions.told(SES)
        assert await stores.sessions.forget(NOW, 9) == 0
        assert await stores.sessions.forget(NOW + 1, 9) == 1

    async def test_an_invitation_is_found_by_its_token_and_closed_once(self, stores: Stores) -> None:
        await stores.people.arrive(ADA, USER, NOW)
        assert await stores.invitations.add(invitation(1), b"1" * 32, 2)
        assert await stores.invitations.add(invitation(2, at=NOW + 1), b"2" * 32, 2)
        assert not await stores.invitations.add(invitation(3), b"3" * 32, 2)
        assert await stores.invitations.add(invitation(4, ws=WS_2), b"4" * 32, 2)
        listed = await stores.invitations.of_workspace(WS, NOW)
        assert listed == [invitation(2, at=NOW + 1), invitation(1)]
        assert await stores.invitations.find(b"1" * 32, NOW) == invitation(1)
        assert await stores.invitations.find(b"9" * 32, NOW) is None
        assert not await stores.invitations.close(WS_2, invitation(1).id, NOW)
        tries = [stores.invitations.close(WS, invitation(1).id, NOW) for _ in range(4)]
        assert sorted(await asyncio.gather(*tries)) == [False, False, False, True]
        assert await stores.invitations.find(b"1" * 32, NOW) is None

    async def test_an_invitation_ends(self, stores: Stores) -> None:
        await stores.people.arrive(ADA, USER, NOW)
        await stores.invitations.add(invitation(), b"1" * 32, 1)
        late = NOW + 60 * SECOND
        assert await stores.invitations.find(b"1" * 32, late) is None
        assert await stores.invitations.of_workspace(WS, late) == []
        # what is over takes nobody's place
        assert await stores.invitations.add(invitation(2, at=late), b"2" * 32, 1)
        await stores.invitations.clear(late)
        assert not await stores.invitations.close(WS, invitation().id, NOW)

    async def test_what_is_spent_is_spent_once(self, stores: Stores) -> None:
        tries = [stores.spent.spend(b"d" * 32, NOW + 9, NOW) for _ in range(5)]
        assert sorted(await asyncio.gather(*tries)) == [False, False, False, False, True]
        await stores.spent.clear(NOW + 8)
        assert not await stores.spent.spend(b"d" * 32, NOW + 9, NOW)
        await stores.spent.clear(NOW + 9)
        assert await stores.spent.spend(b"d" * 32, NOW + 9, NOW)

    async def test_one_process_makes_the_next_key(self, stores: Stores) -> None:
        first = StoredKey(KeyTimes("a", NOW), b"sealed")
        assert await stores.keys.add(first, None)
        assert not await stores.keys.add(StoredKey(KeyTimes("b", NOW), b"other"), None)
        nexts = [StoredKey(KeyTimes(kid, NOW + 1), b"s") for kid in "cde"]
        added = await asyncio.gather(*(stores.keys.add(key, "a") for key in nexts))
        assert sorted(added) == [False, False, True]
        assert (await stores.keys.all())[0] == first
        assert len(await stores.keys.all()) == 2
        await stores.keys.drop(["a"])
        assert [key.times.starts_at for key in await stores.keys.all()] == [NOW + 1]


class TestMemory(AccountStoresSuite):
    """The doubles."""

    @pytest.fixture
    async def stores(self) -> Stores:
        accounts = MemoryAccounts()
        return Stores(
            MemoryPeople(accounts), MemorySessions(accounts), MemoryInvitations(accounts), MemorySpent(),
            MemorySigningKeys(),
        )  # fmt: skip


class TestPostgres(AccountStoresSuite):
    """Postgres, as the dashboard's run-time role."""

    @pytest.fixture
    async def stores(self, database: str) -> AsyncIterator[Stores]:
        kept = Database(await prepare(database))
        async with kept.open():
            yield Stores(
                PostgresPeople(kept), PostgresSessions(kept), PostgresInvitations(kept), PostgresSpent(kept),
                PostgresSigningKeys(kept),
            )  # fmt: skip

    async def test_one_that_is_not_open_is_away(self) -> None:
        kept = Database("postgresql://nobody:secret@127.0.0.1:1/none")
        with pytest.raises(StoreUnavailable):
            await PostgresPeople(kept).ping()
        assert "secret" not in repr(kept)

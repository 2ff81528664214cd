"""Members over HTTP, on a real Postgres: workspaces of users, roles, invitations' last step, leaving."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from keyledger.server.ids import new_id
from tests.support.issuing import Issuer, SignedIn, issuing
from tests.support.keys import House, everything_stored, house, refused
from tests.support.servers import Servers
from tests.support.tampering import tamper

ALL = "/v1/workspaces"


@dataclass
class Place:
    """A running key service that accepts users of an issuer."""

    house: House
    issuer: Issuer

    def user(self, user: str, ws: str | None = None, **claims: Any) -> SignedIn:
        return SignedIn(self.house.http, self.issuer.token(user, ws, **claims))

    async def workspace(self, owner: str) -> str:
        return (await self.user(owner).ok("POST", ALL, {"name": "Acme"}))["id"]

    async def member(self, ws: str, role: str) -> str:
        """A new member of this workspace, added by an operator."""
        user = new_id("user")
        await self.house.admin.ok("PUT", f"{ALL}/{ws}/members/{user}", {"role": role})
        return user


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with (
        issuing() as issuer,
        house(servers, tmp_path_factory.mktemp("home"), issuer.url) as found,
    ):
        yield Place(found, issuer)


@pytest.fixture
def ada() -> str:
    return new_id("user")


async def test_a_user_makes_a_workspace_and_owns_it(here: Place, ada: str) -> None:
    answer = await here.user(ada)("POST", ALL, {"name": "Acme"})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["name"], made["version"]) == ("Acme", 2)
    ws = made["id"]
    owner = here.user(ada, ws)
    listed = await owner.ok("GET", ALL)
    assert listed == {"workspaces": [{**made, "role": "owner"}], "next_cursor": None}
    assert listed == await here.user(ada).ok("GET", ALL)
    members = await owner.ok("GET", f"{ALL}/{ws}/members")
    assert members == {
        "members": [{"user": ada, "role": "owner", "since": made["created_at"], "added_by": ada}],
        "next_cursor": None,
    }
    events = (await owner.ok("GET", f"{ALL}/{ws}/events"))["events"]
    assert [(each["type"], each["actor"]) for each in events] == [
        ("workspace_created", ada),
        ("member_added", ada),
    ]
    assert events[1]["data"] == {"user": ada, "role": "owner"}
    key = await owner.ok("POST", f"{ALL}/{ws}/keys", {"name": "CI", "environment": "live"})
    assert key["created_by"] == ada
    newest = await owner.ok("GET", f"{ALL}/{ws}/events?order=newest&limit=2")
    assert [each["type"] for each in newest["events"]] == ["key_created", "member_added"]


async def test_another_tenant_s_ids_are_nothing_that_exists(here: Place, ada: str) -> None:
    ws, eve = await here.workspace(ada), new_id("user")
    other = await here.workspace(eve)
    owner = here.user(ada, ws)
    key = (await owner.ok("POST", f"{ALL}/{ws}/keys", {"name": "CI", "environment": "live"}))["id"]
    member = await here.member(ws, "viewer")
    at = f"{ALL}/{ws}"
    calls: list[tuple[str, str, Any]] = [
        ("GET", at, None), ("PATCH", at, {"name": "x"}), ("DELETE", at, None), ("GET", f"{at}/events", None),
        ("GET", f"{at}/keys", None), ("POST", f"{at}/keys", {"name": "x", "environment": "live"}),
        ("GET", f"{at}/keys/{key}", None), ("PATCH", f"{at}/keys/{key}", {"name": "x"}),
        ("POST", f"{at}/keys/{key}/rotate", {}), ("POST", f"{at}/keys/{key}/revoke", {}),
        ("GET", f"{at}/keys/{key}/events", None), ("POST", f"{at}/keys/import", {"keys": []}),
        ("GET", f"{at}/members", None), ("GET", f"{at}/members/{member}", None),
        ("PUT", f"{at}/members/{eve}", {"role": "viewer"}), ("DELETE", f"{at}/members/{member}", None),
        ("DELETE", f"{at}/members/{eve}", None),
        ("POST", "/v1/authorize", {"workspace_id": ws, "scope": "keyledger:usage:read"}),
    ]  # fmt: skip
    strangers = [
        here.user(eve, ws), here.user(eve, other), here.user(eve), here.user(ada, other), here.user(ada),
        await here.house.manager(other, "keys:read", "keys:write", "workspace:write", "usage:read"),
    ]  # fmt: skip
    before = await here.house.head()
    for method, path, body in calls:
        for stranger in strangers:
            refused(await stranger(method, path, body), 404, "not_found")
    # the other's key below one's own workspace
    mine = here.user(eve, other)
    refused(await mine("GET", f"{ALL}/{other}/keys/{key}"), 404, "not_found")
    refused(await mine("GET", f"{ALL}/{other}/members/{member}"), 404, "not_found")
    refused(await mine("DELETE", f"{ALL}/{other}/members/{member}"), 404, "not_found")
    assert await here.house.head() == before


async def test_a_user_is_no_operator_and_no_service(here: Place, ada: str) -> None:
    ws = await here.workspace(ada)
    owner = here.user(ada, ws)
    for method, path, body, field in (
        ("DELETE", f"{ALL}/{ws}", None, None),
        ("PATCH", f"{ALL}/{ws}", {"suspended": True}, "suspended"),
        ("PATCH", f"{ALL}/{ws}", {"quota": {"limit": 1, "period": "day"}}, "quota"),
        ("PATCH", f"{ALL}/{ws}", {"rate_limit": {"limit": 1, "window_seconds": 60}}, "rate_limit"),
        ("POST", ALL, {"name": "a", "rate_limit": {"limit": 1, "window_seconds": 60}}, "rate_limit"),
        ("GET", "/v1/feed", None, None),
        ("GET", "/v1/snapshot", None, None),
        ("GET", "/v1/head", None, None),
        ("POST", "/v1/prove", {"key": "x"}, None),
        ("GET", "/v1/epochs", None, None),
        ("GET", "/v1/peppers", None, None),
    ):
        for caller in (owner, here.user(ada)):
            if path.startswith(f"{ALL}/") and caller is not owner:
                continue
            refused(await caller(method, path, body), 403, "insufficient_permissions", field)


MAY = {
    "viewer": (200, 403, 403, 403),
    "member": (200, 201, 403, 403),
    "admin": (200, 201, 200, 201),
    "owner": (200, 201, 200, 201),
}


@pytest.mark.parametrize("role", MAY)
async def test_each_role_may_do_what_its_table_says(here: Place, ada: str, role: str) -> None:
    ws = await here.workspace(ada)
    caller = here.user(await here.member(ws, role), ws)
    at = f"{ALL}/{ws}"
    for method, path in (
        ("GET", at),
        ("GET", f"{at}/keys"),
        ("GET", f"{at}/events"),
        ("GET", f"{at}/members"),
    ):
        assert (await caller(method, path)).status_code == 200
    question = {"workspace_id": ws, "scope": "keyledger:usage:read"}
    done = (
        await caller("POST", "/v1/authorize", question),
        await caller("POST", f"{at}/keys", {"name": "CI", "environment": "live"}),
        await caller("PATCH", at, {"name": role}),
        await caller("PUT", f"{at}/members/{new_id('user')}", {"role": "viewer"}),
    )
    assert tuple(answer.status_code for answer in done) == MAY[role]
    # a key reaches no further than who makes it
    wide = {"name": "k", "environment": "live", "scopes": ["keyledger:workspace:write"]}
    assert (await caller("POST", f"{at}/keys", wide)).status_code == (201 if MAY[role][2] == 200 else 403)


async def test_a_member_is_added_changed_and_removed_with_the_words_of_the_log(here: Place, ada: str) -> None:
    ws, bob = await here.workspace(ada), new_id("user")
    owner = here.user(ada, ws)
    at = f"{ALL}/{ws}/members/{bob}"
    refused(await owner("GET", at), 404, "not_found")
    answer = await owner("PUT", at, {"role": "viewer"})
    assert (answer.status_code, answer.headers["etag"]) == (201, '"3"')
    added = answer.json()
    assert (added["user"], added["role"], added["added_by"], added["version"]) == (bob, "viewer", ada, 3)
    assert added["position"] == await here.house.head()
    again = await owner("PUT", at, {"role": "viewer"})
    assert (again.status_code, again.json()["version"], again.json()["since"]) == (200, 3, added["since"])
    refused(
        await owner("PUT", at, {"role": "admin"}, headers={"If-Match": '"2"'}),
        412,
        "precondition_failed",
        "If-Match",
    )
    changed = await owner.ok("PUT", at, {"role": "admin"}, headers={"If-Match": '"3"'})
    assert (changed["role"], changed["version"], changed["since"]) == ("admin", 4, added["since"])
    shown = await owner("GET", at)
    assert (shown.json(), shown.headers["etag"]) == (
        {"user": bob, "role": "admin", "since": added["since"], "added_by": ada},
        '"4"',
    )
    removed = await owner.ok("DELETE", at)
    assert (removed["user"], removed["version"], removed["position"]) == (bob, 5, await here.house.head())
    refused(await owner("DELETE", at), 404, "not_found")
    told = (await owner.ok("GET", f"{ALL}/{ws}/events?stream={ws}"))["events"][2:]
    assert [(each["type"], each["actor"], each["data"]) for each in told] == [
        ("member_added", ada, {"user": bob, "role": "viewer"}),
        ("member_changed", ada, {"user": bob, "role": "admin"}),
        ("member_removed", ada, {"user": bob}),
    ]


async def test_the_last_owner_cannot_go(here: Place, ada: str) -> None:
    ws, bob = await here.workspace(ada), new_id("user")
    owner = here.user(ada, ws)
    own = f"{ALL}/{ws}/members/{ada}"
    for caller in (owner, here.house.admin):
        refused(await caller("DELETE", own), 409, "conflict")
        refused(await caller("PUT", own, {"role": "admin"}), 409, "conflict")
    await owner.ok("PUT", f"{ALL}/{ws}/members/{bob}", {"role": "owner"})
    await owner.ok("DELETE", own)
    refused(await owner("GET", f"{ALL}/{ws}"), 404, "not_found")
    refused(await here.user(bob, ws)("DELETE", f"{ALL}/{ws}/members/{bob}"), 409, "conflict")


async def test_of_two_owners_who_leave_at_once_one_stays(here: Place, ada: str) -> None:
    ws, bob = await here.workspace(ada), new_id("user")
    await here.user(ada, ws).ok("PUT", f"{ALL}/{ws}/members/{bob}", {"role": "owner"})
    done = await asyncio.gather(
        *(here.user(user, ws)("DELETE", f"{ALL}/{ws}/members/{user}") for user in (ada, bob))
    )
    assert sorted(answer.status_code for answer in done) == [200, 409]
    members = (await here.house.admin.ok("GET", f"{ALL}/{ws}/members"))["members"]
    assert [member["role"] for member in members] == ["owner"]


async def test_everyone_may_leave(here: Place, ada: str) -> None:
    ws = await here.workspace(ada)
    for role in ("viewer", "member", "admin"):
        user = await here.member(ws, role)
        caller = here.user(user, ws)
        await caller.ok("DELETE", f"{ALL}/{ws}/members/{user}")
        refused(await caller("GET", f"{ALL}/{ws}"), 404, "not_found")
        assert (await caller.ok("GET", ALL))["workspaces"] == []


async def test_members_are_listed_newest_first_and_paged(here: Place, ada: str) -> None:
    ws = await here.workspace(ada)
    added = [await here.member(ws, "viewer") for _ in range(3)]
    owner, at = here.user(ada, ws), f"{ALL}/{ws}/members"
    first = await owner.ok("GET", f"{at}?limit=3")
    assert [member["user"] for member in first["members"]] == added[::-1]
    rest = await owner.ok("GET", f"{at}?limit=3&cursor={first['next_cursor']}")
    assert ([member["user"] for member in rest["members"]], rest["next_cursor"]) == ([ada], None)
    other = await here.workspace(ada)
    stray = await here.user(ada, other)("GET", f"{ALL}/{other}/members?cursor={first['next_cursor']}")
    refused(stray, 400, "invalid_request", "cursor")


async def test_own_workspaces_are_paged_and_the_cursor_is_one_s_own(here: Place, ada: str) -> None:
    made = [await here.workspace(ada) for _ in range(3)]
    caller = here.user(ada)
    first = await caller.ok("GET", f"{ALL}?limit=2")
    assert [each["id"] for each in first["workspaces"]] == made[:0:-1]
    rest = await caller.ok("GET", f"{ALL}?limit=2&cursor={first['next_cursor']}")
    assert ([each["id"] for each in rest["workspaces"]], rest["next_cursor"]) == ([made[0]], None)
    for stranger in (here.user(new_id("user")), here.house.admin):
        refused(
            await stranger("GET", f"{ALL}?cursor={first['next_cursor']}"), 400, "invalid_request", "cursor"
        )


@pytest.mark.parametrize("body", [{}, {"role": "auditor"}, {"role": None}, {"role": 1}, {"role": "Owner"}])
async def test_a_bad_role_names_its_field(here: Place, ada: str, body: Any) -> None:
    ws = await here.workspace(ada)
    at = f"{ALL}/{ws}/members/{new_id('user')}"
    refused(await here.user(ada, ws)("PUT", at, body), 400, "invalid_request", "role")


@pytest.mark.parametrize("user", ["user_1", "key_" + "1" * 22, "me", "user_" + "z" * 22])
async def test_a_malformed_user_is_nobody(here: Place, ada: str, user: str) -> None:
    ws = await here.workspace(ada)
    owner, at = here.user(ada, ws), f"{ALL}/{ws}/members/{user}"
    for method, body in (("GET", None), ("PUT", {"role": "viewer"}), ("DELETE", None)):
        refused(await owner(method, at, body), 404, "not_found")


async def test_a_management_key_gives_no_role_that_has_what_it_lacks(here: Place, ada: str) -> None:
    ws = await here.workspace(ada)
    at = f"{ALL}/{ws}/members/{new_id('user')}"
    narrow = await here.house.manager(ws, "workspace:write")
    refused(await narrow("PUT", at, {"role": "viewer"}), 403, "insufficient_permissions", "scopes")
    assert len((await narrow.ok("GET", f"{ALL}/{ws}/members"))["members"]) == 1
    whole = await here.house.manager(ws, "keys:read", "keys:write", "workspace:write", "usage:read")
    refused(await whole("PUT", at, {"role": "owner"}), 403, "insufficient_permissions", "role")
    assert (await whole("PUT", at, {"role": "admin"})).status_code == 201
    reader = await here.house.manager(ws, "keys:read")
    refused(await reader("DELETE", at), 403, "insufficient_permissions")
    assert (await whole("DELETE", at)).status_code == 200


async def test_a_workspace_is_made_once_with_one_idempotency_key(here: Place, ada: str) -> None:
    once = {"Idempotency-Key": "first-workspace"}
    answers = [await here.user(ada)("POST", ALL, {"name": "Acme"}, headers=once) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len((await here.user(ada).ok("GET", ALL))["workspaces"]) == 1
    other = await here.user(new_id("user"))("POST", ALL, {"name": "Acme"}, headers=once)
    assert other.json()["id"] != answers[0].json()["id"]


async def test_events_are_told_from_the_end_and_paged_back(here: Place, ada: str) -> None:
    ws = await here.workspace(ada)
    owner, at = here.user(ada, ws), f"{ALL}/{ws}"
    keys = [(await owner.ok("POST", f"{at}/keys", {"name": n, "environment": "live"}))["id"] for n in "ab"]
    await owner.ok("POST", f"{at}/keys/{keys[0]}/revoke", {})
    oldest = (await owner.ok("GET", f"{at}/events"))["events"]
    first = await owner.ok("GET", f"{at}/events?order=newest&limit=3")
    rest = await owner.ok("GET", f"{at}/events?order=newest&limit=3&cursor={first['next_cursor']}")
    assert first["events"] + rest["events"] == oldest[::-1]
    assert rest["next_cursor"] is None
    of_key = await owner.ok("GET", f"{at}/keys/{keys[0]}/events?order=newest&limit=1")
    assert [each["type"] for each in of_key["events"]] == ["key_revoked"]
    older = await owner.ok("GET", f"{at}/keys/{keys[0]}/events?order=newest&cursor={of_key['next_cursor']}")
    assert [each["type"] for each in older["events"]] == ["key_created"]
    of_workspace = await owner.ok("GET", f"{at}/events?order=newest&stream={ws}")
    assert [each["type"] for each in of_workspace["events"]] == ["member_added", "workspace_created"]
    for query, field in (
        (f"order=oldest&cursor={first['next_cursor']}", "cursor"), ("order=newest&after=1", "after"),
        ("order=random", "order"),
    ):  # fmt: skip
        refused(await owner("GET", f"{at}/events?{query}"), 400, "invalid_request", field)


async def test_a_deleted_workspace_is_no_one_s_any_more(here: Place, ada: str) -> None:
    ws = await here.workspace(ada)
    owner = here.user(ada, ws)
    assert (await here.house.admin("DELETE", f"{ALL}/{ws}")).status_code == 202
    refused(await owner("GET", f"{ALL}/{ws}"), 404, "not_found")
    assert (await owner.ok("GET", ALL))["workspaces"] == []
    assert ws.encode() not in await everything_stored(here.house.admin_dsn, "membership")


async def test_what_a_restore_has_lost_of_members_is_refused_until_it_is_accepted(
    here: Place, ada: str
) -> None:
    """A removal, or a lesser role, that the restored log does not know."""
    ws, other = await here.workspace(ada), await here.workspace(ada)
    bob = await here.member(ws, "admin")
    await tamper(
        here.house.admin_dsn, "INSERT INTO ledger.lost_denial VALUES (1, $1, $2, 'removed')", ws, bob
    )
    refused(await here.user(bob, ws)("GET", f"{ALL}/{ws}"), 404, "not_found")
    assert (await here.user(bob).ok("GET", ALL))["workspaces"] == []
    await here.user(ada, ws).ok("GET", f"{ALL}/{ws}")
    await tamper(here.house.admin_dsn, "INSERT INTO ledger.lost_denial VALUES (1, $1, NULL, 'suspended')", ws)
    await here.user(ada, ws).ok("GET", f"{ALL}/{ws}")
    await tamper(here.house.admin_dsn, "INSERT INTO ledger.lost_denial VALUES (1, $1, NULL, 'deleted')", ws)
    refused(await here.user(ada, ws)("GET", f"{ALL}/{ws}"), 404, "not_found")
    assert [each["id"] for each in (await here.user(ada).ok("GET", ALL))["workspaces"]] == [other]
    await here.house.admin.ok("POST", "/v1/epochs/accept", {"number": 1})
    await here.user(ada, ws).ok("GET", f"{ALL}/{ws}")
    await here.user(bob, ws).ok("GET", f"{ALL}/{ws}")

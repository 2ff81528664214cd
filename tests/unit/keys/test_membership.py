"""Members: granted, changed and taken away by who has at least that role, and never without an owner left."""

from itertools import pairwise
from typing import Any

import pytest

from keyledger.errors import Refusal
from keyledger.events import MemberAdded, MemberChanged, MemberRemoved, WorkspaceDeleted
from services.keys.domain import membership
from services.keys.domain import workspace as workspaces
from services.keys.domain.membership import MAX_MEMBERS, MemberCommand, PutMember, RemoveMember
from services.keys.domain.principal import KEYS_READ, KEYS_WRITE, USAGE_READ, WORKSPACE_WRITE, Principal
from services.keys.domain.roles import ROLES, Member, rank, scopes_of
from services.keys.domain.workspace import ChangeWorkspace, CreateWorkspace, Workspace
from tests.support.spec import NOW, Decider
from tests.unit.keys.examples import MANAGER, OPERATOR, READER, WS, workspace_created, workspace_spec

OWNER, SECOND, ADMIN, MEMBER, VIEWER, NOBODY = (f"user_{digit * 22}" for digit in "123456")
EVERY_SCOPE = Principal(
    "key_" + "5" * 22, WS, frozenset({KEYS_READ, KEYS_WRITE, WORKSPACE_WRITE, USAGE_READ})
)


def _decide(command: MemberCommand, workspace: Workspace | None, _: int, /) -> list[Any]:
    return [*membership.decide(command, workspace)]


spec: Decider[MemberCommand, Workspace, Any] = Decider(_decide, workspaces.evolve, workspace_spec.context)
STAFF = (
    workspace_created(),
    MemberAdded(OWNER, "owner"),
    MemberAdded(ADMIN, "admin"),
    MemberAdded(MEMBER, "member"),
    MemberAdded(VIEWER, "viewer"),
)
ROLE_OF = {OWNER: "owner", ADMIN: "admin", MEMBER: "member", VIEWER: "viewer"}


def user(name: str) -> Principal:
    """A signed-in user with the scopes of their role."""
    return Principal(name, WS, scopes_of(ROLE_OF.get(name)))


def put(by: Principal, who: str, role: str, **more: Any) -> PutMember:
    return PutMember(by, who, role, **more)


def test_each_role_may_do_what_those_before_it_may() -> None:
    scopes = [scopes_of(role) for role in ROLES]
    assert all(less <= more for less, more in pairwise(scopes))
    assert scopes[0] == {KEYS_READ, USAGE_READ}
    assert scopes[1] - scopes[0] == {KEYS_WRITE}
    assert scopes[2] - scopes[1] == {WORKSPACE_WRITE}
    assert scopes[3] == scopes[2]
    assert [rank(role) for role in ROLES] == [0, 1, 2, 3]


@pytest.mark.parametrize("role", ["auditor", "", None, "Owner"])
def test_a_role_that_is_not_known_grants_nothing(role: str | None) -> None:
    assert scopes_of(role) == frozenset()


def test_who_makes_a_workspace_owns_it() -> None:
    by = Principal(OWNER, "", frozenset())
    decider = Decider(workspace_spec.decide, workspaces.evolve, workspace_spec.context)
    decider.context = type(decider.context)(WS, WS, OWNER, 0)
    state = (
        decider.given()
        .when(CreateWorkspace(by, "Acme"))
        .then(
            workspace_created(rate_limit=workspaces.DEFAULT_RATE_LIMIT),
            MemberAdded(OWNER, "owner"),
        )
    )
    assert state.members == {OWNER: Member("owner", NOW, OWNER, 2)}
    assert state.version == 2


def test_a_user_sets_no_limit_and_makes_no_system_workspace() -> None:
    by = Principal(OWNER, "", frozenset())
    command = CreateWorkspace(by, "Acme", workspaces.DEFAULT_RATE_LIMIT)
    workspace_spec.given().when(command).then_raises("insufficient_permissions", field="rate_limit")


@pytest.mark.parametrize("fields", [{"suspended": True}, {"rate_limit": workspaces.DEFAULT_RATE_LIMIT}])
def test_an_owner_is_no_operator(fields: dict[str, Any]) -> None:
    command = ChangeWorkspace(user(OWNER), **fields)
    workspace_spec.given(*STAFF).when(command).then_raises(
        "insufficient_permissions", field=next(iter(fields))
    )


@pytest.mark.parametrize("by", [*ROLE_OF, NOBODY])
@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_granted_only_by_who_has_at_least_that_role(by: str, role: str) -> None:
    command = put(user(by), NOBODY if by != NOBODY else SECOND, role)
    when = spec.given(*STAFF).when(command)
    if by == NOBODY:
        when.then_raises("not_found")
    elif by in (MEMBER, VIEWER):
        when.then_raises("insufficient_permissions")
    elif rank(role) > rank(ROLE_OF[by]):
        when.then_raises("insufficient_permissions", field="role")
    else:
        state = when.then(MemberAdded(NOBODY, role))
        assert state.members[NOBODY].role == role


def test_an_admin_neither_changes_nor_removes_an_owner() -> None:
    given = spec.given(*STAFF, MemberAdded(SECOND, "owner"))
    given.when(put(user(ADMIN), SECOND, "viewer")).then_raises("insufficient_permissions")
    given.when(RemoveMember(user(ADMIN), SECOND)).then_raises("insufficient_permissions")
    given.when(RemoveMember(user(ADMIN), MEMBER)).then(MemberRemoved(MEMBER))
    given.when(RemoveMember(user(OWNER), SECOND)).then(MemberRemoved(SECOND))


@pytest.mark.parametrize("who", [MEMBER, VIEWER])
def test_who_may_not_write_the_workspace_removes_nobody_but_leaves(who: str) -> None:
    given = spec.given(*STAFF)
    given.when(RemoveMember(user(who), ADMIN)).then_raises("insufficient_permissions")
    given.when(put(user(who), who, "owner")).then_raises("insufficient_permissions")
    state = given.when(RemoveMember(user(who), who)).then(MemberRemoved(who))
    assert who not in state.members


@pytest.mark.parametrize("by", [OPERATOR, user(OWNER)])
def test_the_last_owner_is_neither_removed_nor_demoted_nor_leaves(by: Principal) -> None:
    given = spec.given(*STAFF)
    given.when(RemoveMember(by, OWNER)).then_raises("conflict")
    given.when(put(by, OWNER, "admin")).then_raises("conflict")
    given.when(put(by, OWNER, "owner")).then_nothing()


def test_of_two_owners_one_may_go_and_the_other_stays() -> None:
    given = spec.given(*STAFF, MemberAdded(SECOND, "owner"))
    state = given.when(put(user(OWNER), OWNER, "viewer")).then(MemberChanged(OWNER, "viewer"))
    assert state.members[OWNER].role == "viewer"
    left = spec.given(*STAFF, MemberAdded(SECOND, "owner"), MemberChanged(OWNER, "viewer"))
    left.when(RemoveMember(OPERATOR, SECOND)).then_raises("conflict")


def test_a_change_keeps_since_when_and_by_whom_somebody_is_a_member() -> None:
    given = spec.given(*STAFF)
    assert given.state is not None
    before = given.state.members[VIEWER]
    state = given.when(put(user(ADMIN), VIEWER, "admin")).then(MemberChanged(VIEWER, "admin"))
    assert state.members[VIEWER] == Member("admin", before.since, before.added_by, before.added)
    assert state.version == len(STAFF) + 1


def test_who_is_removed_and_added_again_is_a_member_since_then() -> None:
    state = (
        spec.given(*STAFF, MemberRemoved(VIEWER))
        .when(put(user(OWNER), VIEWER, "member"))
        .then(MemberAdded(VIEWER, "member"))
    )
    assert (state.members[VIEWER].since, state.members[VIEWER].added) == (NOW, len(STAFF) + 2)


def test_a_stranger_is_nobody_to_remove() -> None:
    spec.given(*STAFF).when(RemoveMember(user(OWNER), NOBODY)).then_raises("not_found")
    spec.given(*STAFF).when(RemoveMember(user(NOBODY), NOBODY)).then_raises("not_found")


def test_a_management_key_counts_as_an_admin_but_gives_nothing_that_it_lacks() -> None:
    given = spec.given(*STAFF)
    given.when(put(EVERY_SCOPE, NOBODY, "admin")).then(MemberAdded(NOBODY, "admin"))
    given.when(put(EVERY_SCOPE, NOBODY, "owner")).then_raises("insufficient_permissions", field="role")
    # it may write keys and the workspace, and not read them
    given.when(put(MANAGER, NOBODY, "viewer")).then_raises("insufficient_permissions", field="scopes")
    given.when(RemoveMember(MANAGER, VIEWER)).then(MemberRemoved(VIEWER))
    given.when(RemoveMember(MANAGER, OWNER)).then_raises("insufficient_permissions")
    given.when(put(READER, NOBODY, "viewer")).then_raises("insufficient_permissions")


def test_an_operator_counts_as_an_owner() -> None:
    spec.given(workspace_created()).when(put(OPERATOR, OWNER, "owner")).then(MemberAdded(OWNER, "owner"))


@pytest.mark.parametrize("role", ["", "auditor", "Owner"])
def test_a_word_that_is_no_role_is_refused(role: str) -> None:
    spec.given(*STAFF).when(put(user(OWNER), NOBODY, role)).then_raises("invalid_request", field="role")


def test_a_role_of_the_future_is_changed_by_owners_alone_and_lets_nobody_act() -> None:
    given = spec.given(*STAFF, MemberAdded(SECOND, "auditor"))
    given.when(put(user(ADMIN), SECOND, "viewer")).then_raises("insufficient_permissions")
    given.when(put(user(OWNER), SECOND, "viewer")).then(MemberChanged(SECOND, "viewer"))
    given.when(put(user(SECOND), NOBODY, "viewer")).then_raises("insufficient_permissions")
    given.when(RemoveMember(user(SECOND), SECOND)).then(MemberRemoved(SECOND))


def test_another_version_is_refused_before_anything_changes() -> None:
    given = spec.given(*STAFF)
    given.when(put(user(OWNER), VIEWER, "admin", if_match=1)).then_raises(
        "precondition_failed", field="If-Match"
    )
    given.when(RemoveMember(user(OWNER), VIEWER, 1)).then_raises("precondition_failed", field="If-Match")
    given.when(put(user(OWNER), VIEWER, "admin", if_match=len(STAFF))).then(MemberChanged(VIEWER, "admin"))


def test_the_system_workspace_has_no_members() -> None:
    spec.given(workspace_created(system=True)).when(put(OPERATOR, OWNER, "owner")).then_raises("conflict")


def test_a_deleted_workspace_has_none_either() -> None:
    given = spec.given(*STAFF, WorkspaceDeleted())
    assert given.state is not None
    assert given.state.members == {}
    given.when(put(OPERATOR, OWNER, "owner")).then_raises("not_found")
    with pytest.raises(Refusal):
        membership.decide(RemoveMember(OPERATOR, OWNER), None)


def test_members_are_bounded_and_who_is_one_already_may_be_changed() -> None:
    many = [MemberAdded(f"user_{number:022}", "viewer") for number in range(MAX_MEMBERS - 1)]
    given = spec.given(workspace_created(), MemberAdded(OWNER, "owner"), *many)
    given.when(put(user(OWNER), NOBODY, "viewer")).then_raises("conflict")
    given.when(put(user(OWNER), many[0].user, "admin")).then(MemberChanged(many[0].user, "admin"))

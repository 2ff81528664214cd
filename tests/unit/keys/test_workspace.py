"""Workspaces: made by operators, renamed by their own managers, limited and suspended by operators alone."""

from typing import Any

import pytest
from msgspec import UNSET

from keyledger.events import Quota, RateLimit, WorkspaceChanged, WorkspaceCreated, WorkspaceDeleted
from services.keys.domain.principal import KEYS_WRITE, Principal
from services.keys.domain.workspace import (
    ChangeWorkspace,
    CreateWorkspace,
    DeleteWorkspace,
    Workspace,
)
from tests.support.spec import NOW
from tests.unit.keys.examples import (
    LIMIT,
    MANAGER,
    OPERATOR,
    READER,
    WS,
    workspace_changed,
    workspace_created,
    workspace_spec,
)


def change(**fields: Any) -> ChangeWorkspace:
    plain: dict[str, Any] = {"by": OPERATOR}
    return ChangeWorkspace(**(plain | fields))


def test_a_workspace_always_has_a_rate_limit() -> None:
    event = workspace_created(rate_limit=RateLimit(1000, 60))
    state = workspace_spec.given().when(CreateWorkspace(by=OPERATOR, name="Acme")).then(event)
    assert state == Workspace(id=WS, name="Acme", rate_limit=RateLimit(1000, 60), created_at=NOW, version=1)


def test_the_system_workspace_is_recorded_as_such() -> None:
    command = CreateWorkspace(by=OPERATOR, name="System", rate_limit=LIMIT, system=True)
    state = workspace_spec.given().when(command).then(workspace_created(name="System", system=True))
    assert state.system


@pytest.mark.parametrize("by", [MANAGER, READER])
def test_only_operators_make_workspaces(by: Principal) -> None:
    command = CreateWorkspace(by=by, name="")
    workspace_spec.given().when(command).then_raises("insufficient_permissions")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": "\t"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "A", "rate_limit": RateLimit(0, 60)}, "rate_limit.limit"),
        ({"name": "A", "rate_limit": RateLimit(1, 7)}, "rate_limit.window_seconds"),
    ],
)
def test_a_bad_value_of_a_new_workspace_is_refused_naming_its_field(
    fields: dict[str, Any], named: str
) -> None:
    command = CreateWorkspace(by=OPERATOR, **fields)
    workspace_spec.given().when(command).then_raises("invalid_request", field=named)


def test_a_manager_renames_its_workspace() -> None:
    command = change(by=MANAGER, name="New")
    state = workspace_spec.given(workspace_created()).when(command).then(workspace_changed(name="New"))
    assert (state.name, state.version, state.rate_limit) == ("New", 2, LIMIT)


def test_an_operator_changes_everything_at_once_in_one_event() -> None:
    command = change(name="New", rate_limit=RateLimit(1, 60), suspended=True)
    event = workspace_changed(name="New", rate_limit=RateLimit(1, 60), suspended=True)
    state = workspace_spec.given(workspace_created()).when(command).then(event)
    assert (state.name, state.rate_limit, state.suspended) == ("New", RateLimit(1, 60), True)


def test_only_what_differs_is_recorded() -> None:
    given = workspace_spec.given(workspace_created())
    given.when(change(name="Acme", suspended=True)).then(workspace_changed(suspended=True))
    given.when(change(name="Acme", rate_limit=LIMIT, suspended=False)).then_nothing()
    given.when(change()).then_nothing()


def test_a_suspension_can_be_lifted() -> None:
    given = workspace_spec.given(workspace_created(), workspace_changed(suspended=True))
    state = given.when(change(suspended=False, if_match=2)).then(workspace_changed(suspended=False))
    assert not state.suspended


def test_a_quota_is_set_and_cleared() -> None:
    given = workspace_spec.given(workspace_created())
    state = given.when(change(quota=Quota(9, "month"))).then(workspace_changed(quota=Quota(9, "month")))
    assert state.quota == Quota(9, "month")
    given = workspace_spec.given(workspace_created(), workspace_changed(quota=Quota(9, "month")))
    assert given.when(change(quota=None)).then(workspace_changed(quota=None)).quota is None
    given.when(change(quota=Quota(9, "month"))).then_nothing()


@pytest.mark.parametrize("limit", [0, 1_000_000_001])
def test_a_quota_of_nothing_is_refused(limit: int) -> None:
    command = change(quota=Quota(limit, "day"))
    workspace_spec.given(workspace_created()).when(command).then_raises(
        "invalid_request", field="quota.limit"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rate_limit", RateLimit(5, 60)),
        ("rate_limit", LIMIT),
        ("suspended", True),
        ("suspended", False),
        ("quota", Quota(5, "day")),
        ("quota", None),
    ],
)
def test_what_belongs_to_operators_is_refused_to_others_naming_the_field(field: str, value: Any) -> None:
    """Even when the value would change nothing, and before the rest of the body is looked at."""
    command = change(by=MANAGER, name="", **{field: value})
    workspace_spec.given(workspace_created()).when(command).then_raises(
        "insufficient_permissions", field=field
    )


def test_renaming_needs_the_scope_for_it() -> None:
    by = Principal(MANAGER.actor, WS, frozenset({KEYS_WRITE, "*"}))
    command = change(by=by, name="New")
    workspace_spec.given(workspace_created()).when(command).then_raises("insufficient_permissions")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": "x\x00"}, "name"),
        ({"rate_limit": RateLimit(0, 60)}, "rate_limit.limit"),
        ({"rate_limit": RateLimit(1, 7)}, "rate_limit.window_seconds"),
    ],
)
def test_a_bad_value_is_refused_before_the_version_is_looked_at(fields: dict[str, Any], named: str) -> None:
    command = change(**fields, if_match=99)
    workspace_spec.given(workspace_created()).when(command).then_raises("invalid_request", field=named)


def test_another_version_than_the_current_one_fails_even_when_nothing_would_change() -> None:
    given = workspace_spec.given(workspace_created())
    given.when(change(name="Acme", if_match=2)).then_raises("precondition_failed", field="If-Match")


def test_an_unknown_workspace_is_not_found() -> None:
    workspace_spec.given().when(change(by=READER, suspended=True)).then_raises("not_found")


def test_a_workspace_whose_text_is_shredded_still_folds() -> None:
    """After its data key is destroyed the private part is None; before it is opened, bytes."""
    for private in (None, b"ciphertext"):
        past = (
            WorkspaceCreated(LIMIT, private=private),
            WorkspaceChanged(suspended=True, private=private),
        )
        state = workspace_spec.given(*past).state
        assert state is not None
        assert (state.name, state.rate_limit, state.suspended, state.version) == ("", LIMIT, True, 2)


def test_what_is_unset_is_not_a_wish() -> None:
    command = change(by=MANAGER, name="Acme", rate_limit=UNSET, suspended=UNSET)
    workspace_spec.given(workspace_created()).when(command).then_nothing()


def test_an_operator_deletes_and_what_is_left_names_nobody() -> None:
    state = (
        workspace_spec.given(workspace_created()).when(DeleteWorkspace(by=OPERATOR)).then(WorkspaceDeleted())
    )
    assert (state.deleted, state.name, state.version) == (True, "", 2)


@pytest.mark.parametrize("by", [MANAGER, READER])
def test_only_operators_delete_workspaces(by: Principal) -> None:
    workspace_spec.given(workspace_created()).when(DeleteWorkspace(by=by)).then_raises(
        "insufficient_permissions"
    )


def test_a_deletion_that_means_another_version_is_refused() -> None:
    past = workspace_spec.given(workspace_created(), workspace_changed(suspended=True))
    past.when(DeleteWorkspace(by=OPERATOR, if_match=1)).then_raises("precondition_failed", field="If-Match")
    past.when(DeleteWorkspace(by=OPERATOR, if_match=2)).then(WorkspaceDeleted())


def test_the_system_workspace_cannot_be_deleted() -> None:
    past = workspace_spec.given(workspace_created(system=True))
    past.when(DeleteWorkspace(by=OPERATOR)).then_raises("conflict")


def test_what_is_deleted_or_never_was_is_not_there() -> None:
    deleted = workspace_spec.given(workspace_created(), WorkspaceDeleted())
    for past in (deleted, workspace_spec.given()):
        past.when(DeleteWorkspace(by=OPERATOR)).then_raises("not_found")
        past.when(change(suspended=True)).then_raises("not_found")

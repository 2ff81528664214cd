"""What the scopes of a credential let its holder do."""

from collections.abc import Callable

import pytest

from keyledger.errors import Refusal
from services.keys.domain.principal import ADMIN, KEYS_READ, KEYS_WRITE, PROVE, Principal
from tests.unit.keys.examples import MANAGER, OPERATOR, OTHER_WS, READER, WS


def refused(call: Callable[[], None]) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as caught:
        call()
    return caught.value.code, caught.value.field


def test_a_principal_enters_its_own_workspace_only() -> None:
    MANAGER.enter(WS)
    assert refused(lambda: MANAGER.enter(OTHER_WS)) == ("not_found", None)
    assert refused(lambda: MANAGER.enter("")) == ("not_found", None)


def test_an_operator_enters_every_workspace() -> None:
    OPERATOR.enter(WS)
    OPERATOR.enter(OTHER_WS)


def test_a_needed_scope_is_held_by_name_or_by_an_operator() -> None:
    MANAGER.need(KEYS_WRITE)
    OPERATOR.need(KEYS_WRITE)
    assert refused(lambda: MANAGER.need(KEYS_READ)) == ("insufficient_permissions", None)
    assert refused(lambda: READER.need(KEYS_READ)) == ("insufficient_permissions", None)


def test_a_credential_that_manages_nothing_is_refused() -> None:
    MANAGER.need_any()
    Principal("a", WS, frozenset({PROVE})).need_any()
    assert refused(READER.need_any) == ("insufficient_permissions", None)
    assert refused(Principal("a", WS, frozenset()).need_any) == ("insufficient_permissions", None)


def test_an_operators_work_is_refused_to_others_naming_the_field_if_there_is_one() -> None:
    OPERATOR.need_admin("suspended")
    assert refused(MANAGER.need_admin) == ("insufficient_permissions", None)
    assert refused(lambda: MANAGER.need_admin("suspended")) == ("insufficient_permissions", "suspended")


def test_a_list_of_scopes_is_covered_when_each_management_scope_in_it_is_held() -> None:
    MANAGER.covers(("*", "contacts:read"), (KEYS_WRITE,), ())
    OPERATOR.covers((ADMIN, PROVE))
    assert refused(lambda: MANAGER.covers(("*",), (KEYS_WRITE, KEYS_READ))) == (
        "insufficient_permissions",
        "scopes",
    )
    assert refused(lambda: READER.covers((KEYS_WRITE,)))[0] == "insufficient_permissions"


def test_the_word_admin_alone_makes_no_operator() -> None:
    assert not Principal("a", WS, frozenset({"admin", "keyledger:admin:not", "*"})).admin
    assert OPERATOR.admin

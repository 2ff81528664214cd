"""What a person may write: the edges of each value."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyledger.errors import Refusal
from services.keys.domain import values

calm = settings(deadline=None)


@calm
@given(st.text(max_size=220))
def test_a_name_is_taken_as_it_is_or_refused_naming_it(value: str) -> None:
    blank = not value.strip()
    control = any(character < " " or "\x7f" <= character <= "\x9f" for character in value)
    if 1 <= len(value) <= 200 and not blank and not control:
        assert values.name(value) == value
    else:
        with pytest.raises(Refusal) as caught:
            values.name(value, "other")
        assert (caught.value.code, caught.value.field) == ("invalid_request", "other")


@pytest.mark.parametrize("scope", ["*", "0", "a:b.c_d-e", "x" * 64, "keyledger", "keyledger.x"])
def test_a_scope_in_the_documented_alphabet_is_taken(scope: str) -> None:
    assert values.scopes([scope], system=False) == (scope,)


def test_no_scope_at_all_is_a_choice() -> None:
    assert values.scopes([], system=False) == ()


def test_every_management_scope_of_a_workspace_is_taken_anywhere() -> None:
    every = sorted(values.WORKSPACE_SCOPES)
    assert values.scopes(every, system=False) == tuple(every)
    assert values.scopes(sorted(values.SYSTEM_SCOPES), system=True) == tuple(sorted(values.SYSTEM_SCOPES))


def test_the_reserved_scopes_are_those_that_begin_like_it() -> None:
    assert values.reserved(["*", "keyledger", "keyledger:keys:read", "x:keyledger:"]) == {
        "keyledger:keys:read"
    }


@pytest.mark.parametrize("value", ["0.0.0.0/0", "::/0", "192.0.2.1", "192.0.2.1/32", "::ffff:192.0.2.1"])
def test_addresses_and_blocks_are_kept_as_given(value: str) -> None:
    assert values.networks([value]) == (value,)


@pytest.mark.parametrize(
    "value", ["192.0.2.1/", "192.0.2.0/ 24", "192.0.2.0/+24", " 192.0.2.1", "1/8", "٣.0.0.0"]
)
def test_what_only_looks_like_an_address_is_refused(value: str) -> None:
    with pytest.raises(Refusal) as caught:
        values.networks(["10.0.0.1", value])
    assert caught.value.field == "allowed_ips"


def test_metadata_fits_by_number_and_by_bytes_as_json() -> None:
    fifty = {str(number): "v" for number in range(50)}
    assert values.metadata(fifty) == fifty
    exact = {"k": "x" * (4096 - len(msgspec.json.encode({"k": ""})))}
    assert values.metadata(exact) == exact
    with pytest.raises(Refusal):
        values.metadata({"k": exact["k"] + "x"})
    with pytest.raises(Refusal):
        values.metadata({"k": "é" * 2100})


def test_metadata_may_hold_lines_in_its_values_and_not_in_its_names() -> None:
    assert values.metadata({"k": "a\n\tb"}) == {"k": "a\n\tb"}
    with pytest.raises(Refusal) as caught:
        values.metadata({"a\nb": ""})
    assert caught.value.field == "metadata"


def test_metadata_is_copied_so_that_nobody_changes_it_afterwards() -> None:
    mine = {"k": "v"}
    kept = values.metadata(mine)
    mine["k"] = "other"
    assert kept == {"k": "v"}


def test_a_long_wrong_address_is_not_repeated_whole() -> None:
    with pytest.raises(Refusal) as caught:
        values.networks(["x" * 5000])
    assert len(caught.value.message) < 200

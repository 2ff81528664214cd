"""Groups, and the cursor that belongs to one question only."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyledger.errors import Refusal
from services.usage.domain.period import SIZES, Period
from services.usage.domain.series import Mark, fingerprint, groups_of, read_cursor, write_cursor

ASKED = fingerprint("ws_1", None, None, None, "hour", "")
PERIOD = Period(0, 10 * SIZES["hour"] + 5, "hour")


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        (None, ()),
        ("key", ("key",)),
        ("environment,outcome,key", ("key", "outcome", "environment")),
        ("outcome, outcome", ("outcome",)),
    ],
)
def test_groups_come_in_one_order(text: str | None, groups: tuple[str, ...]) -> None:
    assert groups_of(text) == groups


@pytest.mark.parametrize("text", ["", "key,", "workspace", "Key", "key;outcome"])
def test_an_unknown_group_is_refused_by_name(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        groups_of(text)
    assert (caught.value.code, caught.value.field) == ("invalid_request", "group_by")


@given(st.builds(Mark, st.integers(-(2**61), 2**61), *[st.text("kéy_1Z", max_size=40)] * 3))
def test_a_cursor_is_url_safe_and_comes_back(mark: Mark) -> None:
    cursor = write_cursor(ASKED, PERIOD, mark)
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert read_cursor(cursor, ASKED) == (PERIOD, mark)


@pytest.mark.parametrize(
    "other",
    [
        ("ws_2", None, None, None, "hour", ""),
        ("ws_1", "key_1", None, None, "hour", ""),
        ("ws_1", None, "x", None, "hour", ""),
        ("ws_1", None, None, "x", "hour", ""),
        ("ws_1", None, None, None, "day", ""),
        ("ws_1", None, None, None, "hour", "key"),
    ],
)
def test_a_cursor_belongs_to_its_question(other: tuple[str | None, ...]) -> None:
    with pytest.raises(Refusal) as caught:
        read_cursor(write_cursor(ASKED, PERIOD, Mark(0)), fingerprint(*other))
    assert (caught.value.code, caught.value.field) == ("invalid_request", "cursor")


@given(
    st.one_of(
        st.text(max_size=60), st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
    )
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Refusal):
        read_cursor(text, ASKED)


@pytest.mark.parametrize(
    "cursor",
    [
        "A" * 5000,
        write_cursor(ASKED, PERIOD, Mark(2**63 - 1)),
        write_cursor(ASKED, PERIOD, Mark(0, "a\0b")),
        write_cursor(ASKED, Period(1, 2, "hour"), Mark(0)),
        write_cursor(ASKED, Period(0, 2**63 - 1, "hour"), Mark(0)),
    ],
)
def test_what_the_store_cannot_take_is_refused_before_it(cursor: str) -> None:
    with pytest.raises(Refusal):
        read_cursor(cursor, ASKED)

"""Cursors: opaque, URL-safe, and good only for the list they were made for."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyledger.errors import Refusal
from keyledger.server.seal import Sealer
from services.keys.routes.cursors import Cursors

CURSORS = Cursors(Sealer(b"s" * 32))
URL_SAFE = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
calm = settings(deadline=None)
positions = st.integers(0, 2**63 - 1)
bounds = st.lists(st.none() | st.text(max_size=5), max_size=4)


def refused(cursor: str, *bound: str | None, cursors: Cursors = CURSORS) -> bool:
    try:
        cursors.read(cursor, *bound)
    except Refusal as refusal:
        assert (refusal.code, refusal.field) == ("invalid_request", "cursor")
        return True
    return False


@calm
@given(positions, bounds)
def test_a_cursor_leads_back_to_its_position(position: int, bound: list[str | None]) -> None:
    cursor = CURSORS.make(position, *bound)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)
    assert CURSORS.read(cursor, *bound) == position


@calm
@given(positions, bounds, bounds)
def test_a_cursor_is_refused_by_another_list(
    position: int, mine: list[str | None], other: list[str | None]
) -> None:
    assert refused(CURSORS.make(position, *mine), *other) is (mine != other)


@calm
@given(positions, st.data())
def test_a_changed_cursor_is_refused(position: int, data: st.DataObject) -> None:
    cursor = CURSORS.make(position, "ws")
    where = data.draw(st.integers(0, len(cursor) - 1))
    other = data.draw(st.sampled_from([letter for letter in URL_SAFE if letter != cursor[where]]))
    assert refused(cursor[:where] + other + cursor[where + 1 :], "ws")


@pytest.mark.parametrize("cursor", ["", "=", "a", "é", "AAAA", "!" * 32, "A" * 32, "A" * 33, "A" * 5000])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    assert refused(cursor, "ws")


def test_a_cursor_of_another_installation_is_refused() -> None:
    assert refused(CURSORS.make(7, "ws"), "ws", cursors=Cursors(Sealer(b"t" * 32)))


def test_an_absent_filter_is_not_an_empty_one() -> None:
    assert refused(CURSORS.make(7, None), "")
    assert refused(CURSORS.make(7, "a", "b"), "ab")


def test_no_cursor_is_the_beginning() -> None:
    assert CURSORS.read(None, "ws") is None

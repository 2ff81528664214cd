"""The key format: minting and parsing are each other's inverse, and no typo gets through."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyledger.token import (
    ALPHABET,
    TOKEN_PATTERN,
    Secret,
    Token,
    Unparsed,
    base62,
    base62_value,
    checksum,
    hint,
    is_id,
    is_prefix,
    mint,
    parse,
)

calm = settings(deadline=None)
prefixes = st.from_regex(r"[a-z][a-z0-9]{1,15}", fullmatch=True)
environments = st.sampled_from(("live", "test"))
ids = st.integers(0, 2**128 - 1).map(lambda number: "key_" + base62(number, 22))
secrets = st.text(ALPHABET, min_size=32, max_size=32)


@calm
@given(prefixes, environments, ids, secrets)
def test_what_is_minted_is_parsed(prefix: str, environment: str, key_id: str, secret: str) -> None:
    text = mint(prefix, environment, key_id, secret).reveal()
    assert parse(text, (prefix,)) == Token(text, environment, key_id)
    assert parse(text, ("older", prefix)) == Token(text, environment, key_id)
    assert re.fullmatch(TOKEN_PATTERN, text)
    assert len(text.rsplit("_", 1)[1]) == 60


@calm
@given(prefixes, environments, ids, secrets, st.data())
def test_a_token_with_one_other_character_is_no_token(
    prefix: str, environment: str, key_id: str, secret: str, data: st.DataObject
) -> None:
    text = mint(prefix, environment, key_id, secret).reveal()
    where = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(
        (st.sampled_from(string.printable) | st.characters()).filter(lambda c: c != text[where])
    )
    assert isinstance(parse(text[:where] + other + text[where + 1 :], (prefix,)), Unparsed)


@calm
@given(ids, secrets, st.data())
def test_a_token_with_a_character_more_or_less_is_malformed(
    key_id: str, secret: str, data: st.DataObject
) -> None:
    text = mint("cvtk", "live", key_id, secret).reveal()
    where = data.draw(st.integers(len("cvtk_live_"), len(text) - 1))
    assert parse(text[:where] + text[where + 1 :]) is Unparsed.MALFORMED
    more = data.draw(st.sampled_from(ALPHABET + " \n"))
    assert parse(text[:where] + more + text[where:]) is Unparsed.MALFORMED
    assert parse(text + more) is Unparsed.MALFORMED


@calm
@given(ids, secrets, st.integers(0, 58))
def test_two_neighbours_that_change_places_are_noticed(key_id: str, secret: str, where: int) -> None:
    text = mint("cvtk", "live", key_id, secret).reveal()
    at = len("cvtk_live_") + where
    swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    assert swapped == text or parse(swapped) is Unparsed.MALFORMED


@calm
@given(st.text(max_size=600))
def test_any_text_is_told_apart_without_an_error(text: str) -> None:
    outcome = parse(text)
    if len(text) > 512:
        assert outcome is Unparsed.MALFORMED
    elif not text.startswith("cvtk_"):
        assert outcome is Unparsed.FOREIGN
    else:
        assert outcome is Unparsed.MALFORMED


@pytest.mark.parametrize("text", ["\ud800", "sk_\udfff", "cvtk_live_" + "\ud800" * 60, "cvtk_live_\ud800"])
def test_half_of_a_surrogate_pair_is_in_no_token(text: str) -> None:
    assert parse(text) is Unparsed.MALFORMED


@calm
@given(st.integers(0, 2**200), st.integers(0, 40))
def test_base62_leads_back_to_the_number(value: int, length: int) -> None:
    if value >= 62**length:
        with pytest.raises(ValueError, match="does not fit"):
            base62(value, length)
    else:
        text = base62(value, length)
        assert len(text) == length
        assert base62_value(text) == value


@given(st.integers(0, 62**6 - 1), st.integers(0, 62**6 - 1))
def test_base62_sorts_as_the_numbers_do(one: int, other: int) -> None:
    assert (base62(one, 6) < base62(other, 6)) is (one < other)


@pytest.mark.parametrize("text", ["-", "é", "a_b", " 1"])
def test_a_foreign_character_is_no_digit(text: str) -> None:
    with pytest.raises(KeyError):
        base62_value(text)


@given(ids)
def test_an_id_is_of_its_own_kind_only(key_id: str) -> None:
    assert is_id(key_id, "key")
    assert not is_id(key_id, "ws")
    assert is_id("ws_" + key_id.removeprefix("key_"), "ws")
    assert not is_id(key_id + "0", "key")
    assert not is_id(key_id[:-1], "key")
    assert not is_id(key_id[:-1] + "-", "key")


def test_an_id_is_at_most_a_uuid() -> None:
    assert is_id("key_" + base62(2**128 - 1, 22), "key")
    assert not is_id("key_" + base62(2**128, 22), "key")


@pytest.mark.parametrize("prefix", ["ab", "cvtk", "a1", "a" * 16])
def test_a_prefix_is_two_to_sixteen_lower_case_characters(prefix: str) -> None:
    assert is_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "a", "1a", "Ab", "a_b", "a-b", "a" * 17, "ab\n", "ä1"])
def test_anything_else_is_no_prefix(prefix: str) -> None:
    assert not is_prefix(prefix)


def test_a_token_of_an_old_prefix_counts_only_while_it_is_accepted() -> None:
    text = mint("old", "test", "key_" + "0" * 22, "x" * 32).reveal()
    assert isinstance(parse(text, ("cvtk", "old")), Token)
    assert parse(text, ("cvtk",)) is Unparsed.FOREIGN


def test_a_hint_shows_the_head_and_four_characters() -> None:
    token = mint("cvtk", "live", "key_" + "0" * 22, "x" * 32)
    assert hint(token) == f"cvtk_live_…{checksum(token.reveal()[:-6])[-4:]}"


def test_a_secret_shows_itself_only_when_it_is_asked_to() -> None:
    secret = Secret("the-text")
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{[secret]}"):
        assert "the-text" not in shown
    assert secret.reveal() == "the-text"
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize(
    ("environment", "secret"),
    [
        ("prod", "x" * 32),
        ("LIVE", "x" * 32),
        ("", "x" * 32),
        ("live", "x" * 31 + "-"),
        ("live", "x" * 31 + "é"),
    ],
)
def test_a_right_checksum_makes_no_token_of_a_wrong_shape(environment: str, secret: str) -> None:
    text = mint("cvtk", environment, "key_" + "0" * 22, secret).reveal()
    assert parse(text) is Unparsed.MALFORMED

"""Sealing: what is sealed opens under its own key, at its own place, unchanged, and not otherwise."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyledger.server.seal import SealBroken, Sealer, open_text, seal_text

SEALER, OTHER = Sealer(b"s" * 32), Sealer(b"t" * 32)
KEY, PLACE = b"k" * 32, b"key_a\n1\nkey_created"
calm = settings(deadline=None)


def broken(call: Callable[[], bytes]) -> bool:
    try:
        call()
    except SealBroken as error:
        assert "secret" not in str(error)
        return True
    return False


@calm
@given(st.binary(max_size=300), st.binary(max_size=40))
def test_a_text_opens_where_it_was_sealed(plain: bytes, place: bytes) -> None:
    sealed = seal_text(KEY, plain, place)
    assert open_text(KEY, sealed, place) == plain
    assert len(plain) < 4 or plain not in sealed
    assert seal_text(KEY, plain, place) != sealed, "a nonce is used once"


def test_a_text_opens_nowhere_else_and_under_no_other_key() -> None:
    sealed = seal_text(KEY, b"plain", PLACE)
    assert broken(lambda: open_text(KEY, sealed, b"key_a\n2\nkey_created"))
    assert broken(lambda: open_text(KEY, sealed, b""))
    assert broken(lambda: open_text(b"l" * 32, sealed, PLACE))


@calm
@given(st.data())
def test_a_text_with_one_other_bit_does_not_open(data: st.DataObject) -> None:
    sealed = seal_text(KEY, b"plain", PLACE)
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    changed = bytearray(sealed)
    changed[bit // 8] ^= 1 << bit % 8
    assert broken(lambda: open_text(KEY, bytes(changed), PLACE))


@pytest.mark.parametrize("length", [0, 1, 11, 12, 27])
def test_what_is_too_short_does_not_open(length: int) -> None:
    assert broken(lambda: open_text(KEY, bytes(length), PLACE))
    assert broken(lambda: SEALER.unwrap("ws_a", bytes(length)))
    assert broken(lambda: SEALER.open_answer("key", bytes(length), PLACE))


def test_a_data_key_is_its_workspaces_and_its_installations_own() -> None:
    key, wrapped = SEALER.new_data_key("ws_a")
    assert len(key) == 32
    assert key not in wrapped
    assert SEALER.unwrap("ws_a", wrapped) == key
    assert Sealer(b"s" * 32).unwrap("ws_a", wrapped) == key
    assert broken(lambda: SEALER.unwrap("ws_b", wrapped))
    assert broken(lambda: OTHER.unwrap("ws_a", wrapped))
    assert SEALER.new_data_key("ws_a")[0] != key


def test_an_answer_opens_only_for_the_holder_of_its_key() -> None:
    sealed = SEALER.seal_answer("order-1", b"the answer", b"place")
    assert SEALER.open_answer("order-1", sealed, b"place") == b"the answer"
    assert broken(lambda: SEALER.open_answer("order-2", sealed, b"place"))
    assert broken(lambda: SEALER.open_answer("order-1", sealed, b"elsewhere"))
    assert broken(lambda: OTHER.open_answer("order-1", sealed, b"place"))
    assert SEALER.seal_answer("order-1", b"the answer", b"place") != sealed


def test_an_answers_salt_is_part_of_it() -> None:
    sealed = bytearray(SEALER.seal_answer("order-1", b"the answer", b"place"))
    sealed[0] ^= 1
    assert broken(lambda: SEALER.open_answer("order-1", bytes(sealed), b"place"))


def test_a_name_is_the_same_each_time_and_another_for_other_parts() -> None:
    names = {
        SEALER.name("ab", "c"),
        SEALER.name("a", "bc"),
        SEALER.name("abc"),
        SEALER.name("ab", "c", ""),
        SEALER.name(),
        OTHER.name("ab", "c"),
    }
    assert len(names) == 6
    assert SEALER.name("ab", b"c") == Sealer(b"s" * 32).name("ab", "c")
    assert all(len(name) == 32 for name in names)


@pytest.mark.parametrize("size", [0, 16, 31])
def test_a_short_seal_secret_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32"):
        Sealer(bytes(size))


def test_a_sealer_does_not_show_its_secret() -> None:
    assert repr(SEALER) == str(SEALER) == "Sealer(***)"

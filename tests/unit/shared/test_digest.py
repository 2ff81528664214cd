"""Digests under named peppers: any pepper held counts, and no other."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyledger.digest import PepperError, Peppers, load_peppers

ONE, TWO, TEN = b"\x01" * 32, b"\x02" * 32, b"\x0a" * 32
BOTH = Peppers({"p1": ONE, "p2": TWO}, "p2")


@given(st.text(max_size=200).filter(lambda text: text.isprintable()))
def test_a_digest_is_keyed_blake2b_of_the_token(token: str) -> None:
    expected = hashlib.blake2b(token.encode(), key=TWO, digest_size=32).digest()
    assert BOTH.digest(token) == expected
    assert BOTH.digest(token) == expected, "the prepared state is not used up"


def test_a_digest_under_any_pepper_held_proves_the_token() -> None:
    old = Peppers({"p1": ONE}, "p1")
    assert BOTH.proves("token", {"p1": old.digest("token")})
    assert BOTH.proves("token", {"p2": BOTH.digest("token"), "gone": bytes(32)})
    assert not BOTH.proves("other", {"p1": old.digest("token")})


def test_a_digest_under_another_pepper_proves_nothing() -> None:
    ten = Peppers({"p10": TEN}, "p10")
    assert not BOTH.proves("token", {"p10": ten.digest("token")})
    assert not BOTH.proves("token", {"p1": BOTH.digest("token")})
    assert not BOTH.proves("token", {})
    assert not BOTH.proves("token", {"p1": b""})
    assert not BOTH.proves("", {"p2": bytes(32)})


def test_the_active_pepper_is_one_of_those_held() -> None:
    with pytest.raises(PepperError):
        Peppers({"p1": ONE}, "p2")


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_pepper_has_its_full_length(size: int) -> None:
    with pytest.raises(PepperError):
        Peppers({"p1": bytes(size)}, "p1")


def test_peppers_are_loaded_from_their_folder_and_the_youngest_is_active(tmp_path: Path) -> None:
    for name, pepper in (("p10", TEN), ("p2", TWO), ("p1", ONE)):
        (tmp_path / f"{name}.pepper").write_text(pepper.hex() + "\n")
    (tmp_path / "README").write_text("not a pepper")
    loaded = load_peppers(tmp_path)
    assert loaded.active == "p10"
    assert set(loaded.names) == {"p1", "p2", "p10"}
    assert loaded.digest("t") == Peppers({"p10": TEN}, "p10").digest("t")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PepperError):
        load_peppers(tmp_path)
    with pytest.raises(PepperError):
        load_peppers(tmp_path / "missing")


@pytest.mark.parametrize("content", [b"", b"xyz", b"0" * 63, b"ab" * 31, b"ab" * 33, b"\xff\xfe" * 32])
def test_an_unreadable_pepper_is_named_and_never_quoted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p1.pepper").write_text(ONE.hex())
    (tmp_path / "p7.pepper").write_bytes(content)
    with pytest.raises(PepperError) as caught:
        load_peppers(tmp_path)
    assert "p7.pepper" in str(caught.value)
    assert not content or content.decode("latin-1") not in str(caught.value)


def test_peppers_show_their_names_only() -> None:
    shown = repr(BOTH)
    assert "p1" in shown
    assert ONE.hex() not in shown
    assert repr(ONE) not in shown

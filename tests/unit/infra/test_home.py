"""The folder of a local run."""

import os
from pathlib import Path

import pytest

from infra.local.errors import LocalRunError
from infra.local.home import Home, write_private


def test_a_home_is_made_once_and_kept(tmp_path: Path) -> None:
    with Home.claim(tmp_path / "deep" / "home") as home:
        pepper = (home.peppers / "p1.pepper").read_text()
        words = home.passwords("x.json", ("a", "b"))
    with Home.claim(tmp_path / "deep" / "home") as home:
        assert (home.peppers / "p1.pepper").read_text() == pepper
        assert home.passwords("x.json", ("a", "b", "c")).items() >= words.items()
    assert not home.unclean


def test_a_home_has_one_holder(tmp_path: Path) -> None:
    with (
        Home.claim(tmp_path / "home"),
        pytest.raises(LocalRunError, match=f"pid {os.getpid()}"),
        Home.claim(tmp_path / "home"),
    ):
        pass


def test_a_holder_that_said_no_goodbye_is_noticed(tmp_path: Path) -> None:
    with Home.claim(tmp_path / "home"):
        pass
    (tmp_path / "home" / "lock").write_text("4711\n")
    with Home.claim(tmp_path / "home") as home:
        assert home.unclean


def test_a_home_that_is_a_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(LocalRunError, match="KEYLEDGER_HOME"), Home.claim(tmp_path / "home"):
        pass


def test_a_private_file_is_for_its_owner_and_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, "one")
    write_private(path, "two")
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_somebodys_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(LocalRunError, match="thesis"), Home.claim(tmp_path):
        pass
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_an_operators_own_pepper_is_kept(tmp_path: Path) -> None:
    (tmp_path / "peppers").mkdir()
    (tmp_path / "peppers" / "mine.pepper").write_text("00" * 32)
    with Home.claim(tmp_path) as home:
        assert [path.name for path in home.peppers.iterdir()] == ["mine.pepper"]

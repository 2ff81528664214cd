"""Who a verifier is the successor of."""

from pathlib import Path

from keyledger.verification.incarnation import Incarnation


def test_who_gets_the_lock_knows_that_the_one_before_is_dead(tmp_path: Path) -> None:
    first = Incarnation(tmp_path / "state", "a1")
    assert (first.name, first.replaces) == ("a1", "")
    first.release()
    assert Incarnation(tmp_path / "state", "b2").replaces == "a1"


def test_nobody_replaces_one_that_lives(tmp_path: Path) -> None:
    first = Incarnation(tmp_path, "a1")
    assert Incarnation(tmp_path, "b2").replaces == ""
    first.release()
    # the one that lived named itself, the other did not
    assert Incarnation(tmp_path, "c3").replaces == "a1"


def test_processes_of_one_folder_have_predecessors_of_their_own(tmp_path: Path) -> None:
    for index in (0, 1):
        Incarnation(tmp_path, f"a{index}", index=index).release()
    assert [Incarnation(tmp_path, "b", index=index).replaces for index in (0, 1, 2)] == ["a0", "a1", ""]


def test_without_a_folder_or_with_a_torn_name_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Incarnation(tmp_path / "file", "a1").replaces == ""
    (tmp_path / "limits-0.lock").write_bytes(b"\xff\xfe")
    assert Incarnation(tmp_path, "a1").replaces == ""

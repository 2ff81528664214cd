"""Peppers are taken up from their folder while the process runs."""

from pathlib import Path

import pytest

from keyledger.digest import Peppers, load_peppers
from keyledger.verification.pepper_watch import PepperWatch


def write(folder: Path, name: str, byte: str) -> None:
    (folder / f"{name}.pepper").write_text(byte * 64)


@pytest.fixture
def peppers(tmp_path: Path) -> Peppers:
    write(tmp_path, "p1", "1")
    return load_peppers(tmp_path)


def test_a_new_pepper_is_held_and_becomes_active_when_the_log_says_so(
    tmp_path: Path, peppers: Peppers
) -> None:
    logged = "p1"
    watch = PepperWatch(tmp_path, peppers, lambda: logged)
    before = peppers.digest("a")
    write(tmp_path, "p2", "2")
    watch.look()
    assert (set(peppers.names), peppers.active) == ({"p1", "p2"}, "p1")
    assert peppers.digest("a") == before
    logged = "p2"
    watch.look()
    assert peppers.active == "p2"
    assert peppers.proves("a", {"p1": before})
    assert peppers.digest("a") == Peppers({"p2": b"\x22" * 32}, "p2").digest("a")


def test_without_the_active_one_the_newest_is_taken(tmp_path: Path, peppers: Peppers) -> None:
    watch = PepperWatch(tmp_path, peppers, lambda: "p1")
    for name in ("p2", "p10"):
        write(tmp_path, name, "2")
    (tmp_path / "p1.pepper").unlink()
    watch.look()
    assert (set(peppers.names), peppers.active) == ({"p2", "p10"}, "p10")


def test_a_pepper_whose_content_changed_is_another_one(tmp_path: Path, peppers: Peppers) -> None:
    digest = peppers.digest("a")
    write(tmp_path, "p1", "7")
    PepperWatch(tmp_path, peppers, lambda: "p1").look()
    assert not peppers.proves("a", {"p1": digest})


@pytest.mark.parametrize("broken", ["", "half", "zz" * 32])
def test_a_folder_that_cannot_be_used_changes_nothing_and_is_said_once(
    tmp_path: Path, peppers: Peppers, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    watch = PepperWatch(tmp_path, peppers, lambda: "p1")
    (tmp_path / "p2.pepper").write_text(broken)
    for _ in range(3):
        watch.look()
    assert peppers.names == ("p1",)
    assert len(caplog.records) == 1
    (tmp_path / "p2.pepper").unlink()
    (tmp_path / "p1.pepper").unlink()
    watch.look()
    assert peppers.names == ("p1",), "an empty folder is no order to forget"

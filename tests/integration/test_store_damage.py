"""What is found in a store's folder is believed only when it is what was left there, else a line says why."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from keyledger.errors import Refusal
from keyledger.events import KeyRevoked
from keyledger.verification.board import Board
from keyledger.verification.opening import MOST_STARTS
from keyledger.verification.store import StoreUnavailable
from keyledger.verification.store_folder import FolderUnusable
from tests.support.followed_log import WORKSPACE, FollowedLog, key_created, key_id, workspace_created
from tests.support.stores import BOOT, Kept, folded

PAGE = 4096


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """A store with forty keys, the first one revoked."""
    made = Kept(tmp_path / "store")
    log = FollowedLog()
    log.append(WORKSPACE, workspace_created())
    for number in range(1, 41):
        log.append(key_id(number), key_created(number, name="n" * 300))
    log.append(key_id(1), KeyRevoked())
    folded(log, made.store)
    yield made
    made.place.close()


def poke(path: Path, at: int, what: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(what)


def flip(path: Path, at: int) -> None:
    byte = path.read_bytes()[at]
    poke(path, at, bytes([byte ^ 0x41]))


def flip_both(path: Path, at: int) -> None:
    flip(path, at)
    flip(path, PAGE + at)


def schema(path: Path) -> None:
    poke(path, 7, b"\x09")


def no_facts(path: Path) -> None:
    poke(path, 512, bytes(512))


def truncate(path: Path, size: int) -> None:
    os.truncate(path, size)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").write_text("of somebody")


def foreign_lmdb(path: Path) -> None:
    path.unlink()
    with lmdb.open(str(path), subdir=False) as env, env.begin(write=True) as txn:
        txn.put(b"a", b"b")
    Path(f"{path}-lock").unlink()


def foreign_text(path: Path) -> None:
    path.write_text("no database at all\n" * 1000)


def gone(path: Path) -> None:
    path.unlink()


def swapped_pages(path: Path) -> None:
    """The older of the two first pages in the place of both: a file as it was one commit ago."""
    pages = path.read_bytes()[: 2 * PAGE]
    ids = [struct.unpack_from("<Q", pages, at + 144)[0] for at in (0, PAGE)]
    older = 0 if ids[0] < ids[1] else PAGE
    poke(path, PAGE - older + 24, pages[older + 24 : older + 152])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: truncate(path, 0),
    "cut in a page": lambda path: truncate(path, 3 * PAGE + 7),
    "cut after a page": lambda path: truncate(path, path.stat().st_size - PAGE),
    "cut in the first page": lambda path: truncate(path, 100),
    "magic": lambda path: flip(path, 16),
    "version": lambda path: flip(path, 20),
    "where the free pages are": lambda path: flip_both(path, 24 + 24 + 16 + 8),
    "where one of the two says that they are": lambda path: flip(path, 24 + 24 + 16 + 8),
    "where the other one says it": lambda path: flip(path, PAGE + 24 + 24 + 16 + 8),
    "where the records are": lambda path: flip_both(path, 24 + 48 + 41),
    "the last page": lambda path: flip_both(path, 136),
    "one commit ago": swapped_pages,
    "a folder": a_folder,
    "another LMDB file": foreign_lmdb,
    "text": foreign_text,
    "gone": gone,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_file_that_is_not_what_it_was_is_dropped_with_a_line(
    kept: Kept, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = kept.file()
    kept.place.close()
    DAMAGE[what](path)
    kept.place = kept.open()
    assert (kept.store.position, kept.store.epoch) == (0, None)
    assert kept.store.get(key_id(2)) is None
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"the store in {kept.folder} is dropped and built anew: ")
    # and it can be built
    log = FollowedLog()
    log.append(WORKSPACE, workspace_created())
    log.append(key_id(7), key_created(7))
    folded(log, kept.store)
    assert kept.again().get(key_id(7)) is not None


def test_a_file_that_is_what_it_was_is_believed(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    before = kept.file()
    store = kept.again()
    assert (store.position, kept.file()) == (42, before)
    first, second = store.get(key_id(1)), store.get(key_id(2))
    assert first is not None
    assert second is not None
    assert (first.revoked, second.revoked) == (True, False)
    assert caplog.records == []
    modes = {path.name: path.stat().st_mode & 0o777 for path in [kept.folder, *kept.folder.iterdir()]}
    assert modes.pop(kept.folder.name) == 0o700
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize(
    ("boot", "follows", "why"),
    [
        (BOOT[::-1], "http://keys", "the machine was started anew"),
        (bytes(16), "http://keys", "the machine was started anew"),
        (BOOT, "http://others", "it follows another key service"),
    ],
)
def test_what_is_not_of_this_boot_and_this_log_is_dropped(
    kept: Kept, boot: bytes, follows: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = kept.again(boot=boot, follows=follows)
    assert (store.position, store.get(key_id(2))) == (0, None)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [why]
    assert len(list(kept.folder.glob("*.lmdb"))) == 1


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (schema, "another schema, or no page of ours"),
        (no_facts, "its page is damaged"),
        (foreign_text, None),
        (a_folder, None),
        (gone, None),
    ],
    ids=["schema", "facts", "text", "folder", "gone"],
)
def test_without_the_page_nothing_is_believed(
    kept: Kept, damage: Callable[[Path], None], why: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    kept.place.close()
    damage(kept.folder / "board")
    kept.place = kept.open()
    assert (kept.store.position, kept.store.get(key_id(2))) == (0, None)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ([why] if why else [])


def test_a_row_that_is_not_what_was_written_is_never_an_answer(kept: Kept) -> None:
    """Every byte of the first record is changed in turn: it is refused, or never read."""
    path = kept.file()
    whole = path.read_bytes()
    told = kept.store.get(key_id(2))
    kept.place.close()
    row = whole.rindex(key_id(2).encode()[4:])
    answers: list[object] = []
    for at in random.Random(1).sample(range(row, row + 400), 60):
        kept.place = kept.open()
        flip(path, at)
        try:
            answers.append(kept.store.get(key_id(2)))
        except Refusal as refusal:
            assert refusal.code == "unavailable"
            assert kept.place.board.broken
            answers.append("refused")
        kept.place.board.broken = False
        kept.place.close()
        poke(path, at, whole[at : at + 1])
    assert "refused" in answers
    assert all(answer in ("refused", told, None) for answer in answers)


def test_what_was_found_damaged_is_not_believed_by_the_next(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.place.board.broken = True
    assert kept.again().position == 0
    assert "a row was not what was written" in caplog.text


def test_a_store_under_which_no_process_comes_to_work_is_dropped(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.place.board.starts = MOST_STARTS - 1
    # killed, not closed
    kept.place.folder.unlock()
    kept.place.store.close()
    kept.place = kept.open()
    assert kept.store.position == 42
    kept.place.folder.unlock()
    kept.place.store.close()
    kept.place = kept.open()
    assert kept.store.position == 0
    assert "no process came to work with it" in caplog.text


def test_what_was_being_built_beside_is_cleared_away(kept: Kept) -> None:
    kept.store.beside()
    assert len(list(kept.folder.glob("*.lmdb"))) == 2
    assert kept.again().position == 42
    assert len(list(kept.folder.glob("*.lmdb"))) == 1


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path, kept: Kept) -> None:
    with pytest.raises(FolderUnusable, match="another verifier writes the store"):
        kept.open()
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(FolderUnusable, match=r"taken cannot be made: "):
        Kept(taken)
    if os.geteuid():
        closed = tmp_path / "closed"
        closed.mkdir(0o500)
        with pytest.raises(FolderUnusable, match="cannot be written"):
            Kept(closed)


def test_a_closed_store_takes_nothing(kept: Kept) -> None:
    kept.place.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        kept.store.renumber(kept.store.epoch)  # type: ignore[arg-type]
    kept.place = kept.open()
    assert kept.store.position == 42


def test_a_page_torn_by_a_kill_shows_the_fact_before(tmp_path: Path) -> None:
    board = Board.open(tmp_path / "board")
    board.claim(BOOT, bytes(16))
    current = board.current
    whole = bytes((tmp_path / "board").read_bytes())
    board.publish(current, ["key_1"])
    # the counter was not set yet: whatever was written of the next fact does not count
    later = (tmp_path / "board").read_bytes()
    torn = bytearray(later)
    torn[72:80] = whole[72:80]
    (tmp_path / "torn").write_bytes(bytes(torn))
    assert Board.open(tmp_path / "torn").current == current
    board.close()

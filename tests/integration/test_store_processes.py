"""One store, several processes: who reads sees what is committed, whoever is killed, stopped or swapped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.followed_log import key_id
from tests.support.store_processes import Processes, store_processes
from tests.support.waiting import until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def run(folder: Path) -> Iterator[Processes]:
    with store_processes(folder) as processes:
        yield processes


def test_what_a_reader_has_in_memory_is_dropped_when_it_changes(run: Processes) -> None:
    writer = run.start("write")
    readers = [run.start("read"), run.start("read")]
    writer.ask("create", 1, 10)
    for reader in readers:
        assert reader.ask("get", 1, 2, 99) == ["active", "active", None]
    assert writer.ask("revoke", 1) == 11
    for reader in readers:
        # from memory the second, from the file the first
        assert reader.ask("get", 1, 2) == ["revoked", "active"]
        assert reader.ask("at")[0] == 11
    writer.ask("create", 99, 100)
    assert readers[0].ask("get", 99) == ["active"]


def test_a_reader_that_was_lapped_drops_everything(run: Processes) -> None:
    writer, reader = run.start("write"), run.start("read")
    writer.ask("create", 0, 5000)
    numbers = (0, 2500, 4999)
    assert reader.ask("get", *numbers) == ["active"] * 3
    writer.ask("revoke", *range(5000))
    assert reader.ask("get", *numbers) == ["revoked"] * 3


def test_keys_of_a_deleted_workspace_are_gone_before_their_rows_are(run: Processes) -> None:
    writer, reader, other = run.start("write"), run.start("read"), run.start("read")
    writer.ask("create", 1, 100)
    assert reader.ask("get", 1, 50, 99) == ["active"] * 3
    assert writer.ask("delete") == 101
    # from memory, from the file, and by one that was not there before
    assert reader.ask("get", 1, 51, 99) == other.ask("get", 1, 51, 99) == [None] * 3
    while writer.ask("tidy", 30):
        assert reader.ask("get", 1, 50, 99) == other.ask("get", 1, 50, 99) == [None] * 3
    assert reader.ask("get", 1, 50, 99) == run.start("read").ask("get", 1, 50, 99) == [None] * 3


def test_readers_follow_a_swap(run: Processes, folder: Path) -> None:
    writer, reader = run.start("write"), run.start("read")
    writer.ask("create", 1, 10)
    writer.ask("revoke", 1)
    assert reader.ask("get", 1, 5, 9) == ["revoked", "active", "active"]
    assert reader.ask("freeze") == 11
    for back in (6, 5):
        assert writer.ask("rebuild", back) == back
        # what was refused stays refused, what the log does not know any more is gone
        assert reader.ask("get", 1, 4, 9) == ["revoked", "active", None]
        assert reader.ask("at") == [back, f"{1 + 7 - back}-{bytes(8).hex()}"]
    assert len(list(folder.glob("*.lmdb"))) == 1
    # and a reader that comes later begins where the others are
    assert run.start("read").ask("get", 1, 9) == ["revoked", None]


def test_readers_go_on_while_a_store_is_swapped_again_and_again(run: Processes) -> None:
    writer, reader = run.start("write"), run.start("read")
    writer.ask("create", 1, 200)
    reader.ask("get", 1)
    for _ in range(20):
        writer.tell("rebuild", 150)
        assert [reader.ask("get", 1, 100) for _ in range(10)] == [["active", "active"]] * 10
        assert writer.answer() == 150


def test_the_one_who_writes_is_killed_in_the_middle_and_another_goes_on(run: Processes) -> None:
    writer, reader = run.start("write"), run.start("read")
    writer.ask("create", 1, 10)
    assert reader.ask("get", 1) == ["active"]
    assert writer.ask("hang", 1) == "hanging"
    writer.kill()
    assert reader.ask("get", 1) == ["active"]
    again = run.start("write")
    assert reader.ask("at")[0] == 10
    assert reader.ask("get", 1, 9) == ["active", "active"]
    # its log is a new one in this test, so only what the store says counts: it was not dropped
    again.kill()
    assert "dropped" not in again.said()


@pytest.mark.parametrize("position", [100, 150, 1000, 3000])
async def test_a_writer_killed_while_it_commits_leaves_a_whole_store(run: Processes, position: int) -> None:
    writer, reader = run.start("write"), run.start("read")
    writer.ask("create", 1, 100)
    writer.tell("create", 100, 5000, 500)

    async def far_enough() -> bool:
        return reader.ask("at")[0] >= position

    await until(far_enough)
    writer.kill()
    again = run.start("write")
    position = reader.ask("at")[0]
    assert position >= 100
    known = reader.ask("get", 1, 99, position - 1, position)
    assert known == ["active", "active", "active", None]
    again.kill()
    assert "dropped" not in again.said()


def test_only_one_process_writes(run: Processes) -> None:
    run.start("write")
    with pytest.raises(AssertionError, match="another verifier writes the store in"):
        run.start("write")


def test_dead_readers_do_not_let_the_file_grow(run: Processes, folder: Path) -> None:
    writer = run.start("write")
    writer.ask("create", 0, 300, 500)

    def grown() -> int:
        before = _size(folder)
        for _ in range(4):
            writer.ask("revoke", *range(300))
        return _size(folder) - before

    for _ in range(5):
        # until as many hashes are kept as ever will be
        grown()
    assert grown() == 0
    for _ in range(3):
        reader = run.start("read")
        reader.ask("get", 1)
        reader.ask("freeze")
        reader.kill()
    # what they hold cannot be used again, until their slots are freed
    held = grown()
    writer.ask("tend")
    assert held > 0
    assert grown() == grown() == 0


def _size(folder: Path) -> int:
    return next(folder.glob("*.lmdb")).stat().st_size


def test_the_map_grows_under_readers(run: Processes) -> None:
    writer, reader = run.start("write", str(1 << 18)), run.start("read")
    writer.ask("create", 0, 20, 100)
    assert reader.ask("get", 1) == ["active"]
    assert reader.ask("freeze") == 21
    assert writer.ask("create", 20, 3000, 1000) == 3001
    assert reader.ask("get", 1, 2999) == ["active", "active"]


async def test_who_reads_is_as_fresh_as_who_follows(run: Processes) -> None:
    projector, reader = run.start("project"), run.start("read")

    async def fresh() -> bool:
        age = reader.ask("age")
        return age is not None and age < 1.5

    await until(fresh)
    position = projector.ask(1, 2)
    assert reader.ask("reached", position)
    assert reader.ask("get", 1, 2, 3) == ["active", "active", None]
    assert reader.ask("standing") == {"held": False, "head": position, "hearing": False, "pepper": ""}
    assert not reader.ask("reached", position + 1)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_follower_that_is_stopped_or_killed_makes_readers_stale(run: Processes, number: int) -> None:
    projector, reader = run.start("project"), run.start("read")

    async def fresh() -> bool:
        age = reader.ask("age")
        return age is not None and age < 1.5

    async def old() -> bool:
        return reader.ask("age") > 2.5

    await until(fresh)
    projector.ask(1)
    assert reader.ask("reached", 2)
    projector.kill(number)
    await until(old)
    assert reader.ask("get", 1) == ["active"]
    if number == signal.SIGSTOP:
        projector.kill(signal.SIGCONT)
        await until(fresh)
        return
    # the next one goes on as fresh as this one was, and proves itself at once
    assert 2.5 < reader.ask("age") < 300
    run.start("project", "1")
    await until(fresh)
    assert reader.ask("get", 1) == ["active"]


async def test_who_left_in_good_order_is_believed_no_more(run: Processes) -> None:
    projector, reader = run.start("project"), run.start("read")

    async def fresh() -> bool:
        return reader.ask("age") is not None

    await until(fresh)
    assert projector.ask("leave") == "left"
    assert reader.ask("age") is None
    assert reader.ask("at")[0] == 1


def test_on_a_full_disk_nothing_is_half_kept_and_all_goes_on_when_there_is_room(run: Processes) -> None:
    writer, reader = run.start("write"), run.start("read")
    writer.ask("create", 1, 50, 500)
    assert reader.ask("get", 1, 49) == ["active", "active"]
    writer.ask("fill_disk", 65_536)
    said = [writer.ask("create", number, number + 1, 3000) for number in range(50, 100)]
    kept = [each for each in said if isinstance(each, int)]
    failed = [each for each in said if isinstance(each, str)]
    assert kept
    assert failed[0].startswith("StoreUnavailable: the store cannot be written")
    # what it could not keep it does not claim, and what it kept is there
    assert reader.ask("at")[0] == kept[-1]
    assert reader.ask("get", 1, 49, kept[-1] - 1, kept[-1]) == ["active", "active", "active", None]
    writer.ask("fill_disk", -1)
    # in this test the log went on without it, so it is read anew
    assert writer.ask("rebuild", 50) == 50
    assert reader.ask("get", 49, 50) == ["active", None]


async def test_who_cannot_keep_what_it_hears_is_not_fresh_until_it_can(run: Processes) -> None:
    projector, reader = run.start("project"), run.start("read")

    async def fresh() -> bool:
        age = reader.ask("age")
        return age is not None and age < 1.5

    async def old() -> bool:
        return reader.ask("age") > 2.5

    await until(fresh)
    projector.ask("fill_disk", 0)
    position = projector.ask(*range(1, 400))
    await until(old)
    assert reader.ask("get", 399) == [None]
    projector.ask("fill_disk", -1)
    await until(fresh, within=20)
    assert reader.ask("reached", position)
    assert reader.ask("get", 1, 399) == ["active", "active"]


async def test_a_damaged_row_is_refused_and_the_store_is_built_anew(run: Processes, folder: Path) -> None:
    projector, reader = run.start("project"), run.start("read")

    async def fresh() -> bool:
        age = reader.ask("age")
        return age is not None and age < 1.5

    await until(fresh)
    assert reader.ask("reached", projector.ask(1, 2))
    await until(fresh)
    path = next(folder.glob("*.lmdb"))
    whole = path.read_bytes()
    with path.open("r+b") as file:
        # wherever this record stands or stood
        at = -1
        while (at := whole.find(key_id(1).encode()[4:] + b"\0", at + 1)) >= 0:
            file.seek(at + 22 + 60)
            file.write(bytes([whole[at + 22 + 60] ^ 0xFF]))
    assert reader.ask("get", 1) == "Refusal: unavailable"

    async def anew() -> bool:
        return reader.ask("get", 1, 2) == ["active", "active"]

    await until(anew)
    await until(fresh)
    assert next(folder.glob("*.lmdb")) != path

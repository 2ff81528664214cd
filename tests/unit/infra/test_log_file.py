"""A child's log stays within its bound, at a start and while it is written."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from infra.local.backoff import Backoff
from infra.local.child import Child, ChildSpec
from infra.local.log_file import begin_anew, shorten
from tests.support.waiting import until

CHATTY = "n = 0\nwhile True:\n    print(n, 'x' * 90, flush=True)\n    n += 1"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "a.log"


@pytest.mark.parametrize("bound", [begin_anew, shorten])
def test_a_log_within_its_bound_or_not_there_is_left_alone(bound: object, log: Path) -> None:
    assert callable(bound)
    bound(log, longest=3)
    log.write_text("abc")
    bound(log, longest=3)
    assert [path.read_text() for path in log.parent.iterdir()] == ["abc"]


def test_a_long_log_is_put_aside_before_a_start(log: Path) -> None:
    for text in ("first", "second"):
        log.write_text(text)
        begin_anew(log, longest=3)
    assert not log.exists()
    assert log.with_name("a.log.1").read_text() == "second"


def test_a_log_is_shortened_under_its_writer(log: Path) -> None:
    writer = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(writer, b"before")
    shorten(log, longest=3)
    os.write(writer, b"after")
    os.close(writer)
    aside = log.with_name("a.log.1")
    assert (aside.read_text(), log.read_text()) == ("before", "after")
    assert [path.stat().st_mode & 0o777 for path in (log, aside)] == [0o600, 0o600]
    shorten(log, longest=3)
    assert (aside.read_text(), log.read_text()) == ("after", "")
    assert len(list(log.parent.iterdir())) == 2


def test_a_log_that_cannot_be_kept_is_emptied_all_the_same(log: Path) -> None:
    log.write_text("too long")
    log.with_name("a.log.1").mkdir()
    shorten(log, longest=3)
    assert log.read_text() == ""
    assert {path.name for path in log.parent.iterdir()} == {"a.log", "a.log.1"}


async def test_a_child_that_writes_without_end_never_has_a_long_log(log: Path) -> None:
    spec = ChildSpec("chatty", [sys.executable, "-c", CHATTY], {}, port=0)
    child = Child(spec, log=log, pid_file=log.with_name("pid"), say=lambda _: None, backoff=Backoff())
    await child.start()
    try:
        for _ in range(3):

            async def is_long() -> bool:
                return log.stat().st_size > 50_000

            await until(is_long)
            await asyncio.to_thread(shorten, log, longest=50_000)
            # no hole at its beginning: the writer goes on at the new end
            assert log.read_bytes()[:1] != b"\0"

        async def goes_on() -> bool:
            return log.read_bytes().count(b"\n") > 2

        await until(goes_on)
    finally:
        child.kill()
        await child.gone(5)
    aside = log.with_name("a.log.1").read_text().splitlines()
    assert int(aside[-2].split()[0]) > int(aside[1].split()[0]) > 0
    assert int(log.read_text().splitlines()[1].split()[0]) > int(aside[-2].split()[0])

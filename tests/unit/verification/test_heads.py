"""Who is believed about the head: any writer that can write, and that none can only all of them together."""

from __future__ import annotations

import msgspec
import pytest

from keyledger.verification.heads import REMEMBERED, TICK_PATIENCE, Heads
from keyledger.verification.ports import HEAD_SUBJECT, FeedUnavailable, Message
from keyledger.wire import Head, HeadQuestion, Page
from tests.support.followed_log import START, HandClock
from tests.support.memory_bus import MemoryBus

LINE = b"\x01" * 8
ABLE, UNABLE = True, False


class Keys:
    """The key service over HTTP: away unless told what to say."""

    def __init__(self) -> None:
        self.says: Head | None = None

    async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
        raise FeedUnavailable("not asked for here")

    async def head(self, question: HeadQuestion) -> Head:
        if self.says is None:
            raise FeedUnavailable("away")
        return msgspec.structs.replace(self.says, nonce=question.nonce)


class Scene:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.bus = MemoryBus()
        self.keys = Keys()
        self.heads = Heads(self.keys, self.bus, self.clock)

    async def writer(self, name: str, position: int, writable: bool, *, nonce: str | None = None) -> None:
        """One that answers on the bus."""

        async def answer(message: Message) -> None:
            asked = msgspec.msgpack.decode(message.body, type=HeadQuestion).nonce
            told = head(name, position, writable, asked if nonce is None else nonce)
            await self.bus.publish(message.reply, msgspec.msgpack.encode(told))

        await self.bus.subscribe(HEAD_SUBJECT, answer)

    async def ask(self) -> Head | None:
        return await self.heads.ask(HeadQuestion("n", "v"))


def head(name: str, position: int, writable: bool, nonce: str = "") -> Head:
    return Head(nonce, 1, LINE, position, b"", START, writable, "", name)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_one_who_can_write_is_believed_however_many_cannot(scene: Scene) -> None:
    await scene.writer("a", 9, UNABLE)
    await scene.writer("b", 7, ABLE)
    assert await scene.ask() == head("b", 7, ABLE, "n")


async def test_when_all_say_that_they_cannot_write_the_one_that_knows_most_speaks(scene: Scene) -> None:
    await scene.writer("a", 7, UNABLE)
    await scene.writer("b", 9, UNABLE)
    assert await scene.ask() == head("b", 9, UNABLE, "n")


async def test_a_writer_that_is_silent_may_be_writing_until_it_is_forgotten(scene: Scene) -> None:
    await scene.writer("a", 7, UNABLE)
    scene.heads.ticked(head("b", 7, ABLE))
    assert await scene.ask() is None
    scene.clock.advance(REMEMBERED)
    assert await scene.ask() is None
    scene.clock.advance(1)
    assert await scene.ask() == head("a", 7, UNABLE, "n")


async def test_one_who_can_write_is_asked_over_http_before_nobody_is_thought_to(scene: Scene) -> None:
    await scene.writer("a", 9, UNABLE)
    scene.keys.says = head("b", 8, ABLE)
    assert await scene.ask() == head("b", 8, ABLE, "n")
    scene.keys.says = head("b", 8, UNABLE)
    assert await scene.ask() == head("a", 9, UNABLE, "n")


async def test_an_answer_to_another_question_is_none(scene: Scene) -> None:
    await scene.writer("a", 7, ABLE, nonce="other")
    assert await scene.ask() is None


async def test_nobody_at_all_is_no_head(scene: Scene) -> None:
    assert await scene.ask() is None
    scene.bus.connected = False
    assert await scene.ask() is None


async def test_answers_without_ticks_are_a_deaf_connection_less_and_less_often(scene: Scene) -> None:
    await scene.writer("a", 7, ABLE)
    assert not scene.heads.deaf()
    found: list[float] = []
    for second in range(60):
        await scene.ask()
        if scene.heads.deaf():
            found.append(second)
        scene.clock.advance(1)
    assert found == [4, 11, 24, 49]
    scene.heads.ticked(head("a", 7, ABLE))
    scene.clock.advance(TICK_PATIENCE)
    assert not scene.heads.deaf()
    scene.clock.advance(1)
    assert scene.heads.deaf()


async def test_without_answers_ticks_are_not_missed(scene: Scene) -> None:
    scene.heads.ticked(head("a", 7, ABLE))
    scene.clock.advance(100)
    await scene.ask()
    assert not scene.heads.deaf()

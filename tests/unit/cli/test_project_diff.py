"""A verifier's projection held against a fresh fold: equal, or the first key that differs is named."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec
import pytest

from infra.local.errors import LocalRunError
from keyledger.events import KeyChanged, encode
from keyledger.token import Secret
from services.cli.project_diff import AskedVerifier, Pages, compare
from tests.support.followed_log import FollowedLog, key_created, key_id
from tests.support.verifying import World

TOKEN = Secret("0" * 64)


class Scene:
    """A verifier that has read its own log, and the log that it is held against."""

    def __init__(self) -> None:
        self.world = World()
        for number in range(40):
            self.world.add(key_id(number), key_created(number))
        self.log = self.world.log
        self.token: Secret | None = None
        self.sent: dict[str, str] = {}

    async def compared(self) -> int:
        await self.world.caught_up()
        return await compare(self._pages(), self._verifier())

    async def refused(self) -> str:
        with pytest.raises(LocalRunError) as raised:
            await self.compared()
        return str(raised.value)

    def another_log(self) -> FollowedLog:
        """What the log says from now on, with all the hashes the verifier has seen."""
        self.log = FollowedLog()
        self.log.events = list(self.world.log.events)
        return self.log

    @asynccontextmanager
    async def _pages(self) -> AsyncGenerator[Pages]:
        yield self.log

    @asynccontextmanager
    async def _verifier(self) -> AsyncGenerator[AskedVerifier]:
        async with self.world.client(token=self.token) as client:
            client.headers.update(self.sent)
            yield AskedVerifier(client)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_verifier_that_holds_what_the_log_says_is_equal(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await scene.compared() == 0
    assert "equal: 41 keys and workspaces at position 41 of epoch 1-" in capsys.readouterr().out


async def test_a_verifier_that_is_behind_is_compared_where_it_is(scene: Scene) -> None:
    await scene.world.caught_up()
    scene.another_log().append(key_id(3), KeyChanged(enabled=False))
    assert await compare(scene._pages(), scene._verifier()) == 0  # pyright: ignore[reportPrivateUsage]


async def test_a_key_that_is_held_otherwise_is_named(scene: Scene) -> None:
    """The same chain, and one event that did not arrive as it is in the log."""
    event = scene.another_log().events[17]
    data = encode(key_created(16, scopes=("other",)))
    scene.log.events[17] = msgspec.structs.replace(event, data=data)
    said = await scene.refused()
    assert said == f"DIFFERENCE at position 41: {key_id(16)} is not what the log adds up to"


async def test_a_key_that_only_one_of_them_has_is_named(scene: Scene) -> None:
    event = scene.another_log().events[17]
    unknown = msgspec.structs.replace(event, type="imagined")
    scene.log.events[17] = unknown
    assert f"{key_id(16)} is in the verifier, and the log does not have it" in await scene.refused()
    scene.world = World()
    scene.world.log.events = list(scene.log.events)
    scene.another_log().events[17] = event
    assert f"{key_id(16)} is in the log, and the verifier does not have it" in await scene.refused()


async def test_another_telling_and_a_shorter_log_are_no_difference_of_a_key(scene: Scene) -> None:
    await scene.world.caught_up()
    scene.another_log().epoch = msgspec.structs.replace(scene.log.epoch, line=b"\x09" * 8)
    assert "the log is at 1-0909090909090909" in await scene.refused()
    del scene.another_log().events[30:]
    assert "is at position 41, the log ends at 30" in await scene.refused()


async def test_a_broken_chain_and_a_silent_log_are_told(scene: Scene) -> None:
    event = scene.another_log().events[17]
    scene.log.events[17] = msgspec.structs.replace(event, previous_hash=bytes(32))
    assert "chain is broken at position 18" in await scene.refused()
    scene.another_log().away = True
    await scene.world.caught_up()
    with pytest.raises(LocalRunError, match="the log cannot be read"):
        await compare(scene._pages(), scene._verifier())  # pyright: ignore[reportPrivateUsage]


async def test_the_token_is_asked_for_and_shown(scene: Scene) -> None:
    scene.token = TOKEN
    assert "the verifier answers 401" in await scene.refused()
    scene.sent = {"X-Verifier-Token": TOKEN.reveal()}
    assert await scene.compared() == 0

"""What is relied on of JetStream: by a real server, and by the one in memory that stands in for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from keyledger.events import GENESIS
from keyledger.server import jetstream
from keyledger.server.jetstream import Publication, StreamMissing, WrongLastSequence
from keyledger.server.log_stream import KEY_LOG, LogStream, SourceHead, StreamLimits
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import Bus
from tests.support.memory_jetstream import MemoryJetStream
from tests.support.memory_log import new_epoch

FIRST = 11
TAILS = ("ws_a.ws_a", "ws_b.ws_b", "ws_a.key_a", "ws_b.key_b", "ws_a.ws_a", "ws_b.key_c")


@pytest.fixture(params=["nats", "memory"])
async def bus(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[Bus]:
    memory = request.param == "memory"
    made: Bus = MemoryJetStream() if memory else await NatsBus.connect(nats_url, name="contract")
    yield made
    await made.close()


class Told:
    """A stream that begins at `FIRST` and tells of two workspaces in turn."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.epoch = new_epoch()
        self.stream = LogStream(bus, KEY_LOG, self.epoch, StreamLimits(max_msgs=100, max_bytes=1 << 20))
        self.name = self.stream.name

    async def tell(self, tails: Sequence[str], *, after: int) -> int:
        return await jetstream.append(
            self.bus,
            self.name,
            [
                Publication(KEY_LOG.subject_of(self.epoch, tail), tail.encode(), {"Kl-Tail": tail})
                for tail in tails
            ],
            after=after,
        )

    async def held(self) -> dict[int, str]:
        """What it holds, by sequence."""
        state = (await jetstream.info(self.bus, self.name)).state
        found: dict[int, str] = {}
        for sequence in range(FIRST, state.last_seq + 1):
            message = await jetstream.message(self.bus, self.name, sequence)
            if message is not None:
                assert message.headers["Kl-Tail"].encode() == message.body
                assert message.subject == KEY_LOG.subject_of(self.epoch, message.body.decode())
                found[sequence] = message.body.decode()
        assert state.messages == len(found)
        assert state.first_seq == min(found, default=state.last_seq + 1)
        return found


@pytest.fixture
async def told(bus: Bus) -> AsyncIterator[Told]:
    made = Told(bus)
    assert await made.stream.create(SourceHead(made.epoch, FIRST - 1, GENESIS))
    assert await made.held() == {}
    assert await made.tell(TAILS, after=FIRST - 1) == FIRST + 5
    yield made
    await jetstream.delete(bus, made.name)
    with pytest.raises(StreamMissing):
        await jetstream.info(bus, made.name)


EVERYTHING = dict(enumerate(TAILS, FIRST))
A_ANYWHERE = KEY_LOG.subject_of_any_line("ws_a.>")


async def test_a_purge_may_end_before_a_sequence_and_leaves_all_others_where_they_are(told: Told) -> None:
    assert await jetstream.purge(told.bus, told.name, A_ANYWHERE, before=15) == 2
    assert await told.held() == {12: "ws_b.ws_b", 14: "ws_b.key_b", 15: "ws_a.ws_a", 16: "ws_b.key_c"}
    # asked again, as after a crash, there is nothing left to do
    assert await jetstream.purge(told.bus, told.name, A_ANYWHERE, before=15) == 0
    assert await told.tell(["ws_c.ws_c"], after=16) == 17


@pytest.mark.parametrize("before", [0, 1, FIRST])
async def test_nothing_stands_before_the_first_sequence(told: Told, before: int) -> None:
    assert await jetstream.purge(told.bus, told.name, A_ANYWHERE, before=before) == 0
    assert await told.held() == EVERYTHING


async def test_a_bound_behind_the_end_is_none(told: Told) -> None:
    assert await jetstream.purge(told.bus, told.name, A_ANYWHERE, before=99) == 3
    assert list(await told.held()) == [12, 14, 16]


async def test_a_purge_without_a_bound_takes_the_last_one_too_and_the_stream_ends_where_it_did(
    told: Told,
) -> None:
    b = KEY_LOG.subject_of(told.epoch, "ws_b.>")
    assert await jetstream.purge(told.bus, told.name, b) == 3
    assert list(await told.held()) == [11, 13, 15]
    end = await told.stream.end()
    assert (end.position, end.hashed) == (16, 15)
    assert await jetstream.purge(told.bus, told.name) == 3
    assert await told.held() == {}
    end = await told.stream.end()
    assert (end.position, end.hashed, end.hash) == (16, FIRST - 1, GENESIS)
    with pytest.raises(WrongLastSequence):
        await told.tell(["ws_c.ws_c"], after=FIRST - 1)
    assert await told.tell(["ws_c.ws_c"], after=16) == 17


async def test_whoever_reads_on_over_a_hole_gets_the_next_message(told: Told) -> None:
    await jetstream.purge(told.bus, told.name, A_ANYWHERE, before=15)

    async def next_of(sequence: int, subject: str = ">") -> int | None:
        found = await jetstream.message_from(told.bus, told.name, sequence, subject)
        return None if found is None else found.sequence

    assert [await next_of(sequence) for sequence in range(FIRST, 18)] == [12, 12, 14, 14, 15, 16, None]
    assert await next_of(FIRST, A_ANYWHERE) == 15


async def test_the_last_word_about_a_subject(told: Told) -> None:
    async def last_of(tail: str) -> int | None:
        found = await jetstream.last_message(told.bus, told.name, KEY_LOG.subject_of_any_line(tail))
        return None if found is None else found.sequence

    assert [await last_of(tail) for tail in ("ws_a.ws_a", "ws_a.key_a", "ws_b.>", "ws_c.>")] == [
        15,
        13,
        16,
        None,
    ]
    await jetstream.purge(told.bus, told.name, KEY_LOG.subject_of_any_line("ws_b.>"))
    assert await last_of(">") == 15
    # which is why nobody asks so
    assert await jetstream.last_message(told.bus, told.name, ">") is None


async def test_streams_are_found_by_how_their_names_begin(told: Told) -> None:
    assert told.name in await jetstream.names(told.bus, "KEYS_")
    assert await jetstream.names(told.bus, told.name) == [told.name]
    assert await jetstream.names(told.bus, f"{told.name}_") == []


async def test_a_line_names_the_one_before_it(told: Told) -> None:
    next_line = new_epoch(2)
    after = LogStream(told.bus, KEY_LOG, next_line, StreamLimits(max_msgs=100, max_bytes=1 << 20))
    head = SourceHead(next_line, FIRST, b"\x01" * 32)
    assert await after.create(head, previous=told.epoch.line)
    # a relay that makes the same stream does not know that, and leaves what is there
    assert not await after.create(head)
    info = await jetstream.info(told.bus, after.name)
    await jetstream.delete(told.bus, after.name)
    assert info.metadata["previous_line"] == told.epoch.line.hex()

"""The bus over NATS when the broker is away, dies, freezes, or the client has silently stopped working."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from keyledger.verification import bus_link
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import BusUnavailable, Message
from tests.support.broker import Broker
from tests.support.gate import Gate
from tests.support.waiting import until


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as broker:
        yield broker


@pytest.fixture
async def bus(broker: Broker) -> AsyncIterator[NatsBus]:
    await broker.start()
    bus = await NatsBus.connect(broker.url, name="under test")
    yield bus
    await bus.close()


class Inbox:
    """A handler that keeps what it is given."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        self.bodies.append(message.body)

    async def ends_with(self, body: bytes) -> None:
        async def arrived() -> bool:
            return self.bodies[-1:] == [body]

        await until(arrived)


def connection(bus: NatsBus, *, is_there: bool) -> Callable[[], Awaitable[bool]]:
    async def as_wanted() -> bool:
        return bus.connected is is_there

    return as_wanted


async def test_a_bus_starts_without_a_broker_and_finds_it_later(broker: Broker) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    bus = await NatsBus.connect(broker.url, name="early", connect_timeout=0.1)
    assert loop.time() - began < 1
    assert not bus.connected
    inbox, disturbances = Inbox(), list[str]()
    bus.on_disturbance(disturbances.append)
    await bus.subscribe("later.>", inbox)
    with pytest.raises(BusUnavailable):
        await bus.publish("later.a", b"lost")
    with pytest.raises(BusUnavailable):
        await bus.request("later.a", b"lost", timeout=5)
    await broker.start()
    await until(connection(bus, is_there=True))
    await bus.publish("later.a", b"first")
    await inbox.ends_with(b"first")
    assert inbox.bodies == [b"first"]
    assert disturbances == ["connected"]
    await bus.close()


async def test_subscriptions_survive_a_killed_broker(bus: NatsBus, broker: Broker) -> None:
    inbox, disturbances = Inbox(), list[str]()
    bus.on_disturbance(disturbances.append)
    await bus.subscribe("a", inbox)
    for round_ in (b"1", b"2", b"3"):
        broker.kill()
        await until(connection(bus, is_there=False))
        await broker.start()
        await until(connection(bus, is_there=True))
        await bus.publish("a", round_)
        await inbox.ends_with(round_)
    assert inbox.bodies == [b"1", b"2", b"3"]
    assert disturbances == ["the connection was lost", "connected"] * 3


async def test_a_request_in_flight_hears_of_the_loss_at_once(bus: NatsBus, broker: Broker) -> None:
    asked = Inbox()
    await bus.subscribe("a", asked)
    request = asyncio.create_task(bus.request("a", b"?", timeout=60))
    await asked.ends_with(b"?")
    broker.kill()
    async with asyncio.timeout(5):
        with pytest.raises(BusUnavailable, match="connection was lost"):
            await request


async def test_a_handler_at_work_outlives_the_connection(bus: NatsBus, broker: Broker) -> None:
    started, go_on, inbox = asyncio.Event(), asyncio.Event(), Inbox()

    async def slow(message: Message) -> None:
        started.set()
        await go_on.wait()
        await inbox(message)

    await bus.subscribe("a", slow)
    await bus.publish("a", b"1")
    await started.wait()
    broker.kill()
    await until(connection(bus, is_there=False))
    go_on.set()
    await inbox.ends_with(b"1")


async def test_a_frozen_broker_is_given_up_and_found_again(bus: NatsBus, broker: Broker) -> None:
    inbox = Inbox()
    await bus.subscribe("a", inbox)
    broker.freeze()
    for _ in range(bus_link.TIMEOUTS_BEFORE_PROBE):
        with pytest.raises(BusUnavailable):
            await bus.request("a", b"?", timeout=0.05)
    await until(connection(bus, is_there=False))
    broker.thaw()
    await until(connection(bus, is_there=True), within=10)
    await bus.publish("a", b"again")
    await inbox.ends_with(b"again")


async def test_a_client_whose_read_loop_died_is_replaced(bus: NatsBus) -> None:
    async def answer(message: Message) -> None:
        await bus.publish(message.reply, b"!")

    await bus.subscribe("a", answer)
    # what an unexpected error in the client's parser does: its reading ends, and it says nothing
    reading = next(task for task in asyncio.all_tasks() if "Client._read_loop" in repr(task.get_coro()))
    reading.cancel()
    for _ in range(bus_link.TIMEOUTS_BEFORE_PROBE):
        with pytest.raises(BusUnavailable):
            await bus.request("a", b"?", timeout=0.05)
    await until(connection(bus, is_there=False))
    await until(connection(bus, is_there=True))
    assert (await bus.request("a", b"?", timeout=5)).body == b"!"


async def test_a_connection_reset_while_data_waits_for_it_is_replaced(broker: Broker) -> None:
    await broker.start()
    async with Gate(broker.url) as gate:
        url = broker.url.replace(str(broker.port), str(gate.port))
        bus = await NatsBus.connect(url, name="reset")
        inbox = Inbox()
        await bus.subscribe("a", inbox)
        gate.freeze(only_sent=True)
        with pytest.raises(BusUnavailable):
            while True:
                await bus.publish("b", bytes(500_000))
        request = asyncio.create_task(bus.request("a", b"?", timeout=60))
        await gate.cut()
        gate.thaw()
        await until(connection(bus, is_there=False))
        with pytest.raises(BusUnavailable):
            await request
        await gate.open()
        await until(connection(bus, is_there=True))
        await bus.publish("a", b"again")
        await inbox.ends_with(b"again")
        await bus.close()


async def test_a_slow_consumer_is_announced_when_it_begins_and_when_it_ends(
    bus: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_link, "PENDING_MESSAGES", 5)
    disturbances, handled, go_on = list[str](), Inbox(), asyncio.Event()

    async def slow(message: Message) -> None:
        await go_on.wait()
        await handled(message)

    bus.on_disturbance(disturbances.append)
    await bus.subscribe("a", slow)
    for number in range(20):
        await bus.publish("a", b"%d" % number)

    async def announced() -> bool:
        return bool(disturbances)

    await until(announced)
    go_on.set()

    async def announced_again() -> bool:
        return len(disturbances) == 2

    await until(announced_again)
    assert disturbances == ["slow consumer"] * 2
    await bus.publish("a", b"next")
    await handled.ends_with(b"next")
    assert len(handled.bodies) <= 7


async def test_a_handler_cancelled_from_within_is_called_again(bus: NatsBus) -> None:
    inbox = Inbox()

    async def handler(message: Message) -> None:
        await inbox(message)
        raise asyncio.CancelledError

    await bus.subscribe("a", handler)
    await bus.publish("a", b"1")
    await bus.publish("a", b"2")
    await inbox.ends_with(b"2")


async def test_a_message_too_large_is_an_error_of_its_sender(bus: NatsBus) -> None:
    with pytest.raises(ValueError, match="MaxPayloadError"):
        await bus.publish("a", bytes(5 << 20))
    assert bus.connected


@pytest.mark.parametrize("subject", ["", "a b", "a..b", "a.>.b", "a.b*", "a\r\nPING"])
async def test_a_subject_that_is_none_is_refused(bus: NatsBus, subject: str) -> None:
    with pytest.raises(ValueError, match="subject"):
        await bus.subscribe(subject, Inbox())


@pytest.mark.parametrize(
    "url", ["", "http://u:secret@h", "nats://u:secret@h:port", "nats://u:secret@", "nats://h:0"]
)
async def test_a_url_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="NATS URL") as refused:
        await NatsBus.connect(url, name="misconfigured")
    assert "secret" not in str(refused.value)


async def test_the_password_is_in_no_log_and_no_repr(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.start()
    wrong = broker.url.replace(broker.password, "wrong-password")
    with caplog.at_level(logging.DEBUG):
        bus = await NatsBus.connect(wrong, name="locked out", connect_timeout=0.3)
        assert not bus.connected
        assert repr(bus) == "<NatsBus locked out not connected>"
        await bus.close()
    assert "Authorization Violation" in caplog.text
    assert "wrong-password" not in caplog.text
    assert sum("cannot connect" in record.message for record in caplog.records) == 1


async def test_a_reopened_bus_has_all_its_subscriptions(bus: NatsBus) -> None:
    inbox, disturbances = Inbox(), list[str]()
    await bus.subscribe("again.>", inbox)
    bus.on_disturbance(disturbances.append)
    await bus.reopen("answers arrive, ticks do not")

    async def opened_anew() -> bool:
        return disturbances == ["the connection was lost", "connected"]

    await until(opened_anew)
    await bus.publish("again.a", b"heard")
    await inbox.ends_with(b"heard")

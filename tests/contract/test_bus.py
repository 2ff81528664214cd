"""What every `Bus` promises, in memory and over a real broker."""

import asyncio
import importlib
import importlib.util
import secrets
from collections.abc import AsyncIterator

import pytest

from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import Bus, BusUnavailable, Message
from tests.support.waiting import until

MEMORY = "tests.support.memory_bus"
KINDS = ["nats", *(["memory"] if importlib.util.find_spec(MEMORY) else [])]


@pytest.fixture(params=KINDS)
async def bus(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[Bus]:
    made: Bus
    if request.param == "nats":
        made = await NatsBus.connect(nats_url, name="contract")
    else:
        made = importlib.import_module(MEMORY).MemoryBus()
    yield made
    await made.close()


@pytest.fixture
def subject() -> str:
    """A subject of this test's own: the broker is shared."""
    return f"contract.{secrets.token_hex(6)}"


class Inbox:
    """A handler that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def bodies(self) -> list[bytes]:
        return [message.body for message in self.messages]

    async def has(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.messages) >= count

        await until(enough)


async def echo(bus: Bus, message: Message) -> None:
    await bus.publish(message.reply, message.body.upper(), {"Kl-Answer": "yes"})


async def test_a_subscriber_gets_everything_in_order(bus: Bus, subject: str) -> None:
    inbox = Inbox()
    await bus.subscribe(subject, inbox)
    for number in range(500):
        await bus.publish(subject, b"%d" % number)
    await inbox.has(500)
    assert inbox.bodies == [b"%d" % number for number in range(500)]
    assert {(message.subject, message.reply) for message in inbox.messages} == {(subject, "")}


async def test_headers_arrive_as_they_were_sent(bus: Bus, subject: str) -> None:
    inbox = Inbox()
    await bus.subscribe(subject, inbox)
    await bus.publish(subject, b"", {"Kl-Position": "7", "Kl-Epoch": "1-ab"})
    await bus.publish(subject, b"without")
    await inbox.has(2)
    assert dict(inbox.messages[0].headers) == {"Kl-Position": "7", "Kl-Epoch": "1-ab"}
    assert dict(inbox.messages[1].headers) == {}


@pytest.mark.parametrize(
    ("pattern", "hits"), [("*", ["a", "b"]), (">", ["a", "b", "a.b"]), ("*.b", ["a.b"]), ("a", ["a"])]
)
async def test_wildcards_choose_subjects(bus: Bus, subject: str, pattern: str, hits: list[str]) -> None:
    chosen, everything = Inbox(), Inbox()
    await bus.subscribe(f"{subject}.{pattern}", chosen)
    await bus.subscribe(f"{subject}.>", everything)
    for tail in ("a", "b", "a.b"):
        await bus.publish(f"{subject}.{tail}", tail.encode())
    await everything.has(3)
    await chosen.has(len(hits))
    assert chosen.bodies == [hit.encode() for hit in hits]


async def test_a_queue_group_takes_each_message_once(bus: Bus, subject: str) -> None:
    members, alone = [Inbox(), Inbox()], Inbox()
    for member in members:
        await bus.subscribe(subject, member, queue="workers")
    await bus.subscribe(subject, alone)
    for number in range(50):
        await bus.publish(subject, b"%d" % number)
    await alone.has(50)

    async def all_taken() -> bool:
        return sum(len(member.messages) for member in members) >= 50

    await until(all_taken)
    taken = members[0].bodies + members[1].bodies
    assert sorted(taken) == sorted(alone.bodies)


async def test_a_request_gets_its_own_answer(bus: Bus, subject: str) -> None:
    async def answer(message: Message) -> None:
        await echo(bus, message)

    await bus.subscribe(subject, answer)
    questions = [b"question %d" % number for number in range(50)]
    answers = await asyncio.gather(*(bus.request(subject, question, timeout=5) for question in questions))
    assert [answer.body for answer in answers] == [question.upper() for question in questions]
    assert answers[0].headers["Kl-Answer"] == "yes"


async def test_a_request_carries_headers(bus: Bus, subject: str) -> None:
    async def answer(message: Message) -> None:
        await bus.publish(message.reply, message.headers["Kl-Epoch"].encode())

    await bus.subscribe(subject, answer)
    answered = await bus.request(subject, b"", timeout=5, headers={"Kl-Epoch": "3-cd"})
    assert answered.body == b"3-cd"


async def test_a_question_nobody_hears_is_refused_at_once(bus: Bus, subject: str) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(BusUnavailable):
            await bus.request(subject, b"?", timeout=60)


async def test_a_question_nobody_answers_runs_out(bus: Bus, subject: str) -> None:
    inbox = Inbox()
    await bus.subscribe(subject, inbox)
    with pytest.raises(BusUnavailable):
        await bus.request(subject, b"?", timeout=0.05)
    await inbox.has(1)


async def test_messages_of_one_subscription_are_handled_one_after_the_other(bus: Bus, subject: str) -> None:
    running, most, handled = 0, 0, 0

    async def slow(_: Message) -> None:
        nonlocal running, most, handled
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        handled += 1

    await bus.subscribe(subject, slow)
    for _ in range(20):
        await bus.publish(subject, b"")

    async def done() -> bool:
        return handled == 20

    await until(done)
    assert most == 1


async def test_a_handler_that_fails_is_called_again(bus: Bus, subject: str) -> None:
    inbox = Inbox()

    async def handler(message: Message) -> None:
        await inbox(message)
        if message.body == b"bad":
            raise ValueError("cannot be read")

    await bus.subscribe(subject, handler)
    await bus.publish(subject, b"bad")
    await bus.publish(subject, b"good")
    await inbox.has(2)
    assert inbox.bodies == [b"bad", b"good"]


async def test_closing_hands_out_what_has_arrived(bus: Bus, subject: str) -> None:
    inbox = Inbox()

    async def slow(message: Message) -> None:
        await asyncio.sleep(0)
        await inbox(message)

    await bus.subscribe(subject, slow)
    for number in range(100):
        await bus.publish(subject, b"%d" % number)
    await bus.close()
    assert len(inbox.messages) == 100


async def test_a_closed_bus_says_so(bus: Bus, subject: str) -> None:
    assert bus.connected
    await bus.close()
    await bus.close()
    assert not bus.connected
    with pytest.raises(BusUnavailable):
        await bus.publish(subject, b"")
    with pytest.raises(BusUnavailable):
        await bus.request(subject, b"", timeout=1)


def marked(message: Message) -> bool:
    return message.body == b"enough"


async def test_a_question_may_have_many_answers(bus: Bus, subject: str) -> None:
    for body in (b"one", b"two", b"three"):

        async def answer(message: Message, body: bytes = body) -> None:
            await bus.publish(message.reply, body)

        await bus.subscribe(subject, answer)
    answers = await bus.request_all(subject, b"?", timeout=2, more=0.3, enough=marked)
    assert sorted(answer.body for answer in answers) == [b"one", b"three", b"two"]


async def test_the_first_good_answer_ends_the_waiting(bus: Bus, subject: str) -> None:
    async def answer(message: Message) -> None:
        for body in (b"no", b"enough", b"late"):
            await bus.publish(message.reply, body)

    await bus.subscribe(subject, answer)
    answers = await bus.request_all(subject, b"?", timeout=30, more=30, enough=marked)
    assert [answer.body for answer in answers] == [b"no", b"enough"]


async def test_nobody_to_answer_is_no_list(bus: Bus, subject: str) -> None:
    with pytest.raises(BusUnavailable):
        await bus.request_all(subject, b"?", timeout=1, more=1, enough=marked)

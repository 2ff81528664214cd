"""What the NATS bus is made of: one connection by nats-py, and one subscription that outlives it.

Traps of nats-py 2.16 that shape this file:

- an error line of the server closes the client for ever, and an unexpected error ends its read loop while
  `is_connected` stays True and `flush()` still succeeds; only `rtt()` proves that answers arrive;
- a PONG that arrives after `flush()` or `rtt()` gave up ends the read loop too, so a client whose ping
  timed out is thrown away here;
- a client that is reset while data waits for its socket is closed, and never says so: it fails to send that
  data before it would call back;
- requests in flight are left to their timeout when the connection is lost, and a handler that is running
  is cancelled; so both, requests and the queues before the handlers, are ours;
- a cancellation that arrives while a command waits for the flusher is swallowed, so nothing here waits
  for the flusher: a full outbound buffer is looked at before each send.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from keyledger.verification.ports import BusUnavailable, Handler, Message

PENDING_MESSAGES = 65_536
"""Messages that may wait before one handler; what comes on top is dropped and announced."""
PENDING_BYTES = 64 << 20
OUTBOUND_BYTES = 4 << 20
"""Bytes that may wait for the socket before a sender has to wait, `OUTBOUND_PATIENCE` seconds at most."""
OUTBOUND_PATIENCE = 1.0
PING_SECONDS = 5
"""nats-py's own default would notice a dead peer after four minutes; this one after fifteen seconds."""
PROBE_SECONDS = 1
LOOK_SECONDS = 0.25
"""How often a connection is looked at that has not said that it is lost."""
TIMEOUTS_BEFORE_PROBE = 3

_log = logging.getLogger(__name__)


class Link:
    """One connection: a client, an inbox for answers, and who waits for them."""

    def __init__(self, inbox_prefix: str) -> None:
        self.lost = asyncio.Event()
        self.why = ""
        self._client = Client()
        self._inbox = f"{inbox_prefix}.{secrets.token_hex(11)}"
        self._tokens = count()
        # who takes an answer, or the words why there is none
        self._waiting: dict[str, Callable[[Message | str], None]] = {}
        self._attached: list[NatsSubscription] = []
        self._timeouts = 0
        self._probe: asyncio.Task[None] | None = None

    @property
    def usable(self) -> bool:
        return not self.lost.is_set() and self._client.is_connected

    async def connect(self, servers: list[str], name: str, disturbed: Callable[[str], None]) -> None:
        async def closed() -> None:
            self.fail(words(self._client.last_error) if self._client.last_error else "closed by the broker")

        async def trouble(error: Exception) -> None:
            if isinstance(error, errors.SlowConsumerError):
                disturbed("slow consumer")
            # a lost connection ends in `closed`, a refused one in `connect`; the rest is about permissions
            elif self._client.is_connected and not isinstance(error, errors.StaleConnectionError | OSError):
                _log.warning("the broker or its client complains: %s", words(error))

        await self._client.connect(
            servers,
            name=name,
            error_cb=trouble,
            closed_cb=closed,
            allow_reconnect=False,
            # else nats-py tries a refused port sixty times, and sleeps two seconds before each
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            ping_interval=PING_SECONDS,
            max_outstanding_pings=2,
            pending_size=2 * OUTBOUND_BYTES,
        )
        await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def over(self) -> None:
        """Return when this connection is lost, whether its client has said so or not."""
        while not self.lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.lost.wait()
            if not self._client.is_connected:
                self.fail("the client is closed and did not say so")

    async def attach(self, subscriptions: list[Subscription]) -> None:
        """Subscribe them here; on return the broker knows them."""
        for subscription in subscriptions:
            subscription.link = self
            self._attached.append(
                await self._client.subscribe(
                    subscription.subject, queue=subscription.queue, cb=subscription.arrived
                )
            )
        await self._client.rtt(timeout=2)

    async def send(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None, *, reply: str = ""
    ) -> None:
        if self._client.pending_data_size > OUTBOUND_BYTES:
            await self._outbound_room()
        try:
            await self._client.publish(subject, body, reply, dict(headers) if headers else None)
        except (errors.BadSubjectError, errors.BadHeaderError, errors.MaxPayloadError) as error:
            raise ValueError(f"the broker takes no such message: {type(error).__name__}") from error
        except (errors.Error, OSError) as error:
            raise BusUnavailable(words(error)) from error

    async def request(
        self, subject: str, body: bytes, headers: Mapping[str, str] | None, timeout: float
    ) -> Message:
        def first(answer: Message) -> bool:
            del answer
            return True

        return (await self.request_all(subject, body, timeout, 0, first, headers=headers))[0]

    async def request_all(
        self,
        subject: str,
        body: bytes,
        timeout: float,
        more: float,
        enough: Callable[[Message], bool],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> list[Message]:
        loop = asyncio.get_running_loop()
        token = str(next(self._tokens))
        over: asyncio.Future[str] = loop.create_future()
        answers: list[Message] = []

        def take(answer: Message | str) -> None:
            if over.done():
                return
            if isinstance(answer, str):
                over.set_result(answer)
                return
            answers.append(answer)
            if enough(answer):
                over.set_result("")
            elif len(answers) == 1:
                timers.append(loop.call_later(more, take, ""))

        self._waiting[token] = take
        # timers, not cancellations: nats-py swallows those
        timers = [loop.call_later(timeout, self._expired, token, timeout)]
        try:
            await self.send(subject, body, headers, reply=f"{self._inbox}.{token}")
            why = await over
        finally:
            for timer in timers:
                timer.cancel()
            self._waiting.pop(token, None)
        if not answers:
            raise BusUnavailable(why)
        return answers

    def fail(self, why: str) -> None:
        """Give this connection up: whoever waits for an answer is told now."""
        if not self.lost.is_set():
            self.why = why
            self.lost.set()
        for token in tuple(self._waiting):
            self._settle(token, f"the connection was lost: {self.why}")

    async def stop_incoming(self) -> None:
        """Unsubscribe everything but the inbox; what has arrived is then before the handlers."""
        with contextlib.suppress(errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(PROBE_SECONDS):
                await asyncio.gather(*(each.drain() for each in self._attached))

    async def close(self, why: str, *, flush: bool = False) -> None:
        self.fail(why)
        if self._probe:
            self._probe.cancel()
        with contextlib.suppress(errors.Error, OSError, TimeoutError):
            async with asyncio.timeout(PROBE_SECONDS):
                if flush and self._client.is_connected:
                    await self._client.rtt(timeout=1)
        # one that cannot even be closed is dropped as it is
        with contextlib.suppress(Exception):
            async with asyncio.timeout(PROBE_SECONDS):
                await self._client.close()

    async def _outbound_room(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + OUTBOUND_PATIENCE
        while self._client.pending_data_size > OUTBOUND_BYTES:
            if loop.time() > deadline or not self.usable:
                raise BusUnavailable("the outbound buffer is full")
            await asyncio.sleep(0.001)

    async def _answered(self, message: Msg) -> None:
        self._timeouts = 0
        headers = message.headers or {}
        token = message.subject.rpartition(".")[2]
        if headers.get("Status") == "503" and not message.data:
            self._settle(token, "nobody answers this subject")
        else:
            self._settle(token, Message(message.subject, message.data, headers, message.reply))

    def _settle(self, token: str, answer: Message | str) -> None:
        if take := self._waiting.get(token):
            take(answer)

    def _expired(self, token: str, timeout: float) -> None:
        self._settle(token, f"no answer within {timeout:g} s")
        self._timeouts += 1
        if self._timeouts >= TIMEOUTS_BEFORE_PROBE and self._probe is None:
            self._probe = asyncio.create_task(self._prove_alive())

    async def _prove_alive(self) -> None:
        """Give the connection up when not even a ping is answered: its read loop may be dead."""
        try:
            await self._client.rtt(timeout=PROBE_SECONDS)
        except (errors.Error, OSError, TimeoutError, RuntimeError, AttributeError) as error:
            self.fail(f"answers do not arrive: {words(error)}")
        else:
            self._timeouts = 0
            self._probe = None


class Subscription:
    """One subscription over all connections: a bounded queue, and one task that calls the handler."""

    def __init__(self, subject: str, queue: str, handler: Handler, disturbed: Callable[[str], None]) -> None:
        self.subject = subject
        self.queue = queue
        self.link: Link | None = None
        self.idle = asyncio.Event()
        self.idle.set()
        self._handler = handler
        self._disturbed = disturbed
        self._pending: deque[Message] = deque()
        self._bytes = 0
        self._dropped = 0
        self._some = asyncio.Event()
        self._task = asyncio.create_task(self._work(), name=f"handler of {subject}")

    async def arrived(self, message: Msg) -> None:
        """Queue the message, or drop it when the handler is too far behind."""
        size = len(message.data)
        if len(self._pending) >= PENDING_MESSAGES or self._bytes + size > PENDING_BYTES:
            self._dropped += 1
            if self._dropped == 1:
                self._disturbed("slow consumer")
            return
        self._pending.append(Message(message.subject, message.data, message.headers or {}, message.reply))
        self._bytes += size
        self.idle.clear()
        self._some.set()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _work(self) -> None:
        for handled in count(1):
            if not self._pending:
                await self._rest()
            message = self._pending.popleft()
            self._bytes -= len(message.body)
            await self._handle(message)
            if handled % 64 == 0:
                # a handler that never waits would keep the loop to itself
                await asyncio.sleep(0)

    async def _rest(self) -> None:
        if self._dropped:
            # a repair that began while messages were still being dropped may have missed the last ones
            _log.warning("%d messages of %s dropped: slow consumer", self._dropped, self.subject)
            self._dropped = 0
            self._disturbed("slow consumer")
        self.idle.set()
        self._some.clear()
        await self._some.wait()

    async def _handle(self, message: Message) -> None:
        try:
            await self._handler(message)
        except asyncio.CancelledError:
            if self._task.cancelling():
                raise
            _log.error("the handler of %s was cancelled from within", self.subject)
        except Exception as error:
            _log.error("the handler of %s failed: %s", self.subject, words(error))


def words(error: BaseException) -> str:
    """What went wrong, with the place for what is not the broker's doing."""
    text = f"{type(error).__name__} {error}".strip()
    if isinstance(error, errors.Error | OSError | TimeoutError) or error.__traceback__ is None:
        return text
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return f"{text} ({trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})"

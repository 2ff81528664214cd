"""The socket of one client: what is sent, whose turn it is, and how it ends."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any, cast

from keyledger.errors import Refusal, unavailable
from services.verifier.handlers.fields import Fields
from services.verifier.listener.bounds import HIGH_WATER, REFUSED_AT_ONCE
from services.verifier.listener.shared import Shared, Watched
from services.verifier.listener.writing import CLOSE, written

NOTHING = Fields(())


class Channel(asyncio.Protocol, Watched):
    """Whoever reads requests from it says what `_work` and `_settle` do, and when it may end."""

    def __init__(self, shared: Shared) -> None:
        self.deadline = 0.0
        self._shared = shared
        self._endpoints = shared.endpoints
        self._transport: asyncio.Transport = cast("Any", None)
        self._tls = False
        # what has arrived and not been looked at
        self._rest = b""
        # how what can be answered without a closer look begins; None while nothing is looked at
        self._expected: bytes | None = None
        # whether nothing is looked at for now: a task answers, the client is slow, others have their turn
        self._held = False
        self._task: asyncio.Task[None] | None = None
        self._stalled = False
        self._reading = True
        self._eof = False
        self._ended = False

    @abstractmethod
    def _work(self, data: bytes) -> None:
        """Look at what has arrived."""

    @abstractmethod
    def _settle(self) -> None:
        """Nothing can be done before more arrives."""

    # -- the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._tls = transport.get_extra_info("sslcontext") is not None
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        shared = self._shared
        beyond = shared.add(self) - shared.bounds.connections
        self.deadline = shared.after(shared.bounds.head)
        if beyond > REFUSED_AT_ONCE:
            self._transport.abort()
        elif beyond > 0:
            self._refuse([], unavailable("busy", "Too many connections."))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._shared.forget(self)
        self._ended = self._held = True
        self._rest = b""
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._stalled = self._held = True
        self._expected = None
        self._read(on=False)
        if self._task is None:
            self.deadline = self._shared.after(self._shared.bounds.stall)

    def resume_writing(self) -> None:
        self._stalled = False
        self._go_on()

    # -- the listener's call

    def abort(self) -> None:
        """End it, whatever is going on."""
        self._transport.abort()

    # -- turns

    def _yield(self) -> None:
        self._held = True
        asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Look at what has arrived meanwhile, unless something else still holds it up."""
        if self._ended or self._stalled or self._task is not None:
            return
        self._held = False
        rest, self._rest = self._rest, b""
        self._read(on=True)
        if rest:
            self._work(rest)
        else:
            self._settle()

    def _read(self, *, on: bool) -> None:
        if on is not self._reading:
            self._reading = on
            (self._transport.resume_reading if on else self._transport.pause_reading)()

    # -- what is sent, and the end

    def _write(self, out: list[bytes]) -> None:
        if out:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def _refuse(self, out: list[bytes], refusal: Refusal, fields: Fields = NOTHING) -> None:
        """Answer what is no request, or is not read, and end the connection."""
        answer = self._endpoints.failed(refusal, fields)
        out.append(written(answer, date=self._shared.date, connection=CLOSE, body=True))
        self._end(out, unread=True)

    def _end(self, out: list[bytes], *, unread: bool) -> None:
        """Send what there is to send, and nothing more.

        A socket that is closed with bytes unread takes the answer back, so the client ends it.
        """
        self._ended = self._held = True
        self._expected = None
        self._rest = b""
        self._write(out)
        self._read(on=True)
        shared = self._shared
        # a client that wished for the end sends nothing more; over TLS there is no half of it
        done = not unread and (self._tls or not shared.leaving)
        if self._eof or done or shared.closing:
            self._close()
            return
        bounds = shared.bounds
        waiting = self._transport.get_write_buffer_size() > 0
        self.deadline = shared.after(bounds.stall if waiting else bounds.linger)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _close(self) -> None:
        self._ended = self._held = True
        self._expected = None
        self.deadline = self._shared.after(self._shared.bounds.stall)
        self._transport.close()

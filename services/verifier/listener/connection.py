"""One connection: requests in, answers out, in their order.

What can be answered at once is answered where it arrives, and everything that arrived together is answered
in one write. An answer that has to wait is given by a task, and what stands behind it waits its turn.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from keyledger.errors import Refusal, invalid_request, unavailable
from keyledger.server.edge import BODY_LIMIT
from keyledger.verification.answer import Answer
from keyledger.verification.proving import Unproven
from keyledger.verification.verdict import Ungranted
from services.verifier.handlers.fields import Fields
from services.verifier.handlers.verify import Waits
from services.verifier.listener.answering import answer_later, answer_now
from services.verifier.listener.bodies import Body, Chunked, Counted
from services.verifier.listener.bounds import AT_ONCE, BACKLOG, PASSED_OVER
from services.verifier.listener.channel import NOTHING, Channel
from services.verifier.listener.heads import CHUNKED, HEAD_LIMIT, Head, malformed, read_head, too_large
from services.verifier.listener.shared import Shared
from services.verifier.listener.writing import CLOSE, CONTINUE, KEEP, written
from services.verifier.routes.hot import Route, limit_of, route_of

_END = b"\r\n\r\n"
_NEVER = float("inf")


class Connection(Channel):
    """A client. Past its `deadline` `expire` is to be called."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        # how much of what has arrived is known to be no whole head
        self._scanned = 0
        self._arriving = False
        # the last head, as bytes and as what it says: most are the same as the one before
        self._raw = b""
        self._head: Head = cast("Any", None)
        self._route = Route.REST
        # how the same check would begin again, if it is a plain one
        self._plain: bytes | None = None
        # the body that is arriving; whether its request was answered before
        self._body: Body | None = None
        self._answered = False
        self._unread = False
        self._surplus = 0

    # -- the transport's calls

    def data_received(self, data: bytes) -> None:
        if (
            self._expected is not None
            and data.startswith(self._expected)
            and len(data) == len(self._expected) + self._head.length
            and self._again(data)
        ):
            return
        if self._ended:
            self._surplus += len(data)
            if self._surplus > PASSED_OVER:
                self._transport.abort()
            return
        if self._rest:
            data = self._rest + data
        if self._held:
            self._rest = data
            if len(data) > BACKLOG:
                self._read(on=False)
            return
        self._work(data)

    def eof_received(self) -> bool:
        self._eof = True
        if self._ended:
            return False
        if not self._held:
            self._leave_at_eof()
        # over TLS there is no half of a connection
        return not self._tls

    # -- the listener's calls

    def expire(self) -> None:
        """The deadline is over."""
        if self._ended or self._held:
            self._transport.abort()
        elif self._arriving or self._body is not None:
            fields = NOTHING if self._body is None else self._head.fields
            self._refuse([], Refusal("request_timeout", "The request did not arrive in time."), fields)
        else:
            self._close()

    def leave(self) -> None:
        """Close at once if nothing is asked, else with the answer."""
        if self._ended or not (self._held or self._arriving or self._body is not None):
            self._close()

    # -- requests

    def _again(self, data: bytes) -> bool:
        """Answer a check whose head is that of the one before; False when it is not answered by a verdict."""
        shared, fields = self._shared, self._head.fields
        if shared.leaving:
            return False
        self.deadline = shared.idle_until
        try:
            content = shared.verify_now(fields, b"", data[-self._head.length :])
        except Exception:
            # nothing was spent: it is asked once more, where all of that is told
            return False
        self._transport.write(shared.verdict(content, fields))
        return True

    def _work(self, data: bytes) -> None:
        # what is whole is answered in one write, and the rest kept
        self._expected = None
        out: list[bytes] = []
        at, size, turns = 0, len(data), AT_ONCE
        try:
            while at < size and not self._held:
                if self._body is not None:
                    at = self._body.feed(data, at)
                    if self._body.done:
                        self._take_body(out)
                elif not turns:
                    self._yield()
                else:
                    turns -= 1
                    end = data.find(_END, at)
                    if end >= 0:
                        at = self._request(data, at, end, out)
                    elif self._empty_line(data, at):
                        at += 2
                    else:
                        break
        except Refusal as refusal:
            self._refuse(out, refusal, NOTHING if self._body is None else self._head.fields)
        if self._ended:
            self._rest = b""
            return
        self._rest = data[at:] if at < size else b""
        self._write(out)
        if not self._held:
            self._settle()

    def _empty_line(self, data: bytes, at: int) -> bool:
        """Whether an empty line is there; if not, it is the beginning of a head that may become one."""
        if data.startswith(b"\r\n", at):
            return True
        if len(data) - at > HEAD_LIMIT:
            raise too_large(data[at:])
        if malformed(data, at + max(0, self._scanned - 1)):
            raise invalid_request("The request is malformed.")
        self._scanned = len(data) - at
        return False

    def _request(self, data: bytes, at: int, end: int, out: list[bytes]) -> int:
        """Take the request whose head is `data[at:end]`; where it stopped."""
        raw = data[at : end + 2]
        if raw != self._raw:
            if raw.startswith(b"\r\n"):
                # an empty line before the request line is passed over
                return at + 2
            if len(raw) > HEAD_LIMIT:
                raise too_large(raw)
            self._head = head = read_head(raw)
            self._raw = raw
            self._route = route = route_of(head.path)
            simple = head.method == "POST" and head.modern and head.keep and not head.query
            plain = simple and route is Route.VERIFY
            self._plain = raw + b"\r\n" if plain and 0 < head.length <= BODY_LIMIT else None
        self._scanned, self._arriving = 0, False
        at = end + len(_END)
        head = self._head
        length = head.length
        if not length:
            self._serve(b"", out, keep=head.keep)
        elif self._route is Route.VERIFY and 0 < length <= min(len(data) - at, BODY_LIMIT):
            self._serve(data[at : at + length], out, keep=head.keep)
            at += length
        else:
            self._begin_body(out, arrived=len(data) > at)
        return at

    def _begin_body(self, out: list[bytes], *, arrived: bool) -> None:
        """Settle what becomes of a body; the gateway's, and that of a wrong method, is passed over."""
        head, route = self._head, self._route
        early = route is Route.GATEWAY or (route is not Route.REST and head.method != "POST")
        limit = PASSED_OVER if early else limit_of(route)
        # one who waits for a 100 may send the body all the same, or not
        unread = head.length > limit or (early and head.expects and not arrived)
        if unread and not early:
            self._refuse(out, Refusal("payload_too_large", "The body is too large."), head.fields)
            return
        if not unread:
            counted = head.length != CHUNKED
            self._body = Counted(head.length, keep=not early) if counted else Chunked(limit, keep=not early)
            self._answered = early
            self.deadline = self._shared.after(self._shared.bounds.body)
        if early:
            self._unread = unread
            self._serve(b"", out, keep=head.keep and not unread)
        elif head.expects and not arrived:
            out.append(CONTINUE)

    def _take_body(self, out: list[bytes]) -> None:
        """The body is whole."""
        body, self._body = self._body, None
        if self._answered or body is None:
            self._answered = False
        else:
            self._serve(body.content(), out, keep=self._head.keep)

    def _serve(self, body: bytes, out: list[bytes], *, keep: bool) -> None:
        """Answer the request of the present head now, or have it answered later."""
        head, endpoints = self._head, self._endpoints
        fields = head.fields
        try:
            if self._route is Route.VERIFY and head.method == "POST":
                content = endpoints.verify_now(fields, head.query, body)
                if keep and head.modern and not self._shared.leaving:
                    out.append(self._shared.verdict(content, fields))
                    return
                answer = endpoints.told(content, fields)
            else:
                answer = answer_now(endpoints, self._route, head)
        except (Waits, Unproven, Ungranted):
            self._held = True
            self.deadline = _NEVER
            self._task = asyncio.create_task(self._finish(body, keep=keep), name="answer later")
            return
        except Exception as error:
            answer = endpoints.failed(error, fields)
        self._answer(answer, out, keep=keep)

    async def _finish(self, body: bytes, *, keep: bool) -> None:
        """Answer once it is known what."""
        fields = self._head.fields
        try:
            async with asyncio.timeout(self._shared.bounds.answer):
                answer = await answer_later(self._shared, self._route, self._head, body, self._transport)
        except TimeoutError:
            answer = self._endpoints.failed(unavailable("busy", "It takes too long."), fields)
        except Exception as error:
            answer = self._endpoints.failed(error, fields)
        self._task = None
        self.deadline = self._shared.after(self._shared.bounds.body)
        out: list[bytes] = []
        self._answer(answer, out, keep=keep)
        self._write(out)
        self._go_on()

    # -- answers

    def _answer(self, answer: Answer, out: list[bytes], *, keep: bool) -> None:
        """Add the answer; the connection ends with it unless it may be kept."""
        keep = keep and not self._shared.leaving
        connection = CLOSE if not keep else b"" if self._head.modern else KEEP
        sent = self._head.method != "HEAD"
        out.append(written(answer, date=self._shared.date, connection=connection, body=sent))
        if not keep:
            self._end(out, unread=self._unread or self._body is not None)

    def _refuse(self, out: list[bytes], refusal: Refusal, fields: Fields = NOTHING) -> None:
        if self._answered:
            self._end(out, unread=True)
        else:
            super()._refuse(out, refusal, fields)

    def _end(self, out: list[bytes], *, unread: bool) -> None:
        self._body = None
        super()._end(out, unread=unread)

    # -- when all is looked at

    def _settle(self) -> None:
        if self._eof:
            self._leave_at_eof()
        elif not self._rest:
            if self._body is None:
                self.deadline = self._shared.idle_until
                self._expected = self._plain
        elif not self._arriving:
            self._arriving = True
            self.deadline = self._shared.after(self._shared.bounds.head)

    def _leave_at_eof(self) -> None:
        if self._arriving or self._rest or self._body is not None:
            self._refuse([], invalid_request("The request ends too early."))
        else:
            self._close()

"""As much of JetStream as the relay uses, in memory, with every answer and every arrival up for loss."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from keyledger.verification.ports import BusUnavailable, Message
from tests.support.memory_bus import MemoryBus, matches

Fate = Literal["stored", "lost", "unheard", "late"]
"""What becomes of a publish: stored and acknowledged; never arrived; stored, its answer lost; arrived
only after its publisher gave up and asked anew."""


NAMES_AT_ONCE = 1024


class Refused(Exception):
    """An error answer of the server."""

    def __init__(self, code: int) -> None:
        self.code = code


class MemoryStream:
    """Messages by sequence; what is stored comes last."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.messages: dict[int, tuple[str, Mapping[str, str], bytes]] = {}
        self.last = config["first_seq"] - 1

    def of(self, subject: str) -> list[int]:
        """The sequences of the messages of this subject."""
        return [sequence for sequence, (of, _, _) in self.messages.items() if matches(subject, of)]

    def purge(self, question: Mapping[str, Any]) -> int:
        """Remove what is asked for; how many messages that were."""
        bound = question.get("seq", 0)
        if bound <= 1:
            # as the server takes it
            bound = self.last + 1
        gone = [sequence for sequence in self.of(question.get("filter", ">")) if sequence < bound]
        for sequence in gone:
            del self.messages[sequence]
        return len(gone)


class MemoryJetStream(MemoryBus):
    """A broker that keeps streams, which any number of relays may share."""

    def __init__(self, fate: Callable[[], Fate] = lambda: "stored") -> None:
        super().__init__()
        self.streams: dict[str, MemoryStream] = {}
        self.asked: list[str] = []
        self._fate = fate
        self._batches: dict[str, list[tuple[str, bytes, Mapping[str, str]]]] = {}
        self._late: list[list[tuple[str, bytes, Mapping[str, str]]]] = []

    async def publish(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._require()
        headers = headers or {}
        self._batches.setdefault(headers["Nats-Batch-Id"], []).append((subject, body, headers))

    async def request(
        self, subject: str, body: bytes, *, timeout: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        self._require()
        try:
            if subject.startswith("$JS.API."):
                answer = self._api(subject.removeprefix("$JS.API."), msgspec.json.decode(body or b"{}"))
            else:
                answer = self._published(subject, body, headers or {})
        except Refused as refused:
            answer = {"error": {"code": 400, "err_code": refused.code, "description": "refused"}}
        return Message("_INBOX.x", msgspec.json.encode(answer), {})

    def _published(self, subject: str, body: bytes, headers: Mapping[str, str]) -> Mapping[str, Any]:
        batch = [*self._batches.pop(headers.get("Nats-Batch-Id", ""), []), (subject, body, headers)]
        fate = self._fate()
        late, self._late = self._late, []
        match fate:
            case "lost":
                pass
            case "late":
                self._late.append(batch)
            case "unheard":
                self._try_store(batch)
            case "stored":
                answer = self._store(batch)
                self._store_late(late)
                return answer
        self._store_late(late)
        raise BusUnavailable("no answer")

    def _store_late(self, batches: list[list[tuple[str, bytes, Mapping[str, str]]]]) -> None:
        for batch in batches:
            self._try_store(batch)

    def _try_store(self, batch: list[tuple[str, bytes, Mapping[str, str]]]) -> None:
        try:
            self._store(batch)
        except (Refused, BusUnavailable):
            return

    def _store(self, batch: list[tuple[str, bytes, Mapping[str, str]]]) -> Mapping[str, Any]:
        fence = batch[0][2]
        stream = self.streams.get(fence["Nats-Expected-Stream"])
        if stream is None:
            raise BusUnavailable("nobody answers this subject")
        if stream.last != int(fence["Nats-Expected-Last-Sequence"]):
            raise Refused(10071)
        for subject, body, headers in batch:
            stream.last += 1
            stream.messages[stream.last] = (subject, headers, body)
        return {"stream": stream.config["name"], "seq": stream.last, "count": len(batch)}

    def _api(self, call: str, question: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(call)
        if call == "STREAM.NAMES":
            page = sorted(self.streams)[question["offset"] :][:NAMES_AT_ONCE]
            return {"total": len(self.streams), "streams": page or None}
        verb, name = call.rsplit(".", 1)
        if verb == "STREAM.CREATE":
            return self._create(name, question)
        if name not in self.streams:
            raise Refused(10059)
        stream = self.streams[name]
        if verb == "STREAM.MSG.GET":
            return {"message": self._message(stream, question)}
        if verb == "STREAM.PURGE":
            return {"success": True, "purged": stream.purge(question)}
        if verb == "STREAM.DELETE":
            del self.streams[name]
            return {"success": True}
        assert verb == "STREAM.INFO"
        return self._info(stream)

    def _create(self, name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
        stream = self.streams.setdefault(name, MemoryStream(config))
        if stream.config != config:
            raise Refused(10058)
        return self._info(stream)

    def _info(self, stream: MemoryStream) -> Mapping[str, Any]:
        first = min(stream.messages, default=stream.last + 1)
        state = {"messages": len(stream.messages), "first_seq": first, "last_seq": stream.last}
        return {"state": state, "config": stream.config}

    def _message(self, stream: MemoryStream, question: Mapping[str, Any]) -> Mapping[str, Any]:
        sequence = question.get("seq", 0)
        if (after := question.get("next_by_subj")) is not None:
            sequence = min((each for each in stream.of(after) if each >= sequence), default=0)
        elif (last := question.get("last_by_subj")) is not None:
            # as the server takes it, `>` is the last sequence, which may be purged
            sequence = stream.last if last == ">" else max(stream.of(last), default=0)
        if sequence not in stream.messages:
            raise Refused(10037)
        subject, headers, body = stream.messages[sequence]
        block = "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
        found = {"seq": sequence, "subject": subject, "hdrs": b64encode(block.encode()).decode()}
        return {**found, "data": b64encode(body).decode()}

"""From the answer to a change until a verifier refuses: revoked keys, rotated secrets, narrowed scopes."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from bench.stage import Stage

SCOPES = ["contacts:read"]
LONGEST = 5.0
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
Change = Callable[[str], tuple[str, str, dict[str, object]]]

CHANGES: dict[str, Change] = {
    "revoked": lambda place: ("POST", f"{place}/revoke", {}),
    "rotated": lambda place: ("POST", f"{place}/rotate", {"overlap_seconds": 0}),
    "scopes changed": lambda place: ("PATCH", place, {"scopes": ["other"]}),
}


def lags(stage: Stage, what: str, tokens: Sequence[str]) -> list[float]:
    """For each key: milliseconds from the change's answer to the first refusal's arrival. Blocks.

    One connection asks without a pause, so each lag holds the time of the request that was refused.
    """
    headers = {"X-API-Key": stage.home.bootstrapped()["management_key"], "Content-Type": "application/json"}
    keys = http.client.HTTPConnection("127.0.0.1", stage.base + 1, timeout=10)
    found: list[float] = []
    with _Asking(stage.base + 2) as verifier:
        for token in tokens:
            asked = verifier.question(token)
            before = json.loads(verifier.ask(asked))
            assert before["valid"], before["code"]
            place = f"/v1/workspaces/{before['workspace_id']}/keys/{before['key_id']}"
            method, path, body = CHANGES[what](place)
            keys.request(method, path, json.dumps(body).encode(), headers)
            answer = keys.getresponse()
            text = answer.read()
            answered = time.perf_counter()
            assert answer.status in (200, 201), text
            while b'"valid":true' in verifier.ask(asked):
                if time.perf_counter() - answered > LONGEST:
                    raise RuntimeError(f"a key is still valid {LONGEST} s after it was {what}")
            found.append((time.perf_counter() - answered) * 1000)
    keys.close()
    return found


class _Asking:
    """One connection to a verifier; a client library takes as long as the verifier to answer twice."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def question(self, token: str) -> bytes:
        """A look at this token, which spends nothing."""
        body = json.dumps({"key": token, "scopes": SCOPES, "cost": 0}).encode()
        lines = ("POST /v1/verify HTTP/1.1", "Host: v", "Content-Type: application/json")
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    def ask(self, question: bytes) -> bytes:
        """The answer's body."""
        self._socket.sendall(question)
        answer = b""
        while True:
            answer += self._socket.recv(65536)
            head, end, body = answer.partition(b"\r\n\r\n")
            if end and len(body) == int(_LENGTH.search(head + b"\r\n")[1]):  # type: ignore[index]
                return body

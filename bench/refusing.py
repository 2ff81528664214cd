"""From the answer to a change until a verifier refuses: revoked keys, rotated secrets, narrowed scopes."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable, Sequence

from bench.stage import Stage

SCOPES = ["contacts:read"]
LONGEST = 5.0
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
    with socket.create_connection(("127.0.0.1", stage.base + 2), timeout=5) as verifier:
        verifier.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for token in tokens:
            question = _question(token)
            before = json.loads(_answered(verifier, question).partition(b"\r\n\r\n")[2])
            place = f"/v1/workspaces/{before['workspace_id']}/keys/{before['key_id']}"
            method, path, body = CHANGES[what](place)
            keys.request(method, path, json.dumps(body), headers)
            answer = keys.getresponse()
            text = answer.read()
            answered = time.perf_counter()
            assert answer.status in (200, 201), text
            while b'"valid":true' in _answered(verifier, question):
                if time.perf_counter() - answered > LONGEST:
                    raise RuntimeError(f"a key is still valid {LONGEST} s after it was {what}")
            found.append((time.perf_counter() - answered) * 1000)
    keys.close()
    return found


def _question(token: str) -> bytes:
    body = json.dumps({"key": token, "scopes": SCOPES, "cost": 0}).encode()
    head = f"POST /v1/verify HTTP/1.1\r\nHost: v\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + body


def _answered(connection: socket.socket, question: bytes) -> bytes:
    """An answer, which comes in one piece."""
    connection.sendall(question)
    return connection.recv(65536)

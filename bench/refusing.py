"""From the answer to a change until a verifier refuses: revoked keys, rotated secrets, narrowed scopes."""

from __future__ import annotations

import http.client
import json
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
    verifier = http.client.HTTPConnection("127.0.0.1", stage.base + 2, timeout=10)
    found: list[float] = []
    for token in tokens:
        asked = json.dumps({"key": token, "scopes": SCOPES, "cost": 0})
        before = _posted(verifier, asked)
        assert before["valid"], before["code"]
        method, path, body = CHANGES[what](f"/v1/workspaces/{before['workspace_id']}/keys/{before['key_id']}")
        keys.request(method, path, json.dumps(body), headers)
        answer = keys.getresponse()
        text = answer.read()
        answered = time.perf_counter()
        assert answer.status in (200, 201), text
        while _posted(verifier, asked)["valid"]:
            if time.perf_counter() - answered > LONGEST:
                raise RuntimeError(f"a key is still valid {LONGEST} s after it was {what}")
        found.append((time.perf_counter() - answered) * 1000)
    keys.close()
    verifier.close()
    return found


def _posted(connection: http.client.HTTPConnection, body: str) -> dict[str, object]:
    connection.request("POST", "/v1/verify", body, {"Content-Type": "application/json"})
    return json.loads(connection.getresponse().read())

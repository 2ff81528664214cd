"""The time of a refusal does not tell which one it is, in short; `bench/timing.py` measures it at length."""

from __future__ import annotations

import json
import random
import statistics
import time

import pytest

from keyledger.clock import stopwatch
from keyledger.events import KeyChanged, KeyRevoked
from keyledger.verification.verdict import Needs
from services.verifier.handlers.tally import Tally
from services.verifier.handlers.verify import EVEN, Checks
from tests.support.followed_log import START, key_created, key_id, token
from tests.support.listening import Client, Listening, listening
from tests.support.verifying import World

BOUND = 50e-6
TIMES = 300
TRIES = 4
KINDS = {
    "REVOKED": token(2),
    "DISABLED": token(3),
    "EXPIRED": token(4),
    "NOT_FOUND": token(9),
    "NOT_FOUND, a wrong secret": token(1, 2),
    "NOT_FOUND, not ours": "sk_live_nothing_of_ours",
    "MALFORMED": token(1)[:-1] + ("0" if token(1)[-1] != "0" else "1"),
}


def world() -> World:
    made = World(limit=10**9)
    for number in (2, 3):
        made.add(key_id(number), key_created(number))
    made.add(key_id(2), KeyRevoked())
    made.add(key_id(3), KeyChanged(enabled=False))
    made.add(key_id(4), key_created(4, expires_at=START))
    return made


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_answered_alike_takes_as_long_as_most_checks(kind: str) -> None:
    """In this process a refusal without it takes a fifth of that: the shortest of many shows it."""
    made = await world().caught_up()
    checks = Checks(made.verifier, Tally(made.verifier))
    shortest = 1.0
    for _ in range(50):
        began = stopwatch()
        assert checks.judge(KINDS[kind], Needs()).code == kind.partition(",")[0]
        shortest = min(shortest, stopwatch() - began)
    assert shortest >= EVEN


def test_over_http_the_medians_lie_within_50_microseconds() -> None:
    with listening(world=world()) as listener:
        for path in ("/v1/gateway", "/v1/verify"):
            apart = [spread(listener, path)]
            # what else this machine does hits one of them at times, and not again and again the same
            while apart[-1] > BOUND and len(apart) < TRIES:
                apart.append(spread(listener, path))
            assert apart[-1] <= BOUND, f"{path}: {apart}"


def spread(listener: Listening, path: str) -> float:
    """How far the medians of the kinds lie apart, in seconds; the kinds take turns in an order of chance."""
    questions = {kind: question(path, text) for kind, text in KINDS.items()}
    spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
    rng = random.Random(27)
    with Client(listener.port) as client:
        turns = list(questions.items())
        for _ in range(TIMES):
            rng.shuffle(turns)
            for kind, asked in turns:
                began = time.perf_counter()
                client.send(asked)
                heard = client.answer()
                spent[kind].append(time.perf_counter() - began)
                assert heard is not None
                assert heard.status == (401 if path == "/v1/gateway" else 200)
    medians = [statistics.median(each) for each in spent.values()]
    return max(medians) - min(medians)


def question(path: str, text: str) -> bytes:
    if path == "/v1/gateway":
        return f"GET {path} HTTP/1.1\r\nHost: v\r\nX-API-Key: {text}\r\n\r\n".encode()
    body = json.dumps({"key": text}).encode()
    lines = (f"POST {path} HTTP/1.1", "Host: v", "Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

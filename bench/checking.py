"""`check()` in process: the library's verifier on the store that a service has left behind."""

from __future__ import annotations

import asyncio
import random
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from bench.stage import Stage, say
from keyledger.token import ALPHABET
from keyledger.verification import Verifier

TIMES = 20_000
OFTEN = 10_000
"""Keys that are asked for again and again; the others are more than are kept decoded."""
SCOPES = ["contacts:read"]

Timed = list[float]
"""Microseconds."""


class Checked(Struct):
    """By what was asked, each round's median and p99 in µs, and checks for a second of a core."""

    median: dict[str, list[float]]
    p99: dict[str, list[float]]
    rate: dict[str, list[float]]


async def measure(stage: Stage, folder: str, tokens: Sequence[str], rounds: int) -> Checked:
    """What is asked takes turns, a slice each; the loop, which is the verifier's as well, runs in between."""
    place = Path(stage.home.folder / folder)
    found = Checked({}, {}, {})
    async with Verifier(
        keys_url=stage.keys_url,
        service_key=stage.feed_key,
        nats=stage.nats,
        peppers=stage.home.peppers,
        folder=place,
        spool=place / "spool",
    ) as verifier:
        await verifier.ready()
        for token in tokens[:100]:
            assert verifier.check(token, scopes=SCOPES).valid
        typo = tokens[0][:-1] + ("0" if tokens[0][-1] != "0" else "1")
        often = tokens[:OFTEN]
        asked: dict[str, Callable[[], str]] = {
            "one key": lambda: tokens[0],
            f"{len(often):,} keys at random": lambda: random.choice(often),
            f"{len(tokens):,} keys at random": lambda: random.choice(tokens),
            "garbage, short": lambda: "cvtk_live_" + secrets.choice(ALPHABET) * 12,
            "garbage, a token's length": lambda: typo,
            "garbage, nothing like a token": lambda: "sk_live_" + secrets.choice(ALPHABET) * 12,
        }
        for number in range(rounds):
            for name, drawn in asked.items():
                rate = _rate(verifier, [drawn() for _ in range(TIMES)])
                found.rate.setdefault(name, []).append(rate)
                spent = sorted(_timed(verifier, [drawn() for _ in range(TIMES)]))
                found.median.setdefault(name, []).append(statistics.median(spent))
                found.p99.setdefault(name, []).append(spent[int(len(spent) * 0.99)])
                await asyncio.sleep(0.05)
            say(f"  in process: round {number + 1} of {rounds}")
    return found


def _timed(verifier: Verifier, tokens: Sequence[str]) -> Timed:
    clock, check = time.perf_counter_ns, verifier.check
    spent: Timed = []
    for token in tokens:
        began = clock()
        check(token, scopes=SCOPES)
        spent.append((clock() - began) / 1000)
    return spent


def _rate(verifier: Verifier, tokens: Sequence[str]) -> float:
    """Checks for each second of a core."""
    check = verifier.check
    began = time.thread_time()
    for token in tokens:
        check(token, scopes=SCOPES)
    return len(tokens) / (time.thread_time() - began)

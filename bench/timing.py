"""Whether the time of a refusal tells which one it is: over HTTP on loopback, and in this process.

`python -m bench.timing [rounds] [requests]` prints the medians of each kind and round, and how far those of
the refusals lie apart; `timing.json` and `timing.svg` go into `bench/results`. Each round asks for every
kind in an order drawn anew, over one connection that is kept: a kind is compared with what came around it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import random
import secrets
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import structlog
from msgspec import Struct

from bench.plot import Bar, chart, number
from bench.stage import Stage, say, stage
from keyledger.token import ALPHABET, SECRET_LENGTH, base62, mint
from keyledger.verification import Verifier

RESULTS = Path(__file__).parent / "results"
ROUNDS, REQUESTS = 5, 20_000
BOUND = 50.0
"""µs that the medians of the refusals may lie apart."""
WARM = 500
REFUSALS = ("revoked", "unknown id", "wrong secret", "malformed")
KINDS = ("valid", *REFUSALS)

Ask = Callable[[str], object]
Medians = list[dict[str, float]]
"""For each round, the median of each kind in µs."""


class Place(Struct, frozen=True):
    """One way of asking, and what it took."""

    name: str
    medians: Medians

    @property
    def apart(self) -> list[float]:
        """How far the refusals' medians lie apart in each round, µs."""
        found = [[median[kind] for kind in REFUSALS] for median in self.medians]
        return [max(each) - min(each) for each in found]

    @property
    def orders(self) -> list[tuple[str, ...]]:
        """The refusals of each round, the quickest first."""
        return [tuple(sorted(REFUSALS, key=median.__getitem__)) for median in self.medians]

    @property
    def stable(self) -> bool:
        """Whether every round had the same order."""
        return len(set(self.orders)) == 1


async def main(rounds: int, requests: int) -> None:
    """Measure, print, write."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    load = os.getloadavg()[0]
    async with stage() as here, here.key_service():
        tokens = await _tokens(here)
        places = [Place("in process", await _in_process(here, tokens, rounds, requests))]
        with here.verifier("timed") as process:
            await process.wait_ready(f"{here.verifier_url}/readyz", within=30)
            for name, question in (("GET /v1/gateway", _gateway), ("POST /v1/verify", _verify)):
                say(f"{name}: {rounds} × {requests:,} of each kind")
                with _connected(here.base + 2, question) as ask:
                    asked = await asyncio.to_thread(measure, ask, tokens, rounds, requests)
                places.append(Place(name, asked))
    facts = {
        "rounds": rounds,
        "of each kind a round": requests,
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "load before and after": [round(load, 1), round(os.getloadavg()[0], 1)],
    }
    _print(places, facts)
    RESULTS.mkdir(exist_ok=True)
    told = {place.name: _told(place) for place in places}
    (RESULTS / "timing.json").write_text(json.dumps({**facts, "places": told}, indent=2) + "\n")
    bars = [
        *(
            Bar(f"{place.name}: apart", "µs", tuple(place.apart), BOUND, more_is_better=False)
            for place in places
        ),
        *(
            Bar(f"{place.name}: {kind}", "µs", tuple(median[kind] for median in place.medians))
            for place in places
            for kind in KINDS
        ),
    ]
    (RESULTS / "timing.svg").write_text(chart("How long an answer takes, measured by bench/timing.py", bars))


def measure(ask: Ask, tokens: Mapping[str, str], rounds: int, requests: int) -> Medians:
    """The median of each kind in each round; within a round the kinds take turns in an order of chance."""
    clock = time.perf_counter_ns
    for _ in range(WARM):
        for token in tokens.values():
            ask(token)
    found: Medians = []
    for _ in range(rounds):
        spent: dict[str, list[int]] = {kind: [] for kind in tokens}
        turns = list(tokens.items())
        for _ in range(requests):
            random.shuffle(turns)
            for kind, token in turns:
                began = clock()
                ask(token)
                spent[kind].append(clock() - began)
        found.append({kind: statistics.median(each) / 1000 for kind, each in spent.items()})
    return found


async def _tokens(here: Stage) -> dict[str, str]:
    """One token of each kind."""
    admin = here.home.bootstrapped()["management_key"]
    async with httpx2.AsyncClient(base_url=here.keys_url, headers={"X-API-Key": admin}) as http:

        async def posted(path: str, body: dict[str, Any]) -> dict[str, Any]:
            return (await http.post(path, json=body)).raise_for_status().json()

        limit = {"limit": 10**9, "window_seconds": 86400}
        ws = (await posted("/v1/workspaces", {"name": "timed", "rate_limit": limit}))["id"]
        made = [
            await posted(f"/v1/workspaces/{ws}/keys", {"name": "k", "environment": "live"}) for _ in range(3)
        ]
        await posted(f"/v1/workspaces/{ws}/keys/{made[1]['id']}/revoke", {})
    unknown = f"key_{base62(secrets.randbits(127), 22)}"
    return {
        "valid": made[0]["key"],
        "revoked": made[1]["key"],
        "unknown id": mint("cvtk", "live", unknown, _secret()).reveal(),
        "wrong secret": mint("cvtk", "live", made[2]["id"], _secret()).reveal(),
        "malformed": made[2]["key"][:-1] + ("0" if made[2]["key"][-1] != "0" else "1"),
    }


def _secret() -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))


async def _in_process(here: Stage, tokens: Mapping[str, str], rounds: int, requests: int) -> Medians:
    say(f"in process: {rounds} × {requests:,} of each kind")
    with tempfile.TemporaryDirectory() as folder:
        async with Verifier(
            keys_url=here.keys_url,
            service_key=here.feed_key,
            nats=here.nats,
            peppers=here.home.peppers,
            folder=folder,
        ) as verifier:
            await verifier.ready()
            found: Medians = []
            for _ in range(rounds):
                found += measure(verifier.check, tokens, 1, requests)
                # the loop is the verifier's as well
                await asyncio.sleep(0.1)
            return found


def _gateway(token: str) -> bytes:
    return f"GET /v1/gateway HTTP/1.1\r\nHost: v\r\nX-API-Key: {token}\r\n\r\n".encode()


def _verify(token: str) -> bytes:
    body = json.dumps({"key": token}).encode()
    lines = ("POST /v1/verify HTTP/1.1", "Host: v", "Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@contextlib.contextmanager
def _connected(port: int, question: Callable[[str], bytes]) -> Generator[Ask]:
    """Ask over one connection: a request, and its answer's first bytes, which are all of it."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        questions: dict[str, bytes] = {}

        def ask(token: str) -> bytes:
            asked = questions.get(token) or questions.setdefault(token, question(token))
            connection.sendall(asked)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 ")
            return answer

        yield ask


def _told(place: Place) -> dict[str, Any]:
    return {
        "medians in µs": [{kind: round(value, 2) for kind, value in each.items()} for each in place.medians],
        "refusals apart in µs": [round(value, 2) for value in place.apart],
        "within the bound": max(place.apart) <= BOUND,
        "one order in every round": place.stable,
    }


def _print(places: Sequence[Place], facts: Mapping[str, Any]) -> None:
    for place in places:
        print(f"\n{place.name:20}" + "".join(f"{kind:>14}" for kind in KINDS) + f"{'apart':>10}   order")
        for median, apart, order in zip(place.medians, place.apart, place.orders, strict=True):
            row = "".join(f"{number(median[kind]):>14}" for kind in KINDS)
            print(f"{'µs':20}{row}{number(apart):>10}   {' < '.join(order)}")
        kept = "kept" if max(place.apart) <= BOUND else "MISSED"
        order = "THE SAME in every round" if place.stable else "not the same in every round"
        print(f"  apart at most {number(max(place.apart))} µs (≤ {number(BOUND)}: {kept}); order {order}")
    for name, value in facts.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:3]]
    asyncio.run(main(*given, *(ROUNDS, REQUESTS)[len(given) :]))

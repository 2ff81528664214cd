"""The gateways when the verifier is away, slow, stale, or breaks off: closed, and nothing counts twice."""

from __future__ import annotations

import asyncio
import time

from tests.support.gateway_scene import NEW, UNAVAILABLE, Gateway, told_limits
from tests.support.waiting import until


async def closed(gateway: Gateway, key: str) -> None:
    started = time.monotonic()
    for method in ("GET", "POST"):
        answer = await gateway.ask(method, body=None if method == "GET" else NEW, key=key)
        assert (answer.status, answer.body) == (503, UNAVAILABLE)
        assert answer.one("retry-after") == "1"
        assert answer.one("content-type") == "application/json"
        assert told_limits(answer) == []
    assert time.monotonic() - started < 6
    assert gateway.nothing_passed


async def opened(gateway: Gateway, key: str) -> None:
    async def allowed() -> bool:
        return (await gateway.ask(key=key)).status == 200

    await until(allowed, within=10)


async def test_a_verifier_that_is_away_lets_nobody_in(gateway: Gateway) -> None:
    key = (await gateway.around.key())["key"]
    await gateway.around.verifier.cut()
    try:
        await closed(gateway, key)
    finally:
        await gateway.around.verifier.open()
    await opened(gateway, key)


async def test_a_verifier_that_is_slow_lets_nobody_in(gateway: Gateway) -> None:
    key = (await gateway.around.key())["key"]
    gateway.around.verifier.freeze()
    try:
        await closed(gateway, key)
    finally:
        gateway.around.verifier.thaw()
    await opened(gateway, key)


async def test_a_verifier_that_is_stale_lets_nobody_in(gateway: Gateway) -> None:
    key = (await gateway.around.key())["key"]
    wire = gateway.around.verifier
    for target in (gateway.around.stale_url, gateway.around.verifier_url):
        # connections that are open would still lead to the other
        await wire.cut()
        wire.lead_to(target)
        await wire.open()
        if target == gateway.around.stale_url:
            await closed(gateway, key)
    await opened(gateway, key)


async def test_a_check_whose_answer_was_lost_is_not_spent_again(gateway: Gateway) -> None:
    """But for Go's HTTP client (Traefik, Caddy), which sends a GET again when a used connection broke."""
    key = (await gateway.around.key(limit=100))["key"]
    wire = gateway.around.verifier
    assert (await gateway.ask(key=key)).one("x-ratelimit-remaining") == "99"
    gateway.forget()
    wire.freeze(only_answers=True)
    waiting = asyncio.create_task(gateway.ask(key=key))

    async def sent() -> bool:
        return len(wire.requests) == 1

    await until(sent)
    wire.drop()
    wire.thaw()
    lost = await waiting
    again = gateway.name in ("traefik", "caddy")
    assert (lost.status, len(wire.requests)) == ((200, 2) if again else (503, 1))
    left = 100 - 1 - len(wire.requests) - 1
    assert (await gateway.ask(key=key)).one("x-ratelimit-remaining") == str(left)

"""Load on a limit over several verifiers, and what of it was let in: 200s by the cell that they name."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from tests.faults.rig import Daemon, Rig
from tests.support.keys import as_role
from tests.support.waiting import until

TIMEOUT = 2.0


class Seen:
    """What callers were told. Resets name cells; `window` is their length in seconds."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.admitted: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        self.failed = 0
        self.needless: Counter[int] = Counter()
        """By cell, refusals that came before something was let in: these need not have been."""
        self._since: Counter[int] = Counter()
        self.grew: list[tuple[int, int]] = []
        self.wrong: list[str] = []
        self._remaining: dict[tuple[str, int], int] = {}

    def note(self, verifier: str, answer: httpx2.Response) -> None:
        """Count one answer; `Remaining` must not grow, and be nothing with a 429 that says when to return."""
        if answer.status_code not in (200, 429):
            self.wrong.append(f"{answer.status_code} {answer.text[:100]}")
            return
        reset, left = (int(answer.headers[f"x-ratelimit-{name}"]) for name in ("reset", "remaining"))
        counted = self.admitted if answer.status_code == 200 else self.refused
        counted[reset] += 1
        if answer.status_code == 200:
            self.needless[reset] += self._since.pop(reset, 0)
        else:
            self._since[reset] += 1
        if answer.status_code == 429 and (left != 0 or int(answer.headers["retry-after"]) < 1):
            self.wrong.append(f"429 with {left} left")
        before = self._remaining.get((verifier, reset))
        if before is not None and left > before:
            self.grew.append((before, left))
        self._remaining[verifier, reset] = left

    def whole(self, begin: float, end: float) -> list[int]:
        """The cells that lie between these two moments."""
        cells = sorted({*self.admitted, *self.refused})
        return [reset for reset in cells if reset - self.window >= begin and reset <= end]


async def load(
    verifiers: Sequence[Daemon],
    token: str,
    seen: Seen,
    *,
    rate: float,
    weights: Sequence[float] | None = None,
    going: Callable[[], bool],
    connections: int = 16,
) -> None:
    """Ask so often a second, each time one of the verifiers; one at a time waits on each connection."""
    loop = asyncio.get_running_loop()
    weights = weights or [1.0] * len(verifiers)
    chance = random.Random(7)
    started, sent = loop.time(), 0
    async with httpx2.AsyncClient(timeout=TIMEOUT, trust_env=False) as http:

        async def one_after_the_other() -> None:
            nonlocal sent
            while going():
                due = started + sent / rate
                sent += 1
                await asyncio.sleep(max(0.0, due - loop.time()))
                verifier = chance.choices(verifiers, weights)[0]
                # one that was killed cannot know what it told before
                told_by = f"{verifier.name}/{verifier.launches}"
                try:
                    answer = await http.get(f"{verifier.url}/v1/gateway", headers={"X-API-Key": token})
                except httpx2.HTTPError:
                    seen.failed += 1
                else:
                    seen.note(told_by, answer)

        await asyncio.gather(*(one_after_the_other() for _ in range(connections)))


async def burst(verifiers: Sequence[Daemon], token: str, count: int) -> Counter[int]:
    """So many requests in a few milliseconds, ten on each connection; how often each status came."""
    each, seen = 10, Counter[int]()
    request = f"GET /v1/gateway HTTP/1.1\r\nHost: verifier\r\nX-API-Key: {token}\r\n\r\n".encode()
    urls = [httpx2.URL(verifiers[number % len(verifiers)].url) for number in range(count // each)]
    connections = [await asyncio.open_connection(url.host, url.port) for url in urls]

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request * each)
        for _ in range(each):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            seen[int(head.split(b" ")[1])] += 1
        writer.close()

    await asyncio.gather(*(ask(*connection) for connection in connections))
    return seen


class Limited:
    """A rig with several verifiers, and usage services of which one grants."""

    def __init__(self, rig: Rig, verifiers: list[Daemon], usages: list[Daemon]) -> None:
        self.rig = rig
        self.verifiers = verifiers
        self.usages = usages

    async def spent(self, token: str, times: int) -> int:
        """Ask so often, the verifiers in turn; how many were let in."""
        admitted = 0
        for number in range(times):
            verifier = self.verifiers[number % len(self.verifiers)]
            answer = await self.rig.http.get(f"{verifier.url}/v1/gateway", headers={"X-API-Key": token})
            assert answer.status_code in (200, 429), answer.text
            admitted += answer.status_code == 200
        return admitted

    async def key(self, limit: int, window: int, **more: object) -> dict[str, str]:
        """A key in a new workspace of this limit, known to every verifier."""
        body = {"name": "Limits", "rate_limit": {"limit": limit, "window_seconds": window, **more}}
        ws = (await self.rig.ok("POST", "/v1/workspaces", body))["id"]
        made = await self.rig.key(ws)
        for verifier in self.verifiers:
            answer = await self.rig.http.post(
                f"{verifier.url}/v1/verify",
                json={"key": made["key"], "cost": 0, "min_position": made["position"]},
            )
            assert answer.json()["valid"], answer.text
        return {"ws": ws, "id": made["id"], "key": made["key"]}


async def heard(rig: Rig, verifier: Daemon) -> bool:
    """Whether grants can be had by this verifier."""
    return await rig.metric(verifier, "keyledger_granter_away") == 0


@asynccontextmanager
async def limited(
    rig: Rig, folder: Path, *, verifiers: int, usages: int = 1, gated: int = 0
) -> AsyncGenerator[Limited]:
    """The rig's key service with so many verifiers and usage services, all ready.

    The last `gated` of the verifiers reach NATS through the rig's gates.
    """
    made: list[Daemon] = []
    for number in range(verifiers):
        environment = dict(rig.verifier.environment)
        del environment["KEYLEDGER_PORT"]
        environment |= {"KEYLEDGER_SPOOL": str(folder / f"spool{number}"), "KEYLEDGER_LIMITS": "shared"}
        if number < verifiers - gated:
            environment["KEYLEDGER_NATS"] = rig.nats
        made.append(Daemon("services.verifier", folder, f"verifier{number}", environment))
    granters: list[Daemon] = []
    for number in range(usages):
        environment = {
            "KEYLEDGER_NATS": rig.nats,
            "KEYLEDGER_POSTGRES": as_role(rig.admin_dsn, "keyledger_usage"),
            "KEYLEDGER_KEYS_URL": rig.keys[0].url,
            "KEYLEDGER_SERVICE_KEY_FILE": str(rig.home.secrets / "usage"),
        }
        granters.append(Daemon("services.usage", folder, f"usage{number}", environment))
    try:
        for daemon in (*rig.keys, *granters, *made):
            daemon.launch()
        for daemon in (*rig.keys, *granters, *made):
            await daemon.ready()
        for daemon in made:
            await until(
                lambda of=daemon: heard(rig, of), within=10, describe=f"{daemon.name} hears a granter"
            )
        yield Limited(rig, made, granters)
    finally:
        await asyncio.gather(*(daemon.stop() for daemon in (*made, *granters)))


def told(seen: Seen, cells: Sequence[int]) -> str:
    """What to print of a run."""
    found: dict[int, str] = defaultdict(str)
    for cell in cells:
        refused = f"{seen.refused[cell]} refused, {seen.needless[cell]} of them needlessly"
        found[cell] = f"{seen.admitted[cell]} let in, {refused}"
    return f"{dict(found)}, {seen.failed} failed, grew {seen.grew[:3]}"

"""How long the backbone takes: start, start again, stop, and from a revocation's answer to the first refusal.

`python -m bench.backbone [rounds]` prints medians with minimum and maximum, and the lags as bars.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

from tests.support.system import System, free_base, running, temporary_home

REVOCATIONS = 40


async def main(rounds: int) -> None:
    """Measure `rounds` starts, each on a fresh home and then again on the same one."""
    figures: dict[str, list[float]] = {"start, fresh home": [], "start, existing home": [], "stop": []}
    lags: list[float] = []
    for number in range(rounds):
        with temporary_home() as home:
            for what in ("start, fresh home", "start, existing home"):
                began = time.perf_counter()
                async with running(home, base=free_base()) as system:
                    figures[what].append(time.perf_counter() - began)
                    if what == "start, fresh home":
                        lags += await _lags(system)
                    began = time.perf_counter()
                figures["stop"].append(time.perf_counter() - began)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    print(f"{'seconds':24}{'median':>8}{'min':>8}{'max':>8}{'n':>5}")
    for what, values in figures.items():
        median = statistics.median(values)
        print(f"{what:24}{median:8.2f}{min(values):8.2f}{max(values):8.2f}{len(values):5}")
    _bars(sorted(lag * 1000 for lag in lags))


async def _lags(system: System) -> list[float]:
    """Seconds from a revocation's answer to the start of the first verification that is refused."""
    workspace = await system.workspace()
    found: list[float] = []
    for _ in range(REVOCATIONS):
        created = await system.key(workspace)
        await system.verify(created["key"], min_position=created["position"], cost=0)
        await system.call("POST", f"/v1/workspaces/{workspace}/keys/{created['id']}/revoke")
        answered = time.perf_counter()
        while True:
            asked = time.perf_counter()
            verdict = await system.verify(created["key"], cost=0)
            if not verdict["valid"]:
                found.append(asked - answered)
                break
    return found


def _bars(lags: list[float]) -> None:
    print(f"\nrevoke answered → first refusal began, ms (n = {len(lags)}):", end=" ")
    print(f"p50 {lags[len(lags) // 2]:.1f}, p99 {lags[int(len(lags) * 0.99)]:.1f}, max {lags[-1]:.1f}")
    edges = [0.5, 1, 2, 3, 5, 10, 20, 50, 250]
    for low, high in zip([0.0, *edges], edges, strict=False):
        count = sum(low <= lag < high for lag in lags)
        print(f"  < {high:5g} ms {count:5} {'█' * round(60 * count / len(lags))}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))

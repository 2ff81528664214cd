"""F8, F9, F11: a verifier is cut off from NATS, from everything, or stopped for longer than it may be."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx2
import pytest

from tests.faults import aftermath
from tests.faults.checker import BOUND, SLOW_BOUND, Interval
from tests.faults.conftest import Figures
from tests.faults.lag import accepted, refused_after, revocation_lag
from tests.faults.load import Load
from tests.faults.rig import Rig, rig
from tests.support.waiting import until

MAX_STALENESS = 3.0
HEALED = 10.0
ASKED_BEFORE = 1.0
"""Seconds before it goes on, in which questions wait for it."""


async def cut(made: Rig, *, frozen: bool = False) -> None:
    """No way from the verifier to NATS: refused, or silent."""
    for gate in made.verifier_nats:
        if frozen:
            gate.freeze()
        else:
            await gate.cut()


async def mend(made: Rig) -> None:
    for gate in made.verifier_nats:
        gate.thaw()
        await gate.cut()
        await gate.open()


async def says(made: Rig, status: str, *, within: float) -> float:
    """Wait until the verifier says this of itself; how long that took."""
    began = time.monotonic()
    told: dict[str, object] = {}

    async def said() -> bool:
        nonlocal told
        told = (await made.readiness())[1]
        return told["status"] == status

    try:
        await until(said, within=within, describe=f"the verifier is {status}")
    except AssertionError as error:
        error.add_note(f"it said {told}; its log: {made.verifier.log.read_text()[-2000:]}")
        raise
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("frozen", "seconds"),
    [pytest.param(False, 3.0, id="cut"), pytest.param(True, 15.0, id="silent", marks=pytest.mark.long)],
)
async def test_cut_off_from_nats_alone_a_verifier_refuses_within_two_seconds(
    database: str, nats_url: str, folder: Path, figures: Figures, frozen: bool, seconds: float
) -> None:
    async with rig(database, nats_url, folder, usage=True) as made:
        workspace = await made.workspace()
        load = Load(made, workspace, figures.dice)
        async with load.running(workers=1, checkers=1):
            assert await revocation_lag(made, workspace) <= BOUND
            began = time.monotonic()
            await cut(made, frozen=frozen)
            lags: list[float] = []
            while time.monotonic() < began + seconds:
                lags.append(await revocation_lag(made, workspace))
                assert (await made.readiness())[0] == 200
            degraded = await says(made, "degraded", within=20)
            assert await made.metric(made.verifier, "keyledger_degraded") == 1
            await mend(made)
            healed = await says(made, "ready", within=HEALED)
            ended = time.monotonic()
            assert await revocation_lag(made, workspace) <= BOUND
        log = await aftermath.hold(made, load.history, slow=[Interval(began - 1, ended + 0.1)])
        uses = await aftermath.hold_uses(made, load.history, workspace)
    figures(
        events=len(log.events),
        revocations=len(lags),
        lag_max_ms=1000 * max(lags),
        degraded_seen_after_s=degraded + seconds,
        healed_after_s=healed,
        uses_counted=uses,
    )
    assert max(lags) <= SLOW_BOUND


async def test_cut_off_from_everything_a_verifier_answers_until_it_may_be_too_old(
    database: str, nats_url: str, folder: Path, figures: Figures
) -> None:
    async with rig(database, nats_url, folder, usage=True, max_staleness=MAX_STALENESS) as made:
        workspace = await made.workspace()
        load = Load(made, workspace, figures.dice)
        kept, ended = await made.key(workspace), await made.key(workspace)
        await accepted(made, kept["key"])
        await accepted(made, ended["key"])
        async with load.running(workers=2, checkers=2):
            await cut(made)
            await made.verifier_keys.cut()
            began = time.monotonic()
            await made.revoke(workspace, ended["id"])
            last_valid, first_stale = began, 0.0
            while not first_stale:
                asked = time.monotonic()
                assert asked < began + 2 * MAX_STALENESS, "it answers though it knows nothing any more"
                answer = await made.verify(kept["key"])
                if answer.status_code == 200:
                    last_valid = asked
                    assert answer.json()["code"] == "VALID"
                    assert answer.json()["age_ms"] <= 1000 * MAX_STALENESS
                else:
                    first_stale = asked
                    assert (answer.status_code, answer.json()["error"]) == (503, "stale")
            # its last proof was at most a second old when the links broke
            assert MAX_STALENESS - 1.2 <= first_stale - began <= MAX_STALENESS + 0.1
            assert await made.code(ended["key"]) == "stale"
            assert (await made.readiness())[0] == 503
            await mend(made)
            await made.verifier_keys.open()
            mended = time.monotonic()
            healed = await says(made, "ready", within=HEALED)
            assert await made.code(ended["key"]) == "REVOKED"
            assert await made.code(kept["key"]) == "VALID"
            deaf = Interval(began - BOUND, mended + healed, MAX_STALENESS)
        seen_within = mended + healed - began + SLOW_BOUND
        log = await aftermath.hold(made, load.history, slow=[deaf], seen_within=seen_within)
        uses = await aftermath.hold_uses(made, load.history, workspace)
    figures(
        events=len(log.events),
        max_staleness_s=MAX_STALENESS,
        last_valid_after_s=last_valid - began,
        first_503_after_s=first_stale - began,
        healed_after_s=healed,
        uses_counted=uses,
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("deaf", "seconds"),
    [
        pytest.param(True, MAX_STALENESS + 1, id="links cut"),
        pytest.param(False, 60.0, id="links open", marks=pytest.mark.timeout(180)),
    ],
)
async def test_a_verifier_that_was_stopped_looks_at_its_age_before_it_answers(
    database: str, nats_url: str, folder: Path, figures: Figures, deaf: bool, seconds: float
) -> None:
    async with (
        rig(database, nats_url, folder, key_services=2, usage=True, max_staleness=MAX_STALENESS) as made,
        aftermath.overheard(nats_url) as heard,
    ):
        workspace = await made.workspace()
        load = Load(made, workspace, figures.dice)
        ended = await made.key(workspace)
        await accepted(made, ended["key"])
        # a relay that was stopped as long must not go on where it was
        relay = made.keys[1]
        async with load.running(workers=2, checkers=2):
            if deaf:
                # it can learn nothing at once; with its links open the news may be there before the questions
                await cut(made, frozen=True)
                made.verifier_keys.freeze()
            made.verifier.freeze()
            relay.freeze()
            stopped = time.monotonic()
            await made.revoke(workspace, ended["id"])
            await asyncio.sleep(seconds - ASKED_BEFORE)
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(made.verify(ended["key"])) for _ in range(8)]
                await asyncio.sleep(ASKED_BEFORE)
                assert not any(each.done() for each in asked)
                relay.thaw()
                made.verifier.thaw()
                resumed = time.monotonic()
            codes = {_told(each.result()) for each in asked}
            if deaf:
                await mend(made)
                made.verifier_keys.thaw()
            healed = await refused_after(made, ended["key"], resumed)
            back = await says(made, "ready", within=HEALED)
        # whoever asked meanwhile was told nothing of what was revoked in the last second before
        whole = await aftermath.hold_stream(made, nats_url)
        asleep = Interval(stopped - BOUND, time.monotonic(), MAX_STALENESS)
        seen_within = time.monotonic() - stopped + SLOW_BOUND
        assert heard == list(range(heard[0], heard[-1] + 1))
        log = await aftermath.hold(made, load.history, slow=[asleep], seen_within=seen_within)
        uses = await aftermath.hold_uses(made, load.history, workspace)
    figures(
        events=len(log.events),
        stopped_s=resumed - stopped,
        first_answers="/".join(sorted(codes)),
        healed_after_s=healed,
        ready_again_after_s=back,
        stream_whole_after_s=whole,
        uses_counted=uses,
    )
    assert codes <= ({"stale"} if deaf else {"stale", "REVOKED"})
    assert healed <= HEALED


def _told(answer: httpx2.Response) -> str:
    return answer.json().get("code") or answer.json()["error"]

"""F3: the verifier is killed while it is asked five hundred times a second, and loses a second of uses."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import aftermath
from tests.faults.checker import BOUND, SLOW_BOUND, Interval
from tests.faults.conftest import Figures
from tests.faults.history import History, Operation, Outcome
from tests.faults.lag import percentile
from tests.faults.load import Load
from tests.faults.many_keys import many_keys
from tests.faults.rate import Answer, checking
from tests.faults.rig import rig
from tests.support.waiting import until

RATE = 500.0
READY_AGAIN = 10.0
ENDED = 20
"""Tokens that were revoked or retired before the kill, and are presented through it."""
LOST_SECONDS = 1.2
"""A second's sums, and the time that writing them takes, die with the process."""


@pytest.mark.parametrize(
    ("keys", "seconds"),
    [
        pytest.param(2_000, 2.0, id="short"),
        pytest.param(100_000, 5.0, id="long", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_a_killed_verifier_is_back_soon_and_never_answers_wrongly(
    database: str, nats_url: str, folder: Path, figures: Figures, keys: int, seconds: float
) -> None:
    async with rig(database, nats_url, folder, usage=True) as made:
        workspace = await made.workspace()
        began = time.monotonic()
        live = await many_keys(made, workspace, keys)
        loaded = time.monotonic() - began
        await made.caught_up(await made.head(), within=60)
        load = Load(made, workspace, figures.dice)
        async with load.running(workers=1, checkers=1):

            async def enough() -> bool:
                return len(load.dead) >= ENDED

            await until(enough, within=30, describe=f"{ENDED} tokens have ended")
            ended_tokens = set(load.dead[:ENDED])
            await made.caught_up(await made.head())
            asked = [*live, *(list(ended_tokens) * max(1, keys // 40))]
            async with checking(made.verifier.url, asked, figures.dice, rate=RATE) as answers:
                await asyncio.sleep(seconds)
                made.verifier.kill()
                killed = time.monotonic()
                made.verifier.launch()
                await made.verifier.ready(within=60)
                back = time.monotonic() - killed
                await asyncio.sleep(seconds)
            ended = time.monotonic()
        load.history.operations += [booked(answer) for answer in answers]
        at_risk = sum(killed - LOST_SECONDS < each.ended <= killed + 0.1 for each in used(load.history))
        slow = [Interval(killed - BOUND, killed + back)]
        log = await aftermath.hold(made, load.history, slow=slow, seen_within=back + SLOW_BOUND)
        # whoever stops in order tells what it has counted
        await made.verifier.stop()
        counted = await aftermath.hold_uses(made, load.history, workspace, lost=at_risk)
    told = Counter((answer.status, answer.code, answer.token in ended_tokens) for answer in answers)
    right = {(200, "VALID", False), (200, "REVOKED", True)}
    wrong = {each: count for each, count in told.items() if each not in right and each[0] not in (0, 503)}
    served = [answer for answer in answers if answer.status == 200]
    figures(
        keys=keys,
        events=len(log.events),
        made_in_s=loaded,
        rate=len(answers) / (ended - killed + seconds),
        answers=len(served),
        refused_503=sum(answer.status == 503 for answer in answers),
        no_answer=sum(answer.status == 0 for answer in answers),
        ready_again_after_s=back,
        p99_ms=1000 * percentile([answer.ended - answer.started for answer in served], 0.99),
        uses_counted=counted,
        uses_lost=len(used(load.history)) - counted,
        uses_in_its_last_second=at_risk,
    )
    assert not wrong
    assert back <= READY_AGAIN
    assert all(answer.status == 200 for answer in answers if answer.started > killed + back)


def booked(answer: Answer) -> Operation:
    """An answer as the books have it."""
    outcome: Outcome = "acked" if answer.status == 200 else "refused" if answer.status else "unknown"
    return Operation(
        kind="verify",
        name="check",
        started=answer.started,
        ended=answer.ended,
        outcome=outcome,
        token=answer.token,
        code=answer.code,
        cost=1,
    )


def used(history: History) -> list[Operation]:
    """The checks that were answered, each of them a use."""
    return [each for each in history.verifies() if each.outcome == "acked"]

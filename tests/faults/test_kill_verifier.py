"""F3: the verifier is killed while it is asked five hundred times a second."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.conftest import Figures
from tests.faults.lag import percentile
from tests.faults.many_keys import many_keys
from tests.faults.rate import checking
from tests.faults.rig import rig

RATE = 500.0
READY_AGAIN = 10.0


@pytest.mark.parametrize(
    ("keys", "seconds"),
    [
        pytest.param(2_000, 1.0, id="short"),
        pytest.param(100_000, 5.0, id="long", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_a_killed_verifier_is_back_soon_and_never_answers_wrongly(
    database: str, nats_url: str, folder: Path, figures: Figures, keys: int, seconds: float
) -> None:
    async with rig(database, nats_url, folder) as made:
        workspace = await made.workspace()
        began = time.monotonic()
        live = await many_keys(made, workspace, keys)
        loaded = time.monotonic() - began
        dead = [await made.key(workspace) for _ in range(20)]
        for key in dead:
            await made.revoke(workspace, key["id"])
        await made.caught_up(await made.head(), within=60)
        ended_tokens = {key["key"] for key in dead}
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
    told = Counter((answer.status, answer.code, answer.token in ended_tokens) for answer in answers)
    right = {(200, "VALID", False), (200, "REVOKED", True)}
    wrong = {each: count for each, count in told.items() if each not in right and each[0] not in (0, 503)}
    served = [answer for answer in answers if answer.status == 200]
    figures(
        keys=keys,
        made_in_s=loaded,
        rate=len(answers) / (ended - killed + seconds),
        answers=len(served),
        refused_503=sum(answer.status == 503 for answer in answers),
        no_answer=sum(answer.status == 0 for answer in answers),
        ready_again_after_s=back,
        p99_ms=1000 * percentile([answer.ended - answer.started for answer in served], 0.99),
    )
    assert not wrong
    assert back <= READY_AGAIN
    assert all(answer.status == 200 for answer in answers if answer.started > killed + back)

"""A batch of uses is sifted: what is sound is recorded, what is not is refused by name, and all go on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyledger.verification.ports import USES_SUBJECT, BusUnavailable
from keyledger.verification.use_rule import AHEAD, LATEST, MAX_COST, MAX_COUNT, MINUTE
from keyledger.verification.verdict import CODES
from keyledger.wire import Use, UseBatch
from services.keys.consumer import Consumer
from services.keys.domain.uses import BATCH, FIRST_USE, UNREADABLE, sift
from services.keys.handlers.receipts import Receipts
from tests.support.followed_log import HandClock
from tests.support.memory_bus import MemoryBus
from tests.support.memory_keys import MemoryKeys
from tests.unit.keys.test_first_uses import Nobody

BOOT = "b" * 32
NOW = 30_000_000 * MINUTE
SOUND = Use("ws_" + "1" * 22, "key_" + "2" * 22, "live", NOW, "VALID", 3, 5, NOW + 7, "customer")
FAULTS: dict[str, list[Any]] = {
    "count": [0, -5, MAX_COUNT + 1, 2**62, 2**64 - 1],
    "cost": [-1, MAX_COST + 1, 2**62],
    "minute": [-MINUTE, NOW + 1, NOW + AHEAD + MINUTE, LATEST, 2**62],
    "last_at": [NOW - 1, NOW + MINUTE, -1, 2**62],
    "workspace_id": ["", "ws_1", "key_" + "1" * 22, "ws_" + "1" * 21 + "\0", "ws_" + "z" * 22, "w" * 100_000],
    "key_id": ["", "ws_" + "1" * 22, "key_" + "1" * 23, "k" * 100_000],
    "environment": ["", "prod", "live\0"],
    "outcome": ["", "valid", "VALID ", "V" * 41, "VALID\0"],
    "external_id": ["a\0b", "x" * 256],
}
MISTYPED = [("count", "3"), ("count", 1.5), ("outcome", None), ("key_id", b"\xff"), ("minute", None)]


def packed(*uses: Any, boot: Any = BOOT, seq: Any = 4, firsts: Any = ()) -> bytes:
    """The batch as a verifier would write it, whatever stands in it."""
    return msgspec.msgpack.encode([boot, seq, uses, firsts])


def with_field(name: str, value: Any) -> list[Any]:
    """A sound use but for this field."""
    return [value if field == name else getattr(SOUND, field) for field in Use.__struct_fields__]


def recorded(body: bytes) -> tuple[tuple[Use, ...], dict[str, int]]:
    """What is recorded of a batch of a good source, and what is refused."""
    told = sift(body, now=NOW)
    assert told is not None
    assert told.batch is not None
    assert (told.batch.boot, told.batch.seq, told.seq) == (BOOT, 4, 4)
    return told.batch.uses, dict(told.refused)


@pytest.mark.parametrize(("field", "value"), [(each, value) for each in FAULTS for value in FAULTS[each]])
def test_one_bad_use_costs_itself_and_no_other(field: str, value: Any) -> None:
    assert recorded(packed(SOUND, with_field(field, value), SOUND)) == ((SOUND, SOUND), {field: 1})


@pytest.mark.parametrize("code", [*CODES, "A_CODE_OF_TOMORROW"])
def test_every_outcome_that_there_is_or_may_be_is_counted(code: str) -> None:
    use = msgspec.structs.replace(SOUND, outcome=code)
    assert recorded(packed(use)) == ((use,), {})


@pytest.mark.parametrize(
    "use",
    [
        msgspec.structs.replace(SOUND, count=MAX_COUNT, cost=MAX_COST, external_id=""),
        msgspec.structs.replace(SOUND, cost=0, last_at=NOW + MINUTE - 1),
        msgspec.structs.replace(SOUND, minute=NOW + AHEAD, last_at=NOW + AHEAD, environment="test"),
        msgspec.structs.replace(SOUND, minute=0, last_at=0),
    ],
)
def test_the_bounds_themselves_are_sound(use: Use) -> None:
    assert recorded(packed(use)) == ((use,), {})


@pytest.mark.parametrize(("field", "value"), MISTYPED)
def test_what_is_no_use_at_all_is_refused_alone(field: str, value: Any) -> None:
    assert recorded(packed(SOUND, with_field(field, value), SOUND)) == ((SOUND, SOUND), {UNREADABLE: 1})


def test_parts_of_another_shape_lose_the_batch_and_not_its_number() -> None:
    told = sift(packed("x").replace(b"\x91\xa1x", b"\xa1x"), now=NOW)
    assert told is not None
    assert told.batch == UseBatch(BOOT, 4, ())
    assert dict(told.refused) == {BATCH: 1}


def test_a_first_use_of_nothing_is_left_out() -> None:
    good = (SOUND.key_id, 2)
    for bad in (("key\0", 2), (SOUND.key_id, 0), (SOUND.key_id, 2**40), (SOUND.key_id, "2"), (7,)):
        told = sift(packed(SOUND, firsts=[good, bad]), now=NOW)
        assert told is not None
        assert told.batch == UseBatch(BOOT, 4, (SOUND,), (good,))
        assert dict(told.refused) == {FIRST_USE: 1}


@pytest.mark.parametrize(
    ("boot", "seq"),
    [("erasure:ws_1", 0), ("a\0", 4), ("", 4), ("b" * 65, 4), (BOOT, -1), (BOOT, 2**62), (BOOT, 2**63)],
)
def test_a_source_that_cannot_be_kept_in_mind_is_answered_and_not_recorded(boot: str, seq: int) -> None:
    told = sift(packed(SOUND, SOUND, boot=boot, seq=seq), now=NOW)
    assert told is not None
    assert (told.seq, told.batch, dict(told.refused)) == (seq, None, {BATCH: 2})


@given(st.binary(max_size=200))
def test_no_body_is_an_error(body: bytes) -> None:
    told = sift(body, now=NOW)
    assert told is None or told.batch is None or told.batch.seq >= 0


@given(st.lists(st.sampled_from([None, *FAULTS]), max_size=20), st.data())
def test_nothing_is_lost_without_a_word(plan: list[str | None], data: st.DataObject) -> None:
    uses = [
        SOUND if field is None else with_field(field, data.draw(st.sampled_from(FAULTS[field])))
        for field in plan
    ]
    good, refused = recorded(packed(*uses))
    assert len(good) + sum(refused.values()) == len(uses)
    assert len(good) == plan.count(None)


async def test_a_batch_is_answered_whatever_is_wrong_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    memory, clock, bus = MemoryKeys(), HandClock(), MemoryBus()
    refused: list[tuple[str, int]] = []
    consumer = Consumer(
        bus,
        memory,
        memory,
        Receipts(clock, Nobody()),
        clock,
        refused=lambda field, count: refused.append((field, count)),
    )
    await consumer.start()

    async def told(body: bytes) -> int:
        return msgspec.msgpack.decode((await bus.request(USES_SUBJECT, body, timeout=1)).body)

    bad = [with_field("count", 2**62), with_field("count", -5), with_field("workspace_id", "cvtk_live_x")]
    sound = msgspec.structs.replace(SOUND, minute=0, last_at=1)
    assert await told(packed(*bad, sound, seq=0)) == 1
    assert await told(packed(*bad, seq=1)) == 2
    assert await told(packed(sound, boot="erasure:ws_1", seq=9)) == 10
    assert await told(packed(sound, seq=2)) == 3
    with pytest.raises(BusUnavailable):
        await told(b"\xc1")
    assert memory.batches == [UseBatch(BOOT, 0, (sound,)), UseBatch(BOOT, 1, ()), UseBatch(BOOT, 2, (sound,))]
    assert refused == [("count", 2), ("workspace_id", 1)] * 2 + [(BATCH, 1)] * 2
    assert consumer.recorded == 3
    said = capsys.readouterr().out
    assert "uses_refused" in said
    assert "cvtk_live" not in said
    assert "erasure" not in said

"""The chain recomputed: where it holds, and what is named where it does not."""

from __future__ import annotations

import msgspec
import pytest

from keyledger.events import GENESIS, Epoch, Recorded, chain_hash
from services.keys.domain.chain import ChainCheck, ChainEnd, Differs, EpochBegun
from tests.contract.wire_examples import CHAIN, EPOCH_LINE, golden

FIRST = Epoch(1, EPOCH_LINE)
SECOND = Epoch(2, b"\x02" * 8)
THIRD = Epoch(3, b"\x03" * 8)


def chained(*epochs: EpochBegun, count: int = 6) -> list[Recorded]:
    """Events at positions 1 to `count`, each hashed under the epoch it belongs to."""
    previous, events = GENESIS, list[Recorded]()
    for position in range(1, count + 1):
        line = max((e for e in epochs if e.base_position < position), key=lambda e: e.epoch.number).epoch.line
        bare = Recorded(
            position,
            "key_x",
            position,
            "key_changed",
            1,
            "ws_x",
            "a",
            "r",
            10 * position,
            b"{}",
            b"",
            previous,
        )
        previous = chain_hash(previous, line, bare)
        events.append(msgspec.structs.replace(bare, hash=previous))
    return events


def begun(epoch: Epoch, position: int, events: list[Recorded]) -> EpochBegun:
    return EpochBegun(epoch, position, events[position - 1].hash if position else GENESIS)


START = EpochBegun(FIRST, 0, GENESIS)


def check(epochs: list[EpochBegun], events: list[Recorded], head: ChainEnd | None = None) -> ChainEnd:
    checking = ChainCheck(epochs)
    for event in events:
        checking.take(event)
    last = events[-1]
    head = head or ChainEnd(checking.epoch, last.position, last.hash, last.at)
    return checking.end(head, last.position)


def test_the_golden_chain_holds() -> None:
    """As far as its moments go on, which the later links of it do not."""
    hashes = [bytes.fromhex(text) for text in golden("chain.json")][:3]
    events = [msgspec.structs.replace(link, hash=one) for link, one in zip(CHAIN, hashes, strict=False)]
    assert check([START], events).hash == hashes[-1]


def test_an_empty_log_holds() -> None:
    assert ChainCheck([START]).end(ChainEnd(FIRST, 0, GENESIS, 0), 0).position == 0


def test_events_after_an_epochs_base_are_hashed_under_its_line() -> None:
    """Also when two epochs begin at one place: the later one counts, and the earlier has no events."""
    plain = chained(START)
    epochs = [START, begun(SECOND, 3, plain), begun(THIRD, 3, plain)]
    events = chained(*epochs)
    assert check(list(reversed(epochs)), events).epoch == THIRD
    with pytest.raises(Differs, match="position 4: expected hash"):
        check([START, begun(SECOND, 3, plain)], events)


def test_an_epoch_of_another_history_is_named() -> None:
    events = chained(START)
    forged = EpochBegun(SECOND, 3, bytes(32))
    with pytest.raises(Differs, match=f"epoch {SECOND.text}, base at 3"):
        check([START, forged], events)
    with pytest.raises(Differs, match=f"epoch {SECOND.text}: expected a base within 6"):
        check([START, EpochBegun(SECOND, 9, bytes(32))], events)
    with pytest.raises(Differs, match=f"epoch {THIRD.text}: expected a base no earlier"):
        check(
            [START, begun(SECOND, 3, events), begun(THIRD, 2, events)],
            chained(START, begun(SECOND, 3, events)),
        )
    with pytest.raises(Differs, match="to begin the log at position 0"):
        ChainCheck([begun(SECOND, 3, events)])
    with pytest.raises(Differs, match="at least one"):
        ChainCheck([])


def test_time_that_goes_back_is_named_although_it_was_hashed() -> None:
    events = chained(START, count=2)
    back = msgspec.structs.replace(events[1], at=5)
    back = msgspec.structs.replace(back, hash=chain_hash(events[0].hash, EPOCH_LINE, back))
    with pytest.raises(Differs, match="position 2: expected a moment of at least 10 µs, found 5 µs"):
        check([START], [events[0], back])


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ({"position": 5}, "the head's position: expected 6, found 5"),
        ({"hash": bytes(32)}, "the head's hash"),
        ({"epoch": SECOND}, "the head's epoch"),
        ({"at": 59}, "the head's moment: expected at least 60"),
    ],
)
def test_a_head_that_is_not_the_end_is_named(head: dict[str, object], named: str) -> None:
    events = chained(START)
    good = ChainEnd(FIRST, 6, events[-1].hash, 60)
    with pytest.raises(Differs, match=named):
        check([START], events, msgspec.structs.replace(good, **head))

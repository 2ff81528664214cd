"""A record's bytes: the same record again whatever it holds, few of them, and never another one's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyledger.events import RateLimit
from keyledger.verification.packing import IMPORTED, OWNER, WORD_LIMIT, Packing, Words
from keyledger.verification.projection import KeyRecord, SecretRecord
from keyledger.verification.store import Damaged
from tests.support.followed_log import WORKSPACE, key_id

ROW = key_id(1).encode()
RAW = WORKSPACE[3:].encode()
NUMBERS = st.one_of(st.integers(0, 2**33), st.sampled_from([2**32 - 1, 2**32]))
TIMES = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
TEXTS = st.one_of(st.sampled_from(["", "ü"]), st.text(st.characters(exclude_categories=["Cs"]), max_size=9))
DIGESTS = st.dictionaries(
    st.sampled_from(["p1", "p2"]),
    st.one_of(st.binary(min_size=32, max_size=32), st.just(b"short")),
    max_size=2,
)
SECRETS = st.builds(SecretRecord, DIGESTS, TIMES, NUMBERS, st.booleans(), st.booleans())
RECORDS = st.builds(
    KeyRecord,
    st.just(key_id(1)),
    st.just(WORKSPACE),
    st.sampled_from(["live", "test"]),
    TEXTS,
    st.sampled_from([(), ("*",), ("a:b", "c"), tuple(f"s:{number}" for number in range(20))]),
    st.lists(SECRETS, max_size=2).map(tuple),
    TIMES,
    st.sampled_from([None, (), ("10.0.0.0/8", "::1")]),
    st.sampled_from([None, RateLimit(1, 60), RateLimit(2**40, 86_400, "closed")]),
    st.one_of(st.none(), TEXTS),
    st.sampled_from([{}, {"a": "b", "ü": ""}]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    NUMBERS,
)


def packing() -> Packing:
    return Packing(Words(lambda number: None))


def plain(**more: Any) -> KeyRecord:
    """What most keys are like."""
    told: dict[str, Any] = {
        "name": "billing", "scopes": ("contacts:read",), "secrets": (SecretRecord({"p1": bytes(32)}),),
        "metadata": {"team": "payments"},
    }  # fmt: skip
    return KeyRecord(key_id(1), WORKSPACE, "live", **{**told, **more})


@given(st.lists(RECORDS, min_size=1, max_size=4))
@settings(deadline=None)
def test_a_record_comes_back(records: list[KeyRecord]) -> None:
    packs = packing()
    # the second time what it shares with the first is a word
    for record in [*records, *records, *records]:
        assert packs.key_record(ROW, key_id(1), packs.key(ROW, RAW, record)) == record


def settled(packs: Packing, record: KeyRecord) -> bytes:
    """The record's bytes once all that it shares is known to be shared."""
    for _ in range(3):
        packs.key(ROW, RAW, record)
    return packs.key(ROW, RAW, record)


def test_words_are_read_by_who_did_not_write_them() -> None:
    words, kept = Words(lambda number: None), dict[int, bytes]()
    writes = Packing(words)
    for record in (plain(), plain(external_id="theirs", expires_at=7), plain(scopes=("a", "b"))):
        packed = settled(writes, record)
        kept.update(words.added)
        reads = Packing(Words(kept.get))
        assert reads.key_record(ROW, key_id(1), packed) == record
    with pytest.raises(Damaged, match="a word is missing"):
        packing().key_record(ROW, key_id(1), packed)


def test_keys_of_one_shape_take_few_bytes() -> None:
    packs = packing()
    sizes = [len(packs.key(ROW, RAW, plain(name="n" * 9, version=number))) for number in range(3)]
    assert sizes[0] > sizes[1] == sizes[2] == 1 + 22 + 52 + 9 + 4


def test_shapes_without_number_do_no_harm() -> None:
    packs = packing()
    for number in range(WORD_LIMIT + 50):
        settled(packs, plain(scopes=(f"s:{number}",)))
    record = plain(scopes=("one more",))
    packed = settled(packs, record)
    assert packs.key_record(ROW, key_id(1), packed) == record


def test_not_one_byte_may_be_another_and_the_row_neither() -> None:
    packs = packing()
    for record in (plain(), plain(secrets=())):
        packed = settled(packs, record)
        for at in range(len(packed)):
            changed = bytearray(packed)
            changed[at] ^= 0x41
            with pytest.raises(Damaged):
                packs.key_record(ROW, key_id(1), bytes(changed))
        for short in (packed[:-1], packed[:4], b""):
            with pytest.raises(Damaged):
                packs.key_record(ROW, key_id(1), short)
        with pytest.raises(Damaged):
            packs.key_record(key_id(2).encode(), key_id(2), packed)


@pytest.mark.parametrize("foreign", [True, False])
def test_whose_it_is_and_whether_it_was_imported_is_told_without_decoding(foreign: bool) -> None:
    packs = packing()
    for secrets in (
        (SecretRecord({"p1": bytes(32)}, foreign=foreign),),
        (SecretRecord({}, foreign=foreign),) * 2,
    ):
        packed = settled(packs, plain(secrets=secrets))
        assert packed[OWNER] == RAW
        assert bool(packed[0] & IMPORTED) is foreign

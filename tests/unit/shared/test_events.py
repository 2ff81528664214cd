"""The wire's tools: frames, unknown events, and a hash that misses nothing."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyledger import events
from keyledger.event_reader import Unknown
from keyledger.events import GENESIS, Recorded, chain_hash
from keyledger.wire import frame, unframe

calm = settings(deadline=None)
EVENT = Recorded(7, "key_a", 2, "key_changed", 1, "ws_a", "key_b", "req_c", 99, b"{}", b"", GENESIS)
LINE = b"\x01\x02\x03\x04\x05\x06\x07\x08"


@calm
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_framed_records_come_back_one_by_one(records: list[bytes]) -> None:
    assert [bytes(record) for record in unframe(frame(records))] == records


@calm
@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4), st.data())
def test_a_body_that_is_cut_short_is_an_error_or_ends_between_records(
    records: list[bytes], data: st.DataObject
) -> None:
    body = frame(records)
    cut = data.draw(st.integers(0, len(body) - 1))
    ends = {len(frame(records[:number])): number for number in range(len(records))}
    if cut in ends:
        assert unframe(body[:cut]) == records[: ends[cut]]
    else:
        with pytest.raises(ValueError, match="cut short"):
            unframe(body[:cut])


@calm
@given(st.sampled_from([*events.TAGS, "key_frozen", ""]), st.integers(0, 65_535), st.binary(max_size=80))
def test_reading_an_event_never_raises(tag: str, version: int, data: bytes) -> None:
    event = events.decode(tag, version, data)
    assert isinstance(event, Unknown) or tag in events.TAGS


@calm
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["private", "secret", "scopes", "rate_limit", "environment", "x"]), inner
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(sorted(events.TAGS)),
)
def test_reading_any_json_as_an_event_never_raises(content: Any, tag: str) -> None:
    data = msgspec.json.encode(content)
    event = events.decode(tag, 1, data)
    # what was understood is written in one way only, and understood again
    assert isinstance(event, Unknown) or events.decode(tag, 1, events.encode(event)) == event


@pytest.mark.parametrize(
    ("tag", "version", "data", "why"),
    [
        ("key_frozen", 1, b"{}", "unknown tag"),
        ("key_revoked", 2, b"{}", "a version from the future"),
        ("key_revoked", 1, b"", "cannot be decoded"),
        ("key_revoked", 1, b"{", "cannot be decoded"),
        ("key_revoked", 1, b"[]", "cannot be decoded"),
        ("key_created", 1, b"{}", "cannot be decoded"),
        ("key_created", 1, b'{"environment":"prod"}', "cannot be decoded"),
        ("workspace_created", 1, b'{"rate_limit":{"limit":1,"window_seconds":"60"}}', "cannot be decoded"),
        ("workspace_created", 1, b'{"private":{"name":"\xff"}}', "cannot be decoded"),
        ("key_revoked", 1, b'{"x":' * 5000, "cannot be decoded"),
    ],
)
def test_an_event_that_cannot_be_read_says_why(tag: str, version: int, data: bytes, why: str) -> None:
    event = events.decode(tag, version, data)
    assert isinstance(event, Unknown)
    assert (event.type, event.schema_version) == (tag, version)
    assert event.why.startswith(why)


def test_a_field_from_the_future_is_passed_over() -> None:
    assert events.decode("key_revoked", 1, b'{"colour":"red"}') == events.KeyRevoked()


@pytest.mark.parametrize(
    "other",
    [
        {"position": 8},
        {"stream_id": "key_b"},
        {"version": 3},
        {"type": "key_change"},
        {"schema_version": 2},
        {"workspace_id": "ws_b"},
        {"actor": "key_c"},
        {"request_id": "req_d"},
        {"at": 98},
        {"at": -99},
        {"data": b"{ }"},
        # the same bytes behind one another, cut at another place
        {"stream_id": "key_", "data": b"a{}"},
        {"workspace_id": "ws_ak", "actor": "ey_b"},
    ],
    ids=repr,
)
def test_every_field_is_in_the_hash(other: dict[str, Any]) -> None:
    changed = msgspec.structs.replace(EVENT, **other)
    assert chain_hash(GENESIS, LINE, changed) != chain_hash(GENESIS, LINE, EVENT)


def test_the_line_and_the_previous_hash_are_in_the_hash() -> None:
    hashes = {
        chain_hash(GENESIS, LINE, EVENT),
        chain_hash(b"\x01" * 32, LINE, EVENT),
        chain_hash(GENESIS, LINE[::-1], EVENT),
    }
    assert len(hashes) == 3


def test_a_private_part_is_sealed_for_one_place() -> None:
    places = {
        events.private_place("key_a", 1, "key_created"),
        events.private_place("key_a", 2, "key_created"),
        events.private_place("key_b", 1, "key_created"),
        events.private_place("key_a", 1, "key_changed"),
    }
    assert len(places) == 4


def test_an_epoch_is_its_number_and_its_line() -> None:
    assert events.Epoch(3, LINE).text == "3-0102030405060708"

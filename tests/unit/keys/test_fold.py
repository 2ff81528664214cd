"""Streams folded and held against what is stored."""

from __future__ import annotations

import msgspec
import pytest

from keyledger.event_reader import Unknown
from keyledger.events import (
    Event,
    KeyChanged,
    KeyCreated,
    KeyRevoked,
    KeyText,
    MemberAdded,
    MemberRemoved,
    NewSecret,
    PepperActivated,
    RateLimit,
    Recorded,
    WorkspaceCreated,
    WorkspaceDeleted,
    WorkspaceText,
    tag_of,
)
from services.keys.domain.chain import Differs
from services.keys.domain.fold import Folded, StateRow, StreamRow, check_order, compare, compare_members, fold
from services.keys.domain.key import Key
from services.keys.domain.roles import Member

KEY, WS = "key_1", "ws_1"
CREATED = KeyCreated(
    "live",
    ("a",),
    NewSecret("…0", {"p1": b"digest"}),
    private=KeyText("k", metadata={"m": "1"}, proof="$argon"),
)


def recorded(*events: Event | Unknown, stream: str = KEY) -> list[tuple[Recorded, Event | Unknown]]:
    """These events as a stream, at positions 10, 20, …"""
    return [
        (
            Recorded(
                10 * version,
                stream,
                version,
                event.type if isinstance(event, Unknown) else tag_of(event),
                1,
                WS,
                "actor",
                "r",
                version,
                b"",
                b"",
                b"",
            ),
            event,
        )
        for version, event in enumerate(events, 1)
    ]


def folded() -> Folded:
    return fold(KEY, recorded(CREATED, KeyChanged(scopes=("b",)), KeyRevoked()))


def held(row: StateRow | None, *, opened: bool = True, version: int = 3) -> None:
    compare(KEY, folded(), StreamRow(WS, version), row, opened=opened)


def changed(**fields: object) -> StateRow:
    """The right row, with some of its body's fields different."""
    body = msgspec.json.decode(folded().body) | fields
    return msgspec.structs.replace(folded().row, body=msgspec.json.encode(body))


def test_a_stream_adds_up_to_its_state() -> None:
    state = folded().state
    assert isinstance(state, Key)
    assert (state.scopes, state.revoked_at, state.version) == (("b",), 3, 3)
    assert (folded().kind, folded().position, folded().created_position) == ("key", 30, 10)
    held(folded().row)


def test_the_order_of_the_stored_fields_is_of_no_matter() -> None:
    body = msgspec.json.decode(folded().body)
    turned = msgspec.json.encode(dict(reversed(list(body.items()))))
    held(msgspec.structs.replace(folded().row, body=turned))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": "x"}, 'state of key_1, name: expected "k", found "x"'),
        ({"metadata": {"m": "2"}}, 'metadata.m: expected "1", found "2"'),
        ({"metadata": {}}, 'metadata.m: expected "1", found nothing'),
        ({"scopes": ["b", "c"]}, 'scopes: expected \\["b"\\], found \\["b","c"\\]'),
        ({"revoked_at": None}, "revoked_at: expected 3, found null"),
        ({"new": 1}, "new: expected nothing, found 1"),
    ],
)
def test_the_first_field_that_differs_is_named(fields: dict[str, object], named: str) -> None:
    with pytest.raises(Differs, match=named):
        held(changed(**fields))


def test_what_is_secret_is_told_by_a_fingerprint() -> None:
    secrets = msgspec.json.decode(folded().body)["secrets"]
    for name, value in (("proof", "$other"), ("digests", {"p1": "AAAA"})):
        with pytest.raises(Differs, match=f"secrets.0.{name}") as raised:
            held(changed(secrets=[secrets[0] | {name: value}]))
        said = str(raised.value)
        assert "fingerprint" in said
        assert not any(secret in said for secret in ("$argon", "$other", "AAAA", "ZGlnZXN0"))
    with pytest.raises(Differs, match="something of fingerprint") as raised:
        held(changed(secrets=[]))
    assert "ZGlnZXN0" not in str(raised.value)


def test_without_the_seal_secret_only_sealed_fields_are_left_out() -> None:
    held(changed(name="x", metadata={"m": "2"}, allowed_ips=["10.0.0.0/8"], external_id="e"), opened=False)
    with pytest.raises(Differs, match="enabled"):
        held(changed(enabled=False), opened=False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "workspace"),
        ("workspace_id", "ws_2"),
        ("version", 4),
        ("position", 31),
        ("created_position", 11),
    ],
)
def test_what_stands_beside_the_body_is_compared_too(field: str, value: object) -> None:
    with pytest.raises(Differs, match=f"state of key_1, {field}: expected .*, found {value}"):
        held(msgspec.structs.replace(folded().row, **{field: value}))


def test_a_missing_row_is_named() -> None:
    with pytest.raises(Differs, match="state of key_1: expected version 3, found nothing"):
        held(None)
    with pytest.raises(Differs, match="version in the table of streams: expected 3, found 4"):
        held(folded().row, version=4)
    with pytest.raises(Differs, match="in the table of streams, found nothing"):
        compare(KEY, folded(), None, folded().row, opened=True)


def test_rows_without_events_are_named() -> None:
    with pytest.raises(Differs, match="stream key_1: expected 2 events, found none"):
        compare(KEY, None, StreamRow(WS, 2), None, opened=True)
    with pytest.raises(Differs, match="state of key_1: expected nothing"):
        compare(KEY, None, None, folded().row, opened=True)
    # a stream that was taken and then not used is nothing to complain of
    compare(KEY, None, StreamRow(WS, 0), None, opened=True)


def test_versions_positions_and_the_workspace_have_to_be_in_order() -> None:
    events = [one for one, _ in recorded(CREATED, KeyRevoked(), KeyRevoked())]
    check_order(KEY, events)
    with pytest.raises(Differs, match="position 30, stream key_1: expected version 2, found version 3"):
        check_order(KEY, [events[0], events[2]])
    with pytest.raises(Differs, match="a position after 20"):
        check_order(KEY, [events[0], events[1], msgspec.structs.replace(events[2], position=15)])
    with pytest.raises(Differs, match="expected workspace ws_1, found ws_2"):
        check_order(KEY, [events[0], msgspec.structs.replace(events[1], workspace_id="ws_2")])


def test_a_deleted_workspace_has_no_state() -> None:
    created = WorkspaceCreated(RateLimit(1, 60), private=WorkspaceText("w"))
    gone = fold(WS, recorded(created, WorkspaceDeleted(), stream=WS))
    assert gone.deleted
    compare(WS, gone, StreamRow(WS, 2), None, opened=True)
    with pytest.raises(Differs, match="for it is deleted"):
        compare(WS, gone, StreamRow(WS, 2), gone.row, opened=True)


def test_peppers_have_a_state_too() -> None:
    assert fold("peppers", recorded(PepperActivated("p2"), stream="peppers")).row.kind == "peppers"


@pytest.mark.parametrize(
    "events",
    [
        [Unknown("key_imagined", 1, "unknown tag")],
        [CREATED, Unknown("key_imagined", 1, "unknown tag"), KeyRevoked()],
        [KeyRevoked()],
        [CREATED, WorkspaceDeleted()],
    ],
)
def test_what_cannot_be_read_has_no_state_and_is_not_compared(events: list[Event | Unknown]) -> None:
    one = fold(KEY, recorded(*events))
    assert one.state is None
    compare(KEY, one, StreamRow(WS, len(events)), folded().row, opened=True)


def test_members_are_folded_with_their_workspace_and_held_against_the_table() -> None:
    events = (
        WorkspaceCreated(RateLimit(1, 1), private=WorkspaceText("w")),
        MemberAdded("user_1", "owner"),
        MemberAdded("user_2", "viewer"),
        MemberRemoved("user_2"),
    )
    folded = fold(WS, recorded(*events, stream=WS))
    one = Member("owner", 2, "actor", 2)
    assert (folded.kind, folded.version, folded.created_position) == ("workspace", 4, 10)
    compare_members(WS, folded, {"user_1": one})
    wrong: list[dict[str, Member]] = [
        {},
        {"user_1": Member("viewer", 2, "actor", 2)},
        {"user_1": one, "user_2": Member("viewer", 3, "actor", 3)},
    ]
    for stored in wrong:
        with pytest.raises(Differs, match="member user_"):
            compare_members(WS, folded, stored)
    with pytest.raises(Differs, match="member user_1"):
        compare_members(WS, None, {"user_1": one})


def test_members_of_a_workspace_that_cannot_be_read_are_not_judged() -> None:
    events = (WorkspaceCreated(RateLimit(1, 1)), Unknown("of_the_future", 1, "unknown tag"))
    compare_members(WS, fold(WS, recorded(*events, stream=WS)), {"user_1": Member("owner", 2, "actor", 2)})

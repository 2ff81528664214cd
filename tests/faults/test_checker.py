"""The checker itself: a sound history passes, and every violation that is planted into it is found."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from keyledger.events import GENESIS, Recorded, chain_hash
from tests.faults import checker
from tests.faults.history import History, Line, Log, Operation

LINE = b"\x07" * 8
KEY, OTHER = "key_" + "1" * 22, "key_" + "2" * 22
AT = 1_000_000


def logged(*events: tuple[str, str, Any]) -> Log:
    """A log of these (stream, type, data), its request ids `c1`, `c2`, …"""
    recorded: list[Recorded] = []
    previous, versions = GENESIS, dict[str, int]()
    for position, (stream, tag, data) in enumerate(events, 1):
        versions[stream] = versions.get(stream, 0) + 1
        body = data if isinstance(data, bytes) else msgspec.json.encode(data)
        event = Recorded(
            position, stream, versions[stream], tag, 1, "ws", "me", f"c{position}", AT, body, b"", previous
        )
        event = replace(event, hash=chain_hash(previous, LINE, event))
        previous = event.hash
        recorded.append(event)
    return Log(tuple(recorded), (Line(0, LINE),), len(recorded), previous)


def secret(hint: str) -> dict[str, Any]:
    return {"hint": hint, "digests": {}}


def sound_log() -> Log:
    created = {"environment": "live", "scopes": ["a"], "secret": secret("1")}
    return logged(
        (KEY, "key_created", created),
        (OTHER, "key_created", created),
        (KEY, "key_changed", {"scopes": ["b"]}),
        (KEY, "key_rotated", {"secret": secret("2"), "previous_valid_until": AT}),
        (OTHER, "key_revoked", {}),
    )


def command(kind: Any, number: int, started: float, **more: Any) -> Operation:
    fields: dict[str, Any] = {"outcome": "acked", "position": number, **more}
    return Operation(kind=kind, name=f"c{number}", started=started, ended=started + 0.1, **fields)


def check(token: str, started: float, code: str, **more: Any) -> Operation:
    fields: dict[str, Any] = {"outcome": "acked", "cost": 1, **more}
    return Operation(
        kind="verify", name="check", started=started, ended=started, token=token, code=code, **fields
    )


def sound_history() -> History:
    return History(
        [
            command("create", 1, 1, key_id=KEY, version=1, token="t1"),
            command("create", 2, 2, key_id=OTHER, version=1, token="o1"),
            check("t1", 4.5, "VALID"),
            command("patch", 3, 5, key_id=KEY, version=2),
            command("rotate", 4, 6, key_id=KEY, version=3, token="t2", ended_tokens=("t1",)),
            check("t1", 6.2, "VALID"),
            check("t1", 6.5, "REVOKED"),
            command("revoke", 5, 7, key_id=OTHER, version=2, ended_tokens=("o1",)),
            check("t2", 9.5, "VALID"),
            check("o1", 9.6, "REVOKED"),
        ]
    )


def verdicts() -> dict[str, str]:
    return {"t1": "REVOKED", "t2": "VALID", "o1": "REVOKED"}


def view(version: int, status: str, scopes: list[str], *hints: str) -> dict[str, Any]:
    secrets = [{"hint": hint} for hint in hints]
    return {"version": version, "status": status, "scopes": scopes, "enabled": True, "secrets": secrets}


def states() -> dict[str, Any]:
    return {KEY: view(3, "active", ["b"], "2"), OTHER: view(2, "revoked", ["a"], "1")}


def test_a_sound_history_has_no_violation() -> None:
    log, history = sound_log(), sound_history()
    keys = checker.fold(log)
    stored = {event.position: event.hash.hex() for event in log.events[1:]}
    assert checker.log_violations(log) == []
    assert checker.command_violations(history, log) == []
    assert checker.late_acceptances(history) == []
    assert checker.false_refusals(history) == []
    assert checker.verdict_violations(history, keys, verdicts(), now=AT + 1) == []
    assert checker.state_violations(keys, states(), now=AT + 1) == []
    assert checker.stream_violations(log, stored, 5) == []
    assert checker.usage_violations(history, {"VALID": 3, "REVOKED": 2}) == []


def with_event(log: Log, at: int, **changes: Any) -> Log:
    events = list(log.events)
    events[at - 1] = replace(events[at - 1], **changes)
    return replace(log, events=tuple(events))


SOUND = sound_log()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        pytest.param(with_event(SOUND, 3, position=4), "position 4 stands", id="a hole"),
        pytest.param(with_event(SOUND, 3, data=b"{}"), "hash at position 3", id="a changed event"),
        pytest.param(with_event(SOUND, 3, version=3), "has version 3, not 2", id="a version left out"),
        pytest.param(replace(SOUND, head_position=6), "the head says 6", id="a head ahead"),
        pytest.param(replace(SOUND, head_hash=GENESIS), "the head says", id="another head"),
        pytest.param(replace(SOUND, events=SOUND.events[:-1]), "the log ends at 4", id="no tail"),
        pytest.param(
            replace(SOUND, lines=(Line(0, LINE), Line(2, bytes(8)))), "position 3", id="another line"
        ),
    ],
)
def test_a_log_that_is_not_whole_is_found_out(broken: Log, words: str) -> None:
    assert words in "\n".join(checker.log_violations(broken))


def with_operation(number: int, **changes: Any) -> History:
    return History(
        [
            replace(each, **changes) if each.name == f"c{number}" else each
            for each in sound_history().operations
        ]
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "c9"}, "lost"),
        ({"outcome": "refused"}, "refused, yet recorded"),
        ({"position": 2}, "recorded elsewhere"),
        ({"version": 9}, "recorded elsewhere"),
        ({"key_id": OTHER}, "recorded elsewhere"),
    ],
)
def test_a_command_that_is_not_where_it_was_said_to_be_is_found_out(
    changes: dict[str, Any], words: str
) -> None:
    found = checker.command_violations(with_operation(3, **changes), sound_log())
    assert len(found) == 1
    assert found[0].startswith(words)


@pytest.mark.parametrize("outcome", ["acked", "unknown"])
def test_a_command_that_is_recorded_twice_is_found_out(outcome: Any) -> None:
    twice = with_event(sound_log(), 4, request_id="c3")
    history = History([replace(sound_history().operations[3], outcome=outcome)])
    assert [each.startswith("recorded 2 times") for each in checker.command_violations(history, twice)] == [
        True
    ]


def test_an_unknown_command_may_be_recorded_or_not() -> None:
    for name in ("c3", "c99"):
        assert checker.command_violations(with_operation(3, outcome="unknown", name=name), sound_log()) == []


@pytest.mark.parametrize("code", sorted(checker.ACCEPTING))
def test_a_late_acceptance_is_found_out_unless_the_way_was_broken(code: str) -> None:
    history = sound_history()
    history.add(check("o1", 7.1 + checker.BOUND + 0.01, code))
    assert len(checker.late_acceptances(history)) == 1
    assert checker.late_acceptances(history, slow=[checker.Interval(7.2, 8)]) == []
    assert len(checker.late_acceptances(history, slow=[checker.Interval(5, 7)])) == 1
    history.add(check("o1", 7.1 + checker.SLOW_BOUND + 0.01, code))
    assert len(checker.late_acceptances(history, slow=[checker.Interval(7.2, 20)])) == 1


def test_only_an_acknowledged_end_must_be_obeyed() -> None:
    history = with_operation(5, outcome="unknown")
    history.add(check("o1", 20, "VALID"))
    assert checker.late_acceptances(history) == []


@pytest.mark.parametrize("code", ["NOT_FOUND", "REVOKED", "DISABLED"])
def test_a_refusal_without_a_reason_is_found_out(code: str) -> None:
    history = sound_history()
    history.add(check("t2", 9, code))
    history.add(check("t1", 5.9, code))
    assert len(checker.false_refusals(history)) == 2
    # too new to be known, or its end already begun, or an honest "I cannot say"
    history = sound_history()
    history.add(check("t2", 7, code))
    history.add(check("t1", 6.05, code))
    history.add(check("t2", 9, "stale", outcome="refused"))
    assert checker.false_refusals(history) == []


@pytest.mark.parametrize(("token", "code"), [("t1", "VALID"), ("t2", "NOT_FOUND"), ("o1", "VALID")])
def test_a_verdict_that_the_log_contradicts_is_found_out(token: str, code: str) -> None:
    told = verdicts() | {token: code}
    found = checker.verdict_violations(sound_history(), checker.fold(sound_log()), told, now=AT + 1)
    assert len(found) == 1
    assert code in found[0]


@pytest.mark.parametrize(
    "shown",
    [
        {KEY: view(2, "active", ["b"], "2")},
        {KEY: view(3, "revoked", ["b"], "2")},
        {KEY: view(3, "active", ["a"], "2")},
        {KEY: view(3, "active", ["b"], "1", "2")},
        {"key_unheard_of": view(1, "active", ["b"], "2")},
    ],
)
def test_a_state_that_the_log_contradicts_is_found_out(shown: dict[str, Any]) -> None:
    assert len(checker.state_violations(checker.fold(sound_log()), states() | shown, now=AT + 1)) == 1


def test_a_state_that_is_missing_is_found_out() -> None:
    assert len(checker.state_violations(checker.fold(sound_log()), {KEY: states()[KEY]}, now=AT + 1)) == 1


def test_an_event_that_cannot_be_read_closes_its_key_and_no_other() -> None:
    created = {"environment": "live", "scopes": ["a"], "secret": secret("1")}
    poison: list[tuple[str, Any]] = [
        ("key_of_tomorrow", {}),
        ("key_changed", b"{"),
        ("key_changed", b"[1]"),
        ("key_changed", b"[" * 20_000),
        ("key_changed", {"scopes": 7}),
        ("key_rotated", {}),
    ]
    for tag, data in poison:
        keys = checker.fold(
            logged((KEY, "key_created", created), (OTHER, "key_created", created), (KEY, tag, data))
        )
        assert checker.expected_code(keys[KEY], 1, AT) == "NOT_FOUND"
        assert checker.expected_code(keys[OTHER], 2, AT) == "VALID"


def test_the_fold_ends_secrets_as_the_design_says() -> None:
    created = {"environment": "live", "scopes": ["a"], "secret": secret("1")}
    long = {"secret": secret("2"), "previous_valid_until": AT + 100}
    again = {"secret": secret("3"), "previous_valid_until": AT + 100}
    once = checker.fold(logged((KEY, "key_created", created), (KEY, "key_rotated", long)))[KEY]
    twice = checker.fold(
        logged((KEY, "key_created", created), (KEY, "key_rotated", long), (KEY, "key_rotated", again))
    )[KEY]
    assert [checker.expected_code(once, at, AT + 50) for at in (1, 2)] == ["VALID", "VALID"]
    assert [checker.expected_code(once, at, AT + 100) for at in (1, 2)] == ["REVOKED", "VALID"]
    assert [checker.expected_code(twice, at, AT + 50) for at in (1, 2, 3)] == ["REVOKED", "VALID", "VALID"]
    off = checker.fold(logged((KEY, "key_created", created), (KEY, "key_changed", {"enabled": False})))[KEY]
    assert checker.expected_code(off, 1, AT) == "DISABLED"


def test_a_stream_that_is_not_the_log_is_found_out() -> None:
    log = sound_log()
    stored = {event.position: event.hash.hex() for event in log.events}
    assert "ends at 4" in checker.stream_violations(log, stored, 4)[0]
    assert "another event at 2" in checker.stream_violations(log, stored | {2: "00"}, 5)[0]
    assert "another event at 6" in checker.stream_violations(log, stored | {6: "00"}, 5)[0]
    del stored[3]
    assert "has holes" in checker.stream_violations(log, stored, 5)[0]


def test_uses_that_are_lost_or_counted_twice_are_found_out() -> None:
    history = sound_history()
    assert len(checker.usage_violations(history, {"VALID": 2, "REVOKED": 2})) == 1
    assert checker.usage_violations(history, {"VALID": 2, "REVOKED": 2}, lost=1) == []
    assert len(checker.usage_violations(history, {"VALID": 4, "REVOKED": 2})) == 1
    history.add(check("t2", 10, "", outcome="unknown"))
    assert checker.usage_violations(history, {"VALID": 4, "REVOKED": 2}) == []
    history.add(check("t2", 10, "VALID", cost=0))
    assert checker.usage_violations(history, {"VALID": 3, "REVOKED": 2}) == []


def test_what_is_found_fails() -> None:
    checker.hold([], [])
    with pytest.raises(AssertionError, match=r"1 violations:\nlost"):
        checker.hold([], ["lost"])

"""Hold a history against the log: every function answers the violations it found, in words.

The fold here reads nothing but the log's own JSON and shares no code with the projections it judges.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from keyledger.events import GENESIS, TAGS, chain_hash
from tests.faults.history import History, Log, Operation

BOUND = 0.25
"""Seconds after a revocation's answer in which a check may still begin and be accepted."""
SLOW_BOUND = 2.0
"""The same while the broker is away."""
ACCEPTING = frozenset({"VALID", "INSUFFICIENT_PERMISSIONS", "RATE_LIMITED"})
"""Codes that say that the secret still counts."""


class Interval(Struct, frozen=True):
    """A time in which the way to the verifier was not whole; what it touches has `bound` seconds."""

    began: float
    ended: float
    bound: float = SLOW_BOUND

    def touches(self, began: float, ended: float) -> bool:
        return self.began <= ended and began <= self.ended


def log_violations(log: Log) -> list[str]:
    """Positions dense, versions contiguous, hashes a chain, the head its end."""
    found: list[str] = []
    previous, versions = GENESIS, Counter[str]()
    for expected, event in enumerate(log.events, 1):
        if event.position != expected:
            found.append(f"position {event.position} stands where {expected} should")
            break
        if chain_hash(previous, log.line_at(event.position), event) != event.hash:
            found.append(f"the hash at position {event.position} is not the chain's")
        previous = event.hash
        versions[event.stream_id] += 1
        if event.version != versions[event.stream_id]:
            found.append(f"{event.stream_id} has version {event.version}, not {versions[event.stream_id]}")
    if (log.head_position, log.head_hash) != (len(log.events), previous):
        found.append(f"the head says {log.head_position}, the log ends at {len(log.events)}")
    return found


def command_violations(history: History, log: Log) -> list[str]:
    """Acknowledged commands once and where they were said to be, unknown ones at most once, refused never."""
    found: list[str] = []
    recorded = defaultdict(list[Any])
    for event in log.events:
        recorded[event.request_id].append(event)
    for command in history.commands():
        events = recorded[command.name]
        if command.outcome == "refused" and events:
            found.append(f"refused, yet recorded: {command!r}")
        if len(events) > 1:
            found.append(f"recorded {len(events)} times: {command!r}")
        if command.outcome != "acked":
            continue
        if not events:
            found.append(f"lost: {command!r}")
            continue
        event = events[0]
        if (event.position, event.version, event.stream_id) != (
            command.position,
            command.version,
            command.key_id,
        ):
            found.append(f"recorded elsewhere, at position {event.position}: {command!r}")
    return found


def late_acceptances(history: History, *, bound: float = BOUND, slow: Sequence[Interval] = ()) -> list[str]:
    """Checks that began more than the bound after the token's end was acknowledged, and still passed."""
    ends: dict[str, Operation] = {}
    for command in history.commands():
        if command.outcome == "acked":
            for token in command.ended_tokens:
                ends.setdefault(token, command)
    found: list[str] = []
    for check in history.verifies():
        end = ends.get(check.token)
        if end is None or check.code not in ACCEPTING:
            continue
        allowed = [each.bound for each in slow if each.touches(end.ended, check.started)]
        late = check.started - end.ended
        if late > max(allowed, default=bound):
            found.append(f"accepted {late:.3f} s after {end!r}: {check!r}")
    return found


def false_refusals(history: History, *, within: float = SLOW_BOUND) -> list[str]:
    """Checks that refused a token which was made long enough before, and which nobody had begun to end."""
    begun: dict[str, float] = {}
    for command in history.commands():
        for token in command.ended_tokens:
            begun[token] = min(begun.get(token, command.started), command.started)
    made = history.tokens()
    return [
        f"refused without a reason: {check!r}"
        for check in history.verifies()
        if check.outcome == "acked"
        and check.code not in ACCEPTING
        and check.token in made
        and check.started > made[check.token].ended + within
        and check.ended < begun.get(check.token, float("inf"))
    ]


class FoldedSecret(Struct):
    """A secret: the position that made it, its hint, when it ends (µs)."""

    position: int
    hint: str
    ends: int | None = None


class FoldedKey(Struct):
    """What the log says about one key; `closed` when it holds an event that cannot be read."""

    workspace_id: str
    scopes: tuple[str, ...]
    secrets: list[FoldedSecret]
    enabled: bool = True
    revoked: bool = False
    closed: bool = False
    version: int = 1


def fold(log: Log) -> dict[str, FoldedKey]:
    """Every key, from its events alone."""
    keys: dict[str, FoldedKey] = {}
    for event in log.events:
        if not event.stream_id.startswith("key_"):
            continue
        step, data = _STEPS.get(event.type), _decoded(event.data)
        if event.type == "key_created" and event.stream_id not in keys and data is not None:
            first = FoldedSecret(event.position, data["secret"]["hint"])
            keys[event.stream_id] = FoldedKey(event.workspace_id, tuple(data["scopes"]), [first])
        elif key := keys.get(event.stream_id):
            key.version = event.version
            unknown = event.type not in TAGS or event.schema_version > TAGS[event.type][1]
            if unknown or not isinstance(data, dict):
                key.closed = True
            elif step is not None:
                try:
                    step(key, data, event.position, event.at)
                except (TypeError, KeyError):
                    key.closed = True  # another shape
    return keys


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _changed(key: FoldedKey, data: Mapping[str, Any], position: int, at: int) -> None:
    del position, at
    key.scopes = tuple(data.get("scopes", key.scopes))
    key.enabled = data.get("enabled", key.enabled)


def _rotated(key: FoldedKey, data: Mapping[str, Any], position: int, at: int) -> None:
    for secret in key.secrets[:-1]:
        secret.ends = at if secret.ends is None else min(secret.ends, at)
    key.secrets[-1].ends = data["previous_valid_until"]
    key.secrets.append(FoldedSecret(position, data["secret"]["hint"]))


def _revoked(key: FoldedKey, data: Mapping[str, Any], position: int, at: int) -> None:
    del data, position, at
    key.revoked = True


def _created(key: FoldedKey, data: Mapping[str, Any], position: int, at: int) -> None:
    del data, position, at
    key.closed = True  # a second time


_STEPS: dict[str, Callable[[FoldedKey, Mapping[str, Any], int, int], None]] = {
    "key_created": _created,
    "key_changed": _changed,
    "key_rotated": _rotated,
    "key_revoked": _revoked,
}


def expected_code(key: FoldedKey, made_at: int, now: int) -> str:
    """The verdict on the token that was made at this position."""
    if key.closed:
        return "NOT_FOUND"
    secret = next((each for each in key.secrets if each.position == made_at), None)
    if secret is None:
        return "NOT_FOUND"
    if key.revoked or (secret.ends is not None and secret.ends <= now):
        return "REVOKED"
    return "VALID" if key.enabled else "DISABLED"


def verdict_violations(
    history: History, keys: Mapping[str, FoldedKey], told: Mapping[str, str], *, now: int
) -> list[str]:
    """`told`: a verifier's code for every token ever made, asked at the head; `now` in µs."""
    found: list[str] = []
    for token, made in history.tokens().items():
        key = keys.get(made.key_id)
        expected = "NOT_FOUND" if key is None else expected_code(key, made.position, now)
        if told.get(token) != expected:
            found.append(f"the verifier says {told.get(token)}, the log {expected}: {made!r}")
    return found


def state_violations(keys: Mapping[str, FoldedKey], shown: Mapping[str, Any], *, now: int) -> list[str]:
    """`shown`: the key service's object of every key; `now` in µs."""
    found: list[str] = []
    for key_id, key in keys.items():
        view = shown.get(key_id)
        if view is None:
            found.append(f"{key_id} is in the log and not in the state table")
            continue
        status = "revoked" if key.revoked else "active" if key.enabled else "disabled"
        hints = [each.hint for each in key.secrets if each.ends is None or each.ends > now]
        expected = (key.version, status, list(key.scopes), key.enabled, hints)
        hints_shown = [each["hint"] for each in view["secrets"]]
        there = (view["version"], view["status"], list(view["scopes"]), view["enabled"], hints_shown)
        if there != expected:
            found.append(f"{key_id}: the state table says {there}, the log {expected}")
    found += [f"{key_id} is shown and not in the log" for key_id in shown if key_id not in keys]
    return found


def stream_violations(log: Log, stored: Mapping[int, str], last: int) -> list[str]:
    """`stored`: sequence → hash (hex) of what the stream holds; it must end with the log, without a hole."""
    found = [
        f"the stream holds another event at {sequence}"
        for sequence, digest in stored.items()
        if sequence > len(log.events) or log.events[sequence - 1].hash.hex() != digest
    ]
    if last != log.head_position:
        found.append(f"the stream ends at {last}, the log at {log.head_position}")
    if stored and len(stored) != max(stored) - min(stored) + 1:
        found.append(f"the stream has holes: {len(stored)} events from {min(stored)} to {max(stored)}")
    return found


def usage_violations(history: History, counted: Mapping[str, int], *, lost: int = 0) -> list[str]:
    """`counted`: uses by code. Those that were answered are counted, but for `lost`; unknown ones may be.

    Who is not found is a use only where the key is known, which the history cannot tell: those are left out.
    """
    sent = uses_sent(history)
    counted = {code: count for code, count in counted.items() if code != "NOT_FOUND"}
    unknown = sum(check.outcome == "unknown" for check in history.verifies())
    found: list[str] = []
    if (missing := sum((sent - Counter(counted)).values())) > lost:
        found.append(f"{missing} uses of {dict(sent)} are not counted, only {dict(counted)}")
    if (more := sum((Counter(counted) - sent).values())) > unknown:
        found.append(f"{more} uses more are counted than were answered, and only {unknown} had no answer")
    return found


def uses_sent(history: History) -> Counter[str]:
    """The uses that were answered, by code, but for those of unknown keys."""
    checks = (check for check in history.verifies() if check.outcome == "acked" and check.cost)
    return Counter(check.code for check in checks if check.code != "NOT_FOUND")


def hold(*violations: Iterable[str]) -> None:
    """Fail with the first of them, and how many there are."""
    found = [each for some in violations for each in some]
    assert not found, "\n".join([f"{len(found)} violations:", *found[:20]])

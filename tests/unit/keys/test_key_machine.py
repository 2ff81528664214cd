"""Random lives of a key against a model: what holds whatever is done to it, in whatever order."""

from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keyledger.clock import SECOND
from keyledger.errors import Refusal
from keyledger.events import KeyRotated, RateLimit, Retire
from services.keys.domain.key import PENDING, Context, Key, KeyCommand, decide, evolve
from services.keys.handlers.writing import pending_paths
from tests.support.spec import NOW
from tests.unit.keys.examples import CALLER, KEY, WS, change, create, revoke, rotate

offsets = st.integers(1, 3 * 3600)
fields = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["CI", "other", ""]),
        "scopes": st.sampled_from([("*",), (), ("a", "b"), ("Bad",)]),
        "expires_at": st.none() | offsets,
        "allowed_ips": st.sampled_from([None, ("10.0.0.0/8",), ()]),
        "rate_limit": st.sampled_from([None, RateLimit(5, 60), RateLimit(5, 7)]),
        "external_id": st.sampled_from([None, "u1", "u2"]),
        "metadata": st.sampled_from([{}, {"created_at": "-1"}, {"k": "v"}]),
        "enabled": st.booleans(),
    },
)
retirements: st.SearchStrategy[Retire] = st.sampled_from(("at_overlap", "on_first_use"))


def stamped(before: Key | None, event: Any, context: Context) -> Key:
    """The fold as the log does it: at PENDING, as JSON, then the moment put where it is waited for."""
    pending = evolve(before, event, Context(context.stream_id, context.workspace_id, context.actor, PENDING))
    body = msgspec.json.decode(msgspec.json.encode(pending))
    for *steps, last in pending_paths(body):
        place: Any = body
        for step in steps:
            place = place[int(step) if isinstance(place, list) else step]
        place[last] = context.at
    return msgspec.convert(body, Key)


class KeyLife(RuleBasedStateMachine):
    """Commands at times that only go on; the log's `at` may be later than the moment of the decision."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.key: Key | None = None
        self.recorded: list[tuple[Any, int]] = []
        self.secrets = 1
        self.frozen: Key | None = None

    def context(self, at: int) -> Context:
        return Context(KEY, WS, CALLER, at)

    def run(self, command: KeyCommand, late: int) -> list[Any]:
        before = self.key
        try:
            decided = decide(command, before, now=self.now)
        except Refusal as refusal:
            assert refusal.code in ("invalid_request", "key_revoked", "precondition_failed")
            return []
        assert len(decided) <= 1
        for event in decided:
            at = self.now + late
            after = evolve(self.key, event, self.context(at))
            assert after == stamped(self.key, event, self.context(at))
            if self.key is not None:
                same = msgspec.structs.replace(after, version=self.key.version)
                assert same != self.key, f"{event} changes nothing"
            self.key = after
            self.recorded.append((event, at))
            # the head of the log never goes back
            self.now = at
        return list(decided)

    @initialize(expires=st.none() | offsets, late=st.integers(0, 5))
    def begin(self, expires: int | None, late: int) -> None:
        expires_at = None if expires is None else self.now + expires * SECOND
        assert self.run(create(expires_at=expires_at), late)

    @rule(seconds=st.integers(0, 2 * 3600))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @rule(fields=fields, stale=st.booleans(), late=st.integers(0, 5))
    def change(self, fields: dict[str, Any], stale: bool, late: int) -> None:
        assert self.key is not None
        if isinstance(fields.get("expires_at"), int):
            fields = fields | {"expires_at": self.now + fields["expires_at"] * SECOND}
        version = self.key.version
        decided = self.run(change(**fields, if_match=version + 1 if stale else version), late)
        assert not (stale and decided)
        for field, wanted in fields.items() if decided else ():
            assert getattr(self.key, field) == wanted

    @rule(overlap=st.integers(-1, 3 * 3600), retire=retirements, late=st.integers(0, 5 * SECOND))
    def rotate(self, overlap: int, retire: Retire, late: int) -> None:
        assert self.key is not None
        asked_at, end, count = self.now, self.key.expires_at, len(self.key.secrets)
        self.secrets += 1
        for event in self.run(rotate(self.secrets, overlap_seconds=overlap, retire=retire), late):
            assert isinstance(event, KeyRotated)
            assert event.previous_valid_until <= asked_at + overlap * SECOND
            assert end is None or event.previous_valid_until <= end
            assert len(self.key.secrets) == count + 1

    # ending a life early would leave little of it to look at
    @precondition(lambda self: len(self.recorded) > 4)
    @rule(late=st.integers(0, 5))
    def revoke(self, late: int) -> None:
        already = self.frozen is not None
        assert bool(self.run(revoke(), late)) is not already
        self.frozen = self.key

    @invariant()
    def the_version_counts_the_events(self) -> None:
        assert self.key is None or self.key.version == len(self.recorded)

    @invariant()
    def at_most_two_secrets_are_good_and_the_newest_always_is(self) -> None:
        for moment in (self.now, self.now + 1, self.now + 1800 * SECOND):
            good = [secret for secret in self.key.secrets if secret.valid(moment)] if self.key else []
            assert len(good) <= 2
            assert self.key is None or good[-1] == self.key.secrets[-1]

    @invariant()
    def a_revoked_key_never_changes_again(self) -> None:
        if self.frozen is not None:
            assert self.key == self.frozen
            assert self.frozen.status(self.now + 10**15) == "revoked"

    @invariant()
    def folding_the_log_again_leads_to_the_same_state(self) -> None:
        state: Key | None = None
        for event, at in self.recorded:
            state = evolve(state, event, self.context(at))
        assert state == self.key


KeyLife.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestKeyLife = KeyLife.TestCase

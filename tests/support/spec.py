"""Decider specifications: `given(past).when(command, now=…).then(events)`, or nothing, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from keyledger.clock import SECOND, parse_rfc3339
from keyledger.errors import Refusal
from services.keys.domain.key import Context

#: The moment of a command unless the spec says another; the past lies within the hour before it.
NOW = parse_rfc3339("2026-01-02T03:04:05Z")
S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
C_contra = TypeVar("C_contra", contravariant=True)
E_co = TypeVar("E_co", covariant=True)
S_contra = TypeVar("S_contra", contravariant=True)


class Decide(Protocol[C_contra, S_contra, E_co]):
    """What a decider's `decide` looks like from here."""

    def __call__(self, command: C_contra, state: S_contra | None, now: int, /) -> Sequence[E_co]:
        """The events the command causes, or a `Refusal`."""
        ...


class Decider(Generic[C, S, E]):
    """A decide and an evolve under test, for one stream."""

    def __init__(
        self, decide: Decide[C, S, E], evolve: Callable[[S | None, E, Context], S], context: Context
    ) -> None:
        self.decide = decide
        self.evolve = evolve
        self.context = context

    def given(self, *past: E) -> Given[C, S, E]:
        """The stream holds these events, a second apart, the last one a minute before `NOW`."""
        first = NOW - (60 + len(past)) * SECOND
        state: S | None = None
        for number, event in enumerate(past, 1):
            state = self.evolve(state, event, self.at(first + number * SECOND))
        return Given(self, state)

    def at(self, moment: int) -> Context:
        """The envelope of an event of this stream at this moment."""
        context = self.context
        return Context(context.stream_id, context.workspace_id, context.actor, moment)


class Given(Generic[C, S, E]):
    """A stream with a past."""

    def __init__(self, decider: Decider[C, S, E], state: S | None) -> None:
        self._decider = decider
        self.state = state

    def when(self, command: C, *, now: int = NOW) -> When[S, E]:
        """Decide this command at this moment."""
        try:
            decided = list(self._decider.decide(command, self.state, now))
        except Refusal as refusal:
            return When(self.state, [], refusal)
        state = self.state
        for event in decided:
            state = self._decider.evolve(state, event, self._decider.at(now))
        return When(state, decided, None)


class When(Generic[S, E]):
    """What came of a command; every spec ends in exactly one `then`."""

    def __init__(self, state: S | None, decided: list[E], refusal: Refusal | None) -> None:
        self._state = state
        self._decided = decided
        self._refusal = refusal

    def then(self, *expected: E) -> S:
        """Exactly these events were caused; answers the state they lead to."""
        assert self._refusal is None, f"refused: {self._refusal.code} {self._refusal.message}"
        assert self._decided == list(expected)
        assert self._state is not None
        return self._state

    def then_nothing(self) -> None:
        """Nothing was to be done, and nothing is wrong with that."""
        assert self._refusal is None, f"refused: {self._refusal.code} {self._refusal.message}"
        assert self._decided == []

    def then_raises(self, code: str, *, field: str | None = None) -> None:
        """The command was refused with this code, naming this field or none."""
        assert self._refusal is not None, f"not refused, but caused {self._decided}"
        assert (self._refusal.code, self._refusal.field) == (code, field)

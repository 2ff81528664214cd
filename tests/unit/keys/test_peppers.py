"""The peppers in the log: one is active, others are retired once no key needs them, or by force."""

from typing import Any

from keyledger.events import PepperActivated, PepperRetired
from services.keys.domain import peppers
from services.keys.domain.key import Context
from services.keys.domain.peppers import ActivatePepper, PepperCommand, PepperState, RetirePepper
from tests.support.spec import Decider
from tests.unit.keys.examples import SYSTEM_WS


def _decide(command: PepperCommand, state: PepperState | None, _now: int, /) -> list[Any]:
    return [*peppers.decide(command, state)]


spec: Decider[PepperCommand, PepperState, Any] = Decider(
    _decide, peppers.evolve, Context(peppers.STREAM, SYSTEM_WS, "system", 0)
)


def test_a_pepper_becomes_active_once() -> None:
    state = spec.given().when(ActivatePepper("p2")).then(PepperActivated("p2"))
    assert (state.active, state.retired, state.version) == ("p2", (), 1)
    spec.given(PepperActivated("p2")).when(ActivatePepper("p2")).then_nothing()


def test_a_pepper_is_retired_when_no_key_is_left_with_it() -> None:
    given = spec.given(PepperActivated("p2"))
    given.when(RetirePepper("p1", "p2", left=1)).then_raises("conflict")
    state = given.when(RetirePepper("p1", "p2", left=0)).then(PepperRetired("p1"))
    assert (state.active, state.retired) == ("p2", ("p1",))


def test_an_operator_may_force_it() -> None:
    given = spec.given(PepperActivated("p2"))
    given.when(RetirePepper("p1", "p2", left=9, force=True)).then(PepperRetired("p1"))


def test_the_active_pepper_stays() -> None:
    given = spec.given(PepperActivated("p2"))
    given.when(RetirePepper("p2", "p2", left=0, force=True)).then_raises("conflict")
    spec.given().when(RetirePepper("p1", "p1", left=0, force=True)).then_raises("conflict")


def test_retiring_twice_does_nothing_and_what_no_pepper_is_called_is_not_found() -> None:
    given = spec.given(PepperActivated("p2"), PepperRetired("p1"))
    given.when(RetirePepper("p1", "p2", left=7)).then_nothing()
    for name in ("", "../p1", "p" * 65):
        given.when(RetirePepper(name, "p2", left=0)).then_raises("not_found")


def test_a_retired_pepper_that_comes_back_is_retired_no_more() -> None:
    given = spec.given(PepperActivated("p2"), PepperRetired("p1"))
    state = given.when(ActivatePepper("p1")).then(PepperActivated("p1"))
    assert (state.active, state.retired) == ("p1", ())

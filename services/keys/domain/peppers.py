"""The peppers as the log tells them: which one new digests are made under, and which are done with."""

from __future__ import annotations

import re
from typing import TypeAlias, assert_never

import msgspec
from msgspec import Struct

from keyledger.errors import conflict, not_found
from keyledger.events import PepperActivated, PepperEvent, PepperRetired
from services.keys.domain.key import Context

#: The one stream of these events; it belongs to the system workspace.
STREAM = "peppers"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class PepperState(Struct, frozen=True, omit_defaults=True):
    """What has been recorded of the peppers. `active` is empty until one was made so."""

    active: str = ""
    retired: tuple[str, ...] = ()
    version: int = 0


class ActivatePepper(Struct, frozen=True):
    """Make new digests under this pepper, which every live verifier holds."""

    pepper: str


class RetirePepper(Struct, frozen=True):
    """Be done with a pepper. `left` keys still have no digest under the active one; `force`: never mind."""

    pepper: str
    active: str
    left: int
    force: bool = False


PepperCommand: TypeAlias = ActivatePepper | RetirePepper


def is_name(text: str) -> bool:
    """Whether a pepper may be called so."""
    return _NAME.fullmatch(text) is not None


def decide(command: PepperCommand, peppers: PepperState | None) -> list[PepperEvent]:
    """The events this command causes, at most one. Raises `Refusal`."""
    known = peppers or PepperState()
    match command:
        case ActivatePepper():
            return [] if command.pepper == known.active else [PepperActivated(command.pepper)]
        case RetirePepper():
            return _retire(command, known)
        case _:
            assert_never(command)


def _retire(command: RetirePepper, known: PepperState) -> list[PepperEvent]:
    if not is_name(command.pepper):
        raise not_found()
    if command.pepper in known.retired:
        return []
    if command.pepper in (known.active, command.active):
        raise conflict("New digests are made under this pepper; rotate first.")
    if command.left and not command.force:
        raise conflict(f"{command.left} keys have no digest under the active pepper yet.")
    return [PepperRetired(command.pepper)]


def evolve(peppers: PepperState | None, event: PepperEvent, context: Context) -> PepperState:
    """Fold one recorded event into the state. Never refuses: the past happened."""
    del context
    known = peppers or PepperState()
    known = msgspec.structs.replace(known, version=known.version + 1)
    match event:
        case PepperActivated():
            back = tuple(name for name in known.retired if name != event.pepper)
            return msgspec.structs.replace(known, active=event.pepper, retired=back)
        case PepperRetired():
            return msgspec.structs.replace(known, retired=(*known.retired, event.pepper))
        case _:
            assert_never(event)

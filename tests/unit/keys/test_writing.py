"""What the writer keeps: the moment of the commit put into the state, and nothing else touched."""

from typing import Any

import msgspec

from services.keys.domain.key import PENDING, Key, Secret
from services.keys.domain.workspace import Workspace
from services.keys.handlers.writing import pending_paths
from tests.unit.keys.examples import CALLER, KEY, LIMIT, WS

RUNNING = Secret("…1", {"p1": b"\x01"}, 5, valid_until=9)


def paths(state: Any) -> set[str]:
    return {".".join(path) for path in pending_paths(msgspec.json.decode(msgspec.json.encode(state)))}


def key(**fields: Any) -> Key:
    plain: dict[str, Any] = {
        "id": KEY,
        "workspace_id": WS,
        "environment": "live",
        "name": "CI",
        "scopes": ("*",),
        "secrets": (RUNNING,),
        "created_at": 5,
        "created_by": CALLER,
        "version": 1,
    }
    return Key(**(plain | fields))


def test_a_state_that_waits_for_nothing_has_no_path() -> None:
    assert paths(key()) == set()


def test_every_moment_of_the_commit_is_waited_for() -> None:
    dropped = msgspec.structs.replace(RUNNING, dropped_at=PENDING)
    new = Secret("…2", {"p1": b"\x02"}, PENDING)
    state = key(created_at=PENDING, revoked_at=PENDING, secrets=(dropped, RUNNING, new))
    assert paths(state) == {"created_at", "revoked_at", "secrets.0.dropped_at", "secrets.2.created_at"}


def test_a_new_workspace_waits_for_its_beginning() -> None:
    assert paths(Workspace(WS, "Acme", LIMIT, PENDING, 1)) == {"created_at"}


def test_what_a_person_typed_is_never_taken_for_a_moment() -> None:
    assert paths(key(metadata={"created_at": "-1"}, name="-1", external_id="-1")) == set()
    assert pending_paths({"metadata": {"created_at": PENDING}}) == ()
    assert pending_paths({"expires_at": PENDING, "limit": PENDING}) == ()

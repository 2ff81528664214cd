"""Principals, commands and events that the specs of keys and workspaces start from."""

from typing import Any

from keyledger.events import (
    KeyChanged,
    KeyCreated,
    KeyRevoked,
    KeyRotated,
    KeyText,
    KeyTextChange,
    NewSecret,
    Proof,
    RateLimit,
    WorkspaceChanged,
    WorkspaceCreated,
    WorkspaceText,
)
from services.keys.domain import key as keys
from services.keys.domain import workspace as workspaces
from services.keys.domain.key import ChangeKey, Context, CreateKey, Key, KeyCommand, RevokeKey, RotateKey
from services.keys.domain.principal import ADMIN, KEYS_WRITE, WORKSPACE_WRITE, Principal
from services.keys.domain.workspace import Workspace, WorkspaceCommand
from tests.support.spec import NOW, Decider

WS, OTHER_WS, SYSTEM_WS = "ws_" + "1" * 22, "ws_" + "2" * 22, "ws_" + "0" * 22
KEY, CALLER = "key_" + "3" * 22, "key_" + "4" * 22
MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000

OPERATOR = Principal("key_" + "9" * 22, SYSTEM_WS, frozenset({ADMIN}))
MANAGER = Principal(CALLER, WS, frozenset({KEYS_WRITE, WORKSPACE_WRITE}))
"""May write keys and the workspace of its own; holds no other management scope."""
READER = Principal(CALLER, WS, frozenset({"*"}))
"""Holds every scope of the product and none of Keyledger's own."""

LIMIT = RateLimit(limit=100, window_seconds=60)


def secret(number: int = 1) -> NewSecret:
    """The number-th secret of a key, as recorded."""
    return NewSecret(f"cvtk_live_…{number:04d}", {"p1": bytes([number % 256]) * 32})


def create(**fields: Any) -> CreateKey:
    """A command that creates a plain key, with some fields another way."""
    plain: dict[str, Any] = {
        "by": MANAGER,
        "system": False,
        "name": "CI",
        "environment": "live",
        "secret": secret(),
        "proof": "$proof1",
    }
    return CreateKey(**(plain | fields))


def change(**fields: Any) -> ChangeKey:
    """A command that changes these fields."""
    plain: dict[str, Any] = {"by": MANAGER, "system": False}
    return ChangeKey(**(plain | fields))


def rotate(number: int = 2, **fields: Any) -> RotateKey:
    """A command that gives the key its number-th secret."""
    plain: dict[str, Any] = {"by": MANAGER, "secret": secret(number), "proof": f"$proof{number}"}
    return RotateKey(**(plain | fields))


def revoke(**fields: Any) -> RevokeKey:
    """A command that ends the key."""
    plain: dict[str, Any] = {"by": MANAGER}
    return RevokeKey(**(plain | fields))


def created(*, private: KeyText | None = None, **fields: Any) -> KeyCreated:
    """A plain key exists, or one with some fields another way."""
    text = private or KeyText(name="CI", proof="$proof1")
    plain: dict[str, Any] = {"environment": "live", "scopes": ("*",), "secret": secret()}
    return KeyCreated(**(plain | fields), private=text)


def changed(*, private: KeyTextChange | None = None, **fields: Any) -> KeyChanged:
    """Some fields have new values."""
    return KeyChanged(**fields, private=private)


def rotated(number: int = 2, *, until: int = NOW, **fields: Any) -> KeyRotated:
    """The key has its number-th secret; the one before ends at `until`."""
    return KeyRotated(
        secret=secret(number), previous_valid_until=until, private=Proof(f"$proof{number}"), **fields
    )


def revoked() -> KeyRevoked:
    """The key has ended, for no stated reason."""
    return KeyRevoked()


def workspace_created(*, name: str = "Acme", **fields: Any) -> WorkspaceCreated:
    """A workspace exists."""
    plain: dict[str, Any] = {"rate_limit": LIMIT}
    return WorkspaceCreated(**(plain | fields), private=WorkspaceText(name))


def workspace_changed(*, name: str | None = None, **fields: Any) -> WorkspaceChanged:
    """Some fields of a workspace have new values."""
    return WorkspaceChanged(**fields, private=None if name is None else WorkspaceText(name))


def _decide_key(command: KeyCommand, key: Key | None, now: int, /) -> list[Any]:
    return [*keys.decide(command, key, now=now)]


def _decide_workspace(command: WorkspaceCommand, workspace: Workspace | None, now: int, /) -> list[Any]:
    return [*workspaces.decide(command, workspace, now=now)]


key_spec: Decider[KeyCommand, Key, Any] = Decider(_decide_key, keys.evolve, Context(KEY, WS, CALLER, 0))
workspace_spec: Decider[WorkspaceCommand, Workspace, Any] = Decider(
    _decide_workspace, workspaces.evolve, Context(WS, WS, OPERATOR.actor, 0)
)

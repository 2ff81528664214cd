"""What a run was told about its addresses, kept in its home: a later command need not be told it again.

There is no secret in it, and no address of a server that the user brought: that one may hold a password.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from infra.local.errors import LocalRunError
from infra.local.home import Home, write_private
from infra.local.settings import Settings, read_settings

FILE = "addresses.json"


def remember(settings: Settings, home: Home) -> None:
    """Write down where this run is, for `settings_of_run`."""
    told = {
        "host": settings.host,
        "port_base": settings.port_base,
        "public_url": settings.given_public_url,
        "provider": settings.has_provider,
    }
    write_private(home.root / FILE, json.dumps(told, indent=2) + "\n")


def settings_of_run(environ: Mapping[str, str]) -> Settings:
    """As `read_settings`, for who looks at a run: what the environment does not say is as the run was told.

    LocalRunError when the home holds something else under that name.
    """
    said = {name: value for name, value in environ.items() if value}
    told = _told(read_settings(said).home / FILE)
    known = {
        "KEYLEDGER_HOST": told.get("host"),
        "KEYLEDGER_PORT_BASE": told.get("port_base"),
        "KEYLEDGER_PUBLIC_URL": told.get("public_url"),
    }
    kept = {name: str(value) for name, value in known.items() if value is not None}
    settings = read_settings({**kept, **said})
    return replace(settings, has_provider=settings.has_provider or told.get("provider") is True)


def _told(path: Path) -> dict[str, Any]:
    """What the last run wrote; nothing when there was none, or one that did not."""
    try:
        told: object = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(path, type(error).__name__) from None
    if not isinstance(told, dict):
        raise _unreadable(path, "no object")
    return told


def _unreadable(path: Path, why: str) -> LocalRunError:
    return LocalRunError(f"{path} cannot be read ({why}); `keyledger up` writes it anew")

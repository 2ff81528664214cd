"""`keyledger up` and `keyledger serve`: the whole local run, or one service in this process."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from infra.local.up import Provision


def up(*, renew_service_keys: bool = False) -> int:
    """Run everything on this machine: Postgres, NATS, the services and the example, until Ctrl-C.

    KEYLEDGER_HOST, KEYLEDGER_PORT_BASE and KEYLEDGER_HOME say where; KEYLEDGER_POSTGRES (a DSN) and
    KEYLEDGER_NATS (a URL) bring servers of your own.

    Parameters
    ----------
    renew_service_keys
        Make a service's key anew though it was revoked, if its file in `secrets` is gone. A key that is
        missing for another reason is made anyway.
    """
    import asyncio  # noqa: PLC0415

    from infra.local.settings import read_settings  # noqa: PLC0415
    from infra.local.up import up as run  # noqa: PLC0415

    asyncio.run(
        run(read_settings(os.environ), load_provision=_load_provision, renew_service_keys=renew_service_keys)
    )
    return 0


def serve(service: Literal["keys", "verifier", "usage", "dashboard", "contacts"], /) -> int:
    """Run one service in this process, configured by the environment alone.

    Parameters
    ----------
    service
        Which one.
    """
    from infra.local.services import MODULES  # noqa: PLC0415

    # -P: the current folder is no place to import from.
    os.execv(sys.executable, [sys.executable, "-P", "-m", MODULES[service]])  # noqa: S606


def _load_provision() -> Provision:
    return cast("Provision", import_module("services.cli.provision"))

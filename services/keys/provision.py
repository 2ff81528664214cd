"""Preparing the key service: the system workspace, its management key, and a key for each service.

It goes through the same handlers as every request, each step with an Idempotency-Key of its own: one that
was interrupted is taken up again and gets the same secrets.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from keyledger.clock import SystemClock
from keyledger.digest import load_peppers
from keyledger.server.postgres import open_pool
from keyledger.server.proof import Prover
from keyledger.server.seal import Sealer
from keyledger.server.settings import read_secret
from keyledger.token import DEFAULT_PREFIX
from services.keys.adapters.log import PostgresLog
from services.keys.adapters.states import PostgresStates
from services.keys.domain.key import CreateKey
from services.keys.domain.principal import ADMIN, FEED_READ, PROVE, Principal
from services.keys.domain.workspace import CreateWorkspace
from services.keys.handlers.keys import Asked, Keys
from services.keys.handlers.workspaces import Workspaces
from services.keys.handlers.writing import Idempotency, Writer

#: Each service's own key, with the one scope it needs.
SERVICE_SCOPES = {"verifier": FEED_READ, "verifier-prove": PROVE, "usage": FEED_READ}
REQUEST_ID = "bootstrap"


class AlreadyBootstrapped(Exception):
    """The system workspace exists, and the management key was shown when it was made."""


async def bootstrap(
    dsn: str,
    *,
    peppers: Path,
    seal_secret_file: Path,
    out: Path,
    secrets: Path,
    prefix: str = DEFAULT_PREFIX,
    resume: bool = True,
) -> bool:
    """Make the system workspace; write `out` (JSON) and `secrets/<service>`, readable by their owner only.

    Answers False when all of it is there already. A run that was interrupted is taken up again for a day if
    `resume`; after that, or without it, `AlreadyBootstrapped` tells that the workspace exists.
    """
    files = [out, *(secrets / service for service in SERVICE_SCOPES)]
    pool = await open_pool(dsn, name="bootstrap")
    prover = Prover()
    try:
        states = PostgresStates(pool)
        known = await states.system_workspace()
        if known is not None and (not resume or all(path.exists() for path in files)):
            return False
        clock, sealer = SystemClock(), Sealer(bytes.fromhex(read_secret(seal_secret_file)))
        step = sealer.name("bootstrap", "workspace")
        if known is not None and await states.answer(step, now=clock.now()) is None:
            raise AlreadyBootstrapped("the system workspace exists already, and its key is shown only once")
        async with PostgresLog(pool) as log:
            writer = Writer(log, states, sealer, clock)
            keys = Keys(writer, load_peppers(peppers), prover, prefix)
            await _write(writer, keys, sealer, out, secrets)
        return True
    finally:
        prover.close()
        await pool.close()


async def _write(writer: Writer, keys: Keys, sealer: Sealer, out: Path, secrets: Path) -> None:
    by = Principal("system", "", frozenset({ADMIN}))

    def asked(step: str, workspace_id: str = "") -> Asked:
        idempotency = Idempotency(step, sealer.name("bootstrap", step), sealer.name(step))
        return Asked(by, workspace_id, REQUEST_ID, idempotency)

    made = await Workspaces(writer).create(asked("workspace"), CreateWorkspace(by, "system", system=True))
    workspace_id = made.state.id

    async def new_key(name: str, scope: str) -> str:
        done = await keys.create(
            asked(f"key {name}", workspace_id),
            "live",
            lambda minted: CreateKey(
                by=by,
                system=True,
                name=name,
                environment="live",
                secret=minted.recorded,
                proof=minted.proof,
                scopes=(scope,),
            ),
        )
        return done.token or ""

    for service, scope in SERVICE_SCOPES.items():
        _write_secret(secrets / service, await new_key(f"{service} service", scope))
    management_key = await new_key("management", ADMIN)
    content = {"workspace_id": workspace_id, "management_key": management_key}
    _write_secret(out, msgspec.json.format(msgspec.json.encode(content), indent=2).decode())


def _write_secret(path: Path, text: str) -> None:
    """Write a file whole or not at all, never readable by others."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)

"""Preparing the key service: the system workspace, its management key, and a key for each service.

It goes through the same handlers as every request, each step with an Idempotency-Key of its own: one that
was interrupted is taken up again and gets the same secrets.

A service's key whose file is not there, or is empty, is told again within the day it was made, and replaced
by a new one later; homes older than a service get its key that way. A key that somebody revoked is replaced
only on request, and a file that holds anything is never touched.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from keyledger.clock import Clock, SystemClock
from keyledger.digest import load_peppers
from keyledger.errors import Refusal
from keyledger.server.postgres import open_pool
from keyledger.server.proof import Prover
from keyledger.server.seal import SealBroken, Sealer
from keyledger.server.settings import read_secret
from keyledger.token import DEFAULT_PREFIX
from services.keys.adapters.log import PostgresLog
from services.keys.adapters.states import PostgresStates
from services.keys.domain.key import CreateKey, Key
from services.keys.domain.principal import ADMIN, FEED_READ, PROVE, Principal
from services.keys.domain.workspace import CreateWorkspace
from services.keys.handlers.keys import Asked, Keys
from services.keys.handlers.workspaces import Workspaces
from services.keys.handlers.writing import Idempotency, Writer
from services.keys.ports import KeyFilter, States

#: Each service's own key, with the one scope it needs.
SERVICE_SCOPES = {"verifier": FEED_READ, "verifier-prove": PROVE, "usage": FEED_READ}
REQUEST_ID = "bootstrap"
ATTEMPTS = 20
LONGEST_WAIT = 0.2
"""Seconds between attempts while another bootstrap takes the same step."""
_MANAGEMENT = "management"
_MOST_LISTED = 200
T = TypeVar("T")


class AlreadyBootstrapped(Exception):
    """The system workspace exists, and the management key was shown when it was made."""


class ServiceKeyRevoked(Exception):
    """A service's key was revoked and its file is gone; another one is made only on request."""


async def bootstrap(
    dsn: str,
    *,
    peppers: Path,
    seal_secret_file: Path,
    out: Path,
    secrets: Path,
    prefix: str = DEFAULT_PREFIX,
    resume: bool = True,
    renew: bool = False,
) -> tuple[str, ...]:
    """Make the system workspace; write `out` (JSON) and `secrets/<service>`, readable by their owner only.

    Answers what was made, in words: nothing when all of it is there already. Without `resume` a workspace
    that exists is left as it is. With it, an interrupted run is taken up again for a day, and services' keys
    that are missing are made. Raises `AlreadyBootstrapped` when the management key cannot be told any more,
    and `ServiceKeyRevoked` for a missing key that somebody revoked, unless `renew`.
    """
    pool = await open_pool(dsn, name="bootstrap")
    prover = Prover()
    try:
        states = PostgresStates(pool)
        known = await states.system_workspace()
        untold = known is None or not _holds_something(out)
        missing = [name for name in SERVICE_SCOPES if known is None or not _holds_something(secrets / name)]
        if known is not None and not (resume and (untold or missing)):
            return ()
        clock, sealer = SystemClock(), Sealer(bytes.fromhex(read_secret(seal_secret_file)))
        async with PostgresLog(pool) as log:
            writer = Writer(log, states, sealer, clock)
            keys = Keys(writer, load_peppers(peppers), prover, prefix)
            steps = _Steps(writer, keys, states, sealer, clock)
            if known is not None:
                await _check(steps, known, out, untold=untold)
            workspace_id = known or await steps.workspace()
            for name in missing:
                token = await steps.service_key(workspace_id, name, renew=renew)
                _write_secret(secrets / name, token)
            if untold:
                content = {
                    "workspace_id": workspace_id,
                    "management_key": await steps.management_key(workspace_id),
                }
                _write_secret(out, msgspec.json.format(msgspec.json.encode(content), indent=2).decode())
        return ("the system workspace",) if untold else tuple(f"a key for {name}" for name in missing)
    except SealBroken:
        raise AlreadyBootstrapped(f"{seal_secret_file} is not the seal secret of this database") from None
    finally:
        prover.close()
        await pool.close()


class _Steps:
    """What a bootstrap does in the log; each step may be taken again, and by several at once."""

    def __init__(self, writer: Writer, keys: Keys, states: States, sealer: Sealer, clock: Clock) -> None:
        self._writer = writer
        self._keys = keys
        self._states = states
        self._sealer = sealer
        self._clock = clock
        self._by = Principal("system", "", frozenset({ADMIN}))

    async def workspace(self) -> str:
        """The id of the new system workspace."""
        asked = self._asked("workspace")
        command = CreateWorkspace(self._by, "system", system=True)
        return (await _patiently(lambda: Workspaces(self._writer).create(asked, command))).state.id

    async def management_key(self, workspace_id: str) -> str:
        """The token of the management key."""
        return await self._key(workspace_id, _MANAGEMENT, ADMIN, step=_step(_MANAGEMENT))

    async def service_key(self, workspace_id: str, service: str, *, renew: bool) -> str:
        """The token of the service's last key while it is kept, else of a new key.

        A step is named after the key before it: who does the same at the same time gets the same token.
        """
        name = f"{service} service"
        last, before = await self._last_two(workspace_id, name)
        step = _step(name, None if before is None else before.id)
        if last is not None and last.revoked_at is not None:
            if not renew:
                raise ServiceKeyRevoked(
                    f"the key of {service} was revoked and its file is gone; "
                    "`keyledger up --renew-service-keys` makes another one"
                )
            step = _step(name, last.id)
        elif last is not None and not await self.is_kept(step):
            step = _step(name, last.id)
        return await self._key(workspace_id, name, SERVICE_SCOPES[service], step=step)

    async def is_kept(self, step: str) -> bool:
        """Whether what this step led to can be told again."""
        name = self._sealer.name("bootstrap", step)
        return await self._states.answer(name, now=self._clock.now()) is not None

    async def _last_two(self, workspace_id: str, name: str) -> tuple[Key | None, Key | None]:
        """The last key that a bootstrap made under this name, and the one before it."""
        wanted = KeyFilter(self._clock.now(), search=name)
        found, _ = await self._states.keys(workspace_id, wanted, before=None, limit=_MOST_LISTED)
        keys = [msgspec.json.decode(stored.body, type=Key) for stored in found]
        ours = [key for key in keys if key.name == name and key.created_by == self._by.actor]
        return ours[0] if ours else None, ours[1] if len(ours) > 1 else None

    async def _key(self, workspace_id: str, name: str, scope: str, *, step: str) -> str:
        done = await _patiently(
            lambda: self._keys.create(
                self._asked(step, workspace_id),
                "live",
                lambda minted: CreateKey(
                    by=self._by,
                    system=True,
                    name=name,
                    environment="live",
                    secret=minted.recorded,
                    proof=minted.proof,
                    scopes=(scope,),
                ),
            )
        )
        return done.token or ""

    def _asked(self, step: str, workspace_id: str = "") -> Asked:
        idempotency = Idempotency(step, self._sealer.name("bootstrap", step), self._sealer.name(step))
        return Asked(self._by, workspace_id, REQUEST_ID, idempotency)


def _step(name: str, after: str | None = None) -> str:
    return f"key {name}" if after is None else f"key {name} after {after}"


async def _check(steps: _Steps, workspace_id: str, out: Path, *, untold: bool) -> None:
    """Refuse to write beside what is another database's, or without a management key that can be told."""
    if untold:
        if not await steps.is_kept("workspace"):
            raise AlreadyBootstrapped("the system workspace exists already, and its key is shown only once")
        return
    if _workspace_told(out) != workspace_id:
        raise AlreadyBootstrapped(f"{out} does not tell of this database's system workspace")


def _workspace_told(out: Path) -> str | None:
    try:
        return msgspec.json.decode(out.read_bytes(), type=dict[str, str]).get("workspace_id")
    except msgspec.MsgspecError:
        return None


async def _patiently(step: Callable[[], Awaitable[T]]) -> T:
    """What the step leads to, once no other bootstrap is in the middle of it."""
    for _ in range(ATTEMPTS):
        try:
            return await step()
        except Refusal as refusal:
            if refusal.code != "idempotency_in_progress":
                raise
        await asyncio.sleep(LONGEST_WAIT * random.uniform(0.1, 1.0))  # noqa: S311 (spread, not secrecy)
    return await step()


def _holds_something(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _write_secret(path: Path, text: str) -> None:
    """Write a file whole or not at all, never readable by others."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise

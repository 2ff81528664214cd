"""`keyledger audit`: whether the log is what it was, and proofs of it to keep in another place."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from infra.local.errors import LocalRunError
from services.cli.places import Places, read_hex

if TYPE_CHECKING:
    from keyledger.server.seal import Sealer
    from keyledger.server.signed_head import Export, Signer
    from services.keys.adapters.log_reader import PostgresLogReader

app = App(name="audit", help="Check the log, and export signed heads that prove it later.")
HASHES_A_PAGE = 10_000

Dsn = Annotated[
    str | None, Parameter(name="--dsn", help="The database; KEYLEDGER_POSTGRES or the local run's own.")
]


@app.command
def verify(*, dsn: Dsn = None) -> int:
    """Recompute the hash chain and every state from the log; name the first difference, if there is one.

    KEYLEDGER_SEAL_SECRET_FILE, or the local run's own, opens what was typed; without it that is not compared.
    """
    places = Places()
    seal = places.secret_file("KEYLEDGER_SEAL_SECRET_FILE", "seal.secret", given_dsn=dsn is not None)
    return asyncio.run(_verify(places.database(dsn), seal))


@app.command
def export(*, out: Path | None = None, with_hashes: bool = False, dsn: Dsn = None) -> int:
    """Write the head of the log, signed, to a file or to the standard output. Keep it in another place.

    KEYLEDGER_AUDIT_KEY_FILE, or the local run's own, holds the signing key.

    Parameters
    ----------
    out
        The file to write; it must not be there yet.
    with_hashes
        Add the hash of every event, so that a check can name the first one that was changed.
    """
    places = Places()
    key = places.secret_file("KEYLEDGER_AUDIT_KEY_FILE", "audit.key")
    if key is None:
        raise LocalRunError("whose signature? set KEYLEDGER_AUDIT_KEY_FILE to a file of 32 bytes in hex")
    content = asyncio.run(_export(places.database(dsn), read_hex(key), with_hashes=with_hashes))
    if out is None:
        sys.stdout.write(content.decode())
        return 0
    try:
        with out.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise LocalRunError(f"{out} cannot be written: {error.strerror}") from None
    print(f"wrote {out}")
    return 0


@app.command
def check(file: Path, /, *, public_key: str | None = None, online: bool = False, dsn: Dsn = None) -> int:
    """Check an export's signature; with a database also that its log still is what was signed.

    Without --online, --dsn and KEYLEDGER_POSTGRES it works offline. Exit code 1 unless everything holds.

    Parameters
    ----------
    file
        What `keyledger audit export` wrote.
    public_key
        The key to trust, in hex, or a file that holds it. KEYLEDGER_AUDIT_PUBLIC_KEY_FILE, or the public half
        of the signing key at hand, when left out.
    online
        Look at the local run's own database.
    """
    from keyledger.server import signed_head  # noqa: PLC0415

    places = Places()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise LocalRunError(f"{file} cannot be read: {error.strerror}") from None
    try:
        found = signed_head.read(content, _trusted(places, public_key))
    except signed_head.Untrusted as error:
        raise LocalRunError(f"{file} proves nothing: {error}") from None
    head = found.head
    print(f"signature of key {head.key_id} is good")
    print(f"signed: epoch {head.epoch.text}, position {head.position}, {head.hash}")
    if not (online or dsn or places.local.postgres):
        return 0
    return asyncio.run(_check(found, places.database(dsn)))


@app.command(name="public-key")
def public_key() -> int:
    """Print the public half of the signing key: what those who check exports have to know."""
    key = Places().secret_file("KEYLEDGER_AUDIT_KEY_FILE", "audit.key")
    if key is None:
        raise LocalRunError("which key? set KEYLEDGER_AUDIT_KEY_FILE")
    print(_signer(read_hex(key)).public_key)
    return 0


async def _verify(dsn: str, seal: Path | None) -> int:
    from services.cli.progress import Progress  # noqa: PLC0415
    from services.keys.handlers.auditing import Audit  # noqa: PLC0415

    async with reading(dsn, data_keys=seal is not None) as log:
        audit = Audit(log, None if seal is None else sealer(seal))
        with Progress("events") as told:
            head = await audit.chain(told)
        print(f"chain: holds to epoch {head.epoch.text}, position {head.position}, {head.hash.hex()}")
        with Progress("streams") as told:
            states = await audit.states(told)
    without = "" if seal is not None else ", but for what is sealed (KEYLEDGER_SEAL_SECRET_FILE opens it)"
    deleted = f"; {states.deleted} of deleted workspaces" if states.deleted else ""
    unread = f"; {states.unread} of a kind that has no state here" if states.unread else ""
    print(f"states: {states.streams} streams are what the log says{without}{deleted}{unread}")
    return 0


async def _export(dsn: str, secret: str, *, with_hashes: bool) -> bytes:
    from keyledger.clock import SystemClock  # noqa: PLC0415
    from keyledger.server import signed_head  # noqa: PLC0415

    async with reading(dsn) as log:
        head, _ = await log.ends()
        hashes = bytearray() if with_hashes else None
        at = 0
        while hashes is not None and at < head.position:
            page = await log.hashes(at, min(HASHES_A_PAGE, head.position - at))
            if [position for position, _ in page] != list(range(at + 1, at + 1 + len(page))) or not page:
                raise LocalRunError(f"the log has a hole behind position {at}; see `keyledger audit verify`")
            hashes += b"".join(digest for _, digest in page)
            at = page[-1][0]
    signed = _signer(secret).sign(
        head.epoch,
        head.position,
        head.hash,
        head.at,
        signed_at=SystemClock().now(),
        hashes=None if hashes is None else bytes(hashes),
    )
    return signed_head.write(signed)


async def _check(export: Export, dsn: str) -> int:
    from services.cli.progress import Progress  # noqa: PLC0415
    from services.keys.handlers.auditing import Audit  # noqa: PLC0415
    from services.keys.handlers.exports import hold_against  # noqa: PLC0415

    async with reading(dsn) as log:
        await hold_against(export, log)
        with Progress("events") as told:
            await Audit(log, None).chain(told, until=export.head.position)
    print(f"the log still is what was signed, up to position {export.head.position}")
    return 0


@asynccontextmanager
async def reading(dsn: str, *, data_keys: bool = True) -> AsyncGenerator[PostgresLogReader]:
    """The log of this database; what goes wrong or differs is one line."""
    import asyncpg  # noqa: PLC0415

    from keyledger.server.postgres import AWAY, close_pool, open_pool  # noqa: PLC0415
    from services.keys.adapters.log_reader import PostgresLogReader  # noqa: PLC0415
    from services.keys.domain.chain import Differs  # noqa: PLC0415
    from services.keys.handlers.auditing import WrongSeal  # noqa: PLC0415

    try:
        pool = await open_pool(dsn, name="audit", most=2)
        try:
            yield PostgresLogReader(pool, data_keys=data_keys)
        finally:
            await close_pool(pool)
    except Differs as differs:
        raise LocalRunError(f"DIFFERENCE at {differs}") from None
    except WrongSeal as wrong:
        raise LocalRunError(f"the seal secret does not open the data key of {wrong}") from None
    except AWAY as error:
        raise LocalRunError(f"the database does not answer: {type(error).__name__}") from None
    except asyncpg.PostgresError as error:
        raise LocalRunError(f"the database refuses: {type(error).__name__}") from None


def sealer(path: Path) -> Sealer:
    """The seal secret of this file, ready for use."""
    from keyledger.server.seal import Sealer  # noqa: PLC0415

    try:
        return Sealer(bytes.fromhex(read_hex(path)))
    except ValueError as error:
        raise LocalRunError(f"{path}: {error}") from None


def _signer(secret: str) -> Signer:
    from keyledger.server import signed_head  # noqa: PLC0415

    try:
        return signed_head.Signer(secret)
    except ValueError as error:
        raise LocalRunError(f"the signing key cannot be used: {error}") from None


def _trusted(places: Places, given: str | None) -> str:
    """The public key to trust, in hex."""
    if given is not None and not Path(given).is_file():
        key = given.strip().lower()
    elif given is not None:
        key = read_hex(Path(given)).lower()
    elif (named := places.secret_file("KEYLEDGER_AUDIT_PUBLIC_KEY_FILE", "audit.pub")) is not None:
        key = read_hex(named).lower()
    elif (own := places.secret_file("KEYLEDGER_AUDIT_KEY_FILE", "audit.key")) is not None:
        key = _signer(read_hex(own)).public_key
    else:
        raise LocalRunError("whose signature is to be trusted? pass --public-key")
    if len(key) != 64 or any(digit not in "0123456789abcdef" for digit in key):
        raise LocalRunError("a public key is 64 hex digits")
    return key

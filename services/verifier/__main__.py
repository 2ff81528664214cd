"""`python -m services.verifier`: one process, one event loop; or, of several workers, the parent or one.

SIGTERM makes it unready first. It goes on answering while whoever sends it requests learns that, then it
lets what is in flight end, gets the last uses out, and closes; a second SIGTERM cuts the first part short.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import sys

import structlog
import uvloop

from keyledger.clock import SystemClock
from keyledger.digest import PepperError
from keyledger.server.settings import SettingsError, read_environment
from keyledger.server.telemetry import configure_logging
from keyledger.verification.spool import gather
from keyledger.verification.store_folder import FolderUnusable
from services.verifier.listener.bounds import Bounds
from services.verifier.listener.sockets import allow_connections, bound
from services.verifier.listener.tls import TlsError, server_context
from services.verifier.settings import Settings, Worker, read_settings
from services.verifier.workers import Stops, look_after

GRACE_SECONDS = 5.0
"""For what is in flight once nothing more is accepted."""
_log = structlog.get_logger("keyledger.verifier")


def main() -> int:
    """Serve until told to stop; 2 when the settings cannot be used, 1 when the address cannot be had."""
    try:
        settings = read_settings(read_environment())
        configure_logging("verifier", settings.log_level)
        tls = _context(settings)
        bounds = Bounds(
            connections=allow_connections(settings.max_connections), idle=settings.keep_alive_seconds
        )
        gather(settings.spool, settings.workers)
        sockets = _sockets(settings)
    except (SettingsError, PepperError, TlsError) as error:
        sys.stderr.write(f"verifier: {error}\n")
        return 2
    except OSError as error:
        where = error.filename or "KEYLEDGER_HOST and KEYLEDGER_PORT"
        sys.stderr.write(f"verifier: {where} cannot be had: {error.strerror}\n")
        return 1
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if settings.worker is None and settings.workers > 1:
                return runner.run(look_after(settings, sockets))
            if settings.worker is not None and settings.worker.index is None:
                return runner.run(_project(settings, settings.worker))
            return runner.run(_serve(settings, sockets, bounds, tls))
    except (PepperError, FolderUnusable) as error:
        sys.stderr.write(f"verifier: {error}\n")
        return 2


def _sockets(settings: Settings) -> list[socket.socket]:
    """Those of this process: inherited by one of several workers, for all of them in their parent."""
    if settings.worker is not None:
        return [socket.socket(fileno=each) for each in settings.worker.sockets]
    sockets = bound(settings.host, settings.port)
    if settings.workers == 1:
        return sockets
    # that nobody else has the address is known now
    for each in sockets:
        each.close()
    return [
        each for _ in range(settings.workers) for each in bound(settings.host, settings.port, shared=True)
    ]


def _context(settings: Settings) -> ssl.SSLContext | None:
    tls = settings.tls
    return None if tls is None else server_context(tls.certificate, tls.key, tls.client_ca)


def _settle() -> None:
    """Let Python's collector pass over what was built up to now: it stays, and to look at all of it takes
    tens of milliseconds, in which nobody is answered.
    """
    gc.collect()
    gc.freeze()


async def _serve(
    settings: Settings, sockets: list[socket.socket], bounds: Bounds, tls: ssl.SSLContext | None
) -> int:
    # a parent of workers, and the one that follows for them, are up before all of this is read
    from services.verifier.app import open_service  # noqa: PLC0415
    from services.verifier.listener.listener import Listener  # noqa: PLC0415

    stops = Stops(settings.worker)
    async with open_service(settings) as service:
        listener = Listener(service.endpoints, service.documented, SystemClock(), bounds=bounds, tls=tls)
        _settle()
        await listener.open(sockets)
        _log.info("listening", host=settings.host, port=settings.port)
        await stops.first.wait()
        service.stopping = True
        _log.info("stopping")
        listener.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.drain_seconds):
                await stops.second.wait()
        await listener.close(grace=GRACE_SECONDS)
    return 0


async def _project(settings: Settings, worker: Worker) -> int:
    from services.verifier.following import open_projector  # noqa: PLC0415

    stops = Stops(worker)
    async with open_projector(settings):
        _settle()
        await stops.first.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

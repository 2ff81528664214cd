"""`python -m services.verifier`: one process, one event loop.

SIGTERM makes it unready, lets what is in flight end, gets the last uses out, and closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Generator

import uvicorn
import uvloop

from keyledger.digest import PepperError
from keyledger.server.settings import SettingsError, read_environment
from keyledger.server.telemetry import configure_logging
from services.verifier.app import open_service
from services.verifier.settings import Settings, read_settings

KEEP_ALIVE_SECONDS = 75
GRACE_SECONDS = 5


def main() -> int:
    """Serve until told to stop; 2 when the settings cannot be used."""
    try:
        settings = read_settings(read_environment())
        configure_logging("verifier", settings.log_level)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(settings))
    except (SettingsError, PepperError) as error:
        sys.stderr.write(f"verifier: {error}\n")
        return 2


class _Server(uvicorn.Server):
    """uvicorn, with the signals left to the one who also holds the verifier."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def _serve(settings: Settings) -> int:
    async with open_service(settings) as service:
        server = _Server(
            uvicorn.Config(
                service.app,
                host=settings.host,
                port=settings.port,
                http="httptools",
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

        def stop() -> None:
            service.stopping = True
            server.should_exit = True

        loop = asyncio.get_running_loop()
        for wanted in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(wanted, stop)
        await server.serve()
        return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())

"""Serving an ASGI application from this very process: uvicorn on httptools and uvloop.

One process, no worker to spawn: imports are paid once and the background tasks of a service live on the
same loop as its requests. SIGTERM and SIGINT stop it gracefully.
"""

from __future__ import annotations

from typing import Any

import uvicorn

KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than the idle pools of gateways, which would race it."""
GRACE = 5
"""Seconds that requests in flight have once a stop was asked for."""


def serve(app: Any, *, host: str, port: int) -> None:
    """Run `app` until a signal; raises `SystemExit` when the port cannot be had."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        http="httptools",
        loop="uvloop",
        lifespan="on",
        ws="none",
        access_log=False,
        server_header=False,
        # who the peer is, the connection says, and no header
        proxy_headers=False,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        backlog=2048,
    )

"""An ASGI application on a real socket, in this process and this event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


def free_socket() -> socket.socket:
    """A socket bound to a port of 127.0.0.1 that nobody else has."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    return taken


@asynccontextmanager
async def serving(app: Any) -> AsyncGenerator[str]:
    """Serve `app` while the context is open; its address."""
    listener = free_socket()
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await task
    listener.close()

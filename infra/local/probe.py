"""How the supervisor asks whether something listens and is ready: three questions over plain sockets.

No HTTP client or driver is imported: importing one takes longer than starting NATS and Postgres does.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable

from infra.local.errors import LocalRunError

PROBE_TIMEOUT = 2.0
POLL_SECONDS = 0.03

Probe = Callable[[str, int], Awaitable[bool]]


async def http_get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """GET a small page: its status and its body. Status 0 when nothing answers as HTTP within 2 s."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                name = f"[{host}]" if ":" in host else host
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n".encode()
                )
                answer = await reader.read(65536)
                while (more := await reader.read(65536)) and len(answer) < 1 << 20:
                    answer += more
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split()
    is_http = len(words) >= 2 and words[0].startswith(b"HTTP/") and words[1].isdigit()
    return (int(words[1]) if is_http else 0), body


async def tcp_open(host: str, port: int) -> bool:
    """Whether something accepts connections on the port."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
    except (OSError, TimeoutError):
        return False
    return True


async def postgres_ready(host: str, port: int) -> bool:
    """Whether Postgres takes log-ins: it asks for a password, where one that is not ready refuses."""
    body = struct.pack("!i", 196608) + b"user\0keyledger\0database\0postgres\0\0"
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(struct.pack("!i", len(body) + 4) + body)
                return await reader.readexactly(1) == b"R"
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False


async def require_free_ports(wanted: Iterable[tuple[str, str, int]], *, patience: float = 0.0) -> None:
    """Refuse when one of (name, host, port) is taken, naming each and the setting that moves it.

    `patience` is how many seconds to give a killed predecessor's children to let go of their ports.
    """
    deadline = asyncio.get_running_loop().time() + patience
    wanted = list(wanted)
    while taken := [
        f"{port} ({name}, on {host})" for name, host, port in wanted if not _is_free(name, host, port)
    ]:
        if asyncio.get_running_loop().time() >= deadline:
            ports = "port " + taken[0] if len(taken) == 1 else "ports " + ", ".join(taken)
            raise LocalRunError(
                f"{ports} already in use; set KEYLEDGER_PORT_BASE to move all ports of this local run"
            )
        await asyncio.sleep(POLL_SECONDS)


def _is_free(name: str, host: str, port: int) -> bool:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise LocalRunError(f"KEYLEDGER_HOST {host!r} is not an address: {error.strerror}") from None
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return _explain(error, name, host, port)
    return True


def _explain(error: OSError, name: str, host: str, port: int) -> bool:
    """False for a port in use; anything else is a setting that cannot work, and raises."""
    if error.errno == errno.EADDRINUSE:
        return False
    if error.errno == errno.EADDRNOTAVAIL:
        raise LocalRunError(f"KEYLEDGER_HOST {host!r} is not an address of this machine") from None
    raise LocalRunError(
        f"port {port} ({name}, on {host}) cannot be used: {error.strerror}; KEYLEDGER_PORT_BASE moves it"
    ) from None

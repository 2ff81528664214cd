"""The sockets of an address."""

from __future__ import annotations

import contextlib
import resource
import socket

RESERVED = 256
"""Files that a process needs besides its connections."""


def bound(host: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    """A socket for each of the host's addresses, bound and not yet listening; `OSError` when one is taken.

    The kernel spreads connections over the `shared` sockets of an address.
    """
    with contextlib.ExitStack() as stack:
        made: list[socket.socket] = []
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            each = stack.enter_context(socket.socket(family, kind, protocol))
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # the other family has a socket of its own
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind(address)
            made.append(each)
        stack.pop_all()
        return made


def allow_connections(count: int) -> int:
    """Raise this process's limit of open files for `count` connections; for how many it is enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + RESERVED
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(1, most - RESERVED)

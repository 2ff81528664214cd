"""What the servers of the tests are started with, the same from every source that starts them.

fsync stays on: tests of what survives a crash need the truth. Only initdb skips it.
"""

from typing import Final

INITDB: Final = (
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "--no-sync",
)
"""Options of initdb; the builtin locale sorts the same on every system."""

POSTGRES: Final = ("-c", "max_connections=200")
"""Options of the server itself; all others are its defaults."""

NATS_USER: Final = "test"
NATS_ADMIN: Final = "admin"
"""The users of a NATS that we started: NATS_USER has JetStream, NATS_ADMIN the system account."""

_NATS = """\
{listen}
max_payload: 4MB
jetstream {{ store_dir: "{store}", max_file_store: 4TB, sync_interval: always }}
feature_flags {{ js_ack_fc_v2: false }}
system_account: SYSTEM
accounts {{
  SYSTEM {{ users: [{{ user: {admin}, password: "{password}" }}] }}
  TESTS {{ jetstream: enabled, users: [{{ user: {user}, password: "{password}" }}] }}
}}
"""


class ServersUnavailableError(Exception):
    """The source of servers that was asked for cannot be had; the message says which and why."""


def nats_conf(*, listen: str, store: str, password: str) -> str:
    """Return a nats-server's configuration; `listen` is its lines about ports, in the same syntax.

    `nats-server -t` accepts a misspelt feature flag and varz shows the default in its place: only the
    running server's log tells ("Configured" or "Unsupported").
    """
    return _NATS.format(listen=listen, store=store, password=password, user=NATS_USER, admin=NATS_ADMIN)

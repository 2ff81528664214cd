"""The embedded NATS server: its configuration, its three users and what each may say, and its URLs.

JetStream acknowledges before it syncs unless `sync_interval` is `always`. There is no anonymous user: a
client without a password is refused.
"""

from __future__ import annotations

import json
import os
import shutil
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from infra.local.child import ChildSpec
from infra.local.errors import LocalRunError
from infra.local.home import Home, write_private
from infra.local.probe import tcp_open

MAY_PUBLISH = {
    "keys": ["kl.>", "$JS.API.>", "_INBOX_keys.>"],
    "verifier": ["kl.uses", "kl.head", "kl.applied", "kl.grant", "kl.grant.committed"],
    "usage": ["kl.head", "kl.recall", "kl.grant.cells"],
}
MAY_SUBSCRIBE = {
    "keys": ["kl.uses", "kl.head", "kl.applied", "_INBOX_keys.>"],
    "verifier": ["kl.live.>", "kl.tick", "kl.recall", "_INBOX_verifier.>"],
    "usage": [
        "kl.uselive.>",
        "kl.tick",
        "kl.grant",
        "kl.grant.committed",
        "kl.grant.cells",
        "_INBOX_usage.>",
    ],
}
MAY_ANSWER = frozenset({"keys", "usage"})


@dataclass(frozen=True, slots=True)
class Bus:
    """One embedded server and the passwords of its users."""

    binary: Path
    folder: Path
    host: str
    port: int
    passwords: dict[str, str] = field(repr=False)

    def url(self, user: str) -> str:
        """How a service connects."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nats://{user}:{self.passwords[user]}@{host}:{self.port}"

    def configuration(self) -> str:
        """The text of the configuration file."""
        users = "\n".join(f"      {self._user(name)}" for name in MAY_PUBLISH)
        return f"""\
# Written anew at each start.
server_name: keyledger
host: {json.dumps(self.host)}
port: {self.port}
max_payload: 4MB
max_pending: 64MB
max_control_line: 4KB
jetstream {{
  store_dir: {json.dumps(str(self.folder / "store"))}
  sync_interval: always
}}
feature_flags {{ js_ack_fc_v2: false }}
accounts {{
  KEYLEDGER {{
    jetstream: enabled
    users: [
{users}
    ]
  }}
}}
"""

    def spec(self) -> ChildSpec:
        """Write the configuration, and describe the server as a child."""
        file = self.folder / "nats.conf"
        write_private(file, self.configuration())
        return ChildSpec(
            name="nats",
            argv=[str(self.binary), "--config", str(file)],
            env={"PATH": os.environ.get("PATH", os.defpath)},
            port=self.port,
            host=self.host,
            ready=tcp_open,
        )

    def _user(self, name: str) -> str:
        publish, subscribe = json.dumps(MAY_PUBLISH[name]), json.dumps(MAY_SUBSCRIBE[name])
        answers = ", allow_responses: true" if name in MAY_ANSWER else ""
        return (
            f'{{ user: {name}, password: "{self.passwords[name]}", permissions: '
            f"{{ publish: {{ allow: {publish} }}, subscribe: {{ allow: {subscribe} }}{answers} }} }}"
        )


def embedded_bus(home: Home, *, host: str, port: int) -> Bus:
    """The server of this home, not started yet. Raises LocalRunError where the binary is missing."""
    scripts = sysconfig.get_path("scripts")
    binary = shutil.which("nats-server", path=scripts) or shutil.which("nats-server")
    if binary is None:
        raise LocalRunError("no nats-server for this platform is installed; set KEYLEDGER_NATS to a URL")
    return Bus(
        binary=Path(binary),
        folder=home.nats,
        host=host,
        port=port,
        passwords=home.passwords("nats.json", tuple(MAY_PUBLISH)),
    )

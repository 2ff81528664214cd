"""What a newcomer reads once everything is ready: the addresses, and lines to paste that try every part."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from infra.local.home import Home
from infra.local.settings import Settings, default_home

_TEMPLATE = """
Keyledger is running. Ctrl-C stops it; your data stays in {home}

  dashboard      {dashboard}
  key service    {keys}
  verifier       {verifier}
  usage service  {usage}
  contacts API   {contacts}   (an example, protected by the verifier)
  management key in {bootstrap}
  logs           {logs}
{sign_in}
Try it, in another terminal (bash):

  JSON='Content-Type: application/json'
  field() {{ python3 -c 'import json,sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }}
  ADMIN=$(field management_key < {bootstrap_word})

  # a workspace, and a key in it; the key is shown this once
  WS=$(curl -sS {keys}/v1/workspaces -H "X-API-Key: $ADMIN" -H "$JSON" \\
    -d '{{"name": "Acme"}}' | field id)
  CREATED=$(curl -sS {keys}/v1/workspaces/$WS/keys -H "X-API-Key: $ADMIN" -H "$JSON" \\
    -d '{{"name": "first key", "environment": "live", "scopes": ["contacts:read", "contacts:write"]}}')
  KEY=$(field key <<< "$CREATED"); KEY_ID=$(field id <<< "$CREATED"); echo "$KEY"

  # verify it, and use it
  curl -sS {verifier}/v1/verify{token} -H "$JSON" -d '{{"key": "'$KEY'"}}'; echo
  curl -sSi {contacts}/v1/contacts -H "X-API-Key: $KEY"; echo

  # revoke it, and see it refused
  curl -sS {keys}/v1/workspaces/$WS/keys/$KEY_ID/revoke -H "X-API-Key: $ADMIN" \\
    -H "$JSON" -d '{{"reason": "trying it out"}}'; echo
  curl -sSi {contacts}/v1/contacts -H "X-API-Key: $KEY"; echo

  # see its uses; each is counted within two seconds
  sleep 2
  curl -sS "{usage}/v1/workspaces/$WS/usage?granularity=minute&group_by=key,outcome" \\
    -H "X-API-Key: $ADMIN"; echo
"""


_SIGN_IN = """
Open the dashboard (this link works once, for five minutes; `{command} login` prints another):

  {link}
"""


def typed(home: Home) -> str:
    """How the `keyledger` of this very environment is typed here, for that home."""
    program = Path(sys.executable).with_name("keyledger")
    found = shutil.which("keyledger")
    if not program.is_file() or (found is not None and Path(found).absolute() == program):
        word = "keyledger"
    else:
        here = Path.cwd()
        word = shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))
    where = "" if home.root == default_home() else f"KEYLEDGER_HOME={shlex.quote(str(home.root))} "
    return where + word


def welcome(settings: Settings, home: Home, link: str | None, command: str) -> str:
    """The text, with this run's addresses and paths, and the link that signs in if there is one.

    `command` is how `keyledger` is typed.
    """
    header = f' -H "X-Verifier-Token: $(cat {shlex.quote(str(home.verifier_token))})"'
    return _TEMPLATE.format(
        token="" if settings.is_loopback else header,
        home=home.root,
        sign_in="" if link is None else _SIGN_IN.format(link=link, command=command),
        dashboard=settings.public_url,
        keys=settings.url("keys"),
        verifier=settings.url("verifier"),
        usage=settings.url("usage"),
        contacts=settings.url("contacts"),
        bootstrap=home.bootstrap,
        bootstrap_word=shlex.quote(str(home.bootstrap)),
        logs=home.logs,
    )

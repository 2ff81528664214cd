"""`keyledger login`: the way into the dashboard."""

from __future__ import annotations

import sys

from infra.local.errors import LocalRunError
from services.cli.places import Places


def login() -> int:
    """Print a link that signs you in to the dashboard of the local run: once, within five minutes.

    Where an OpenID provider is configured, print the address of the sign-in page instead.
    """
    local = Places().local
    if local.has_provider:
        print("sign in with your provider:", file=sys.stderr)
        print(f"{local.public_url}/sign-in")
        return 0
    secret = local.home / "dashboard.secret"
    if not secret.is_file():
        raise LocalRunError(f"{local.home} holds no local run with a dashboard; `keyledger up` makes one")
    from services.cli import provision  # noqa: PLC0415

    print("this link works once, for five minutes:", file=sys.stderr)
    print(provision.sign_in_link(local.public_url, secret))
    return 0

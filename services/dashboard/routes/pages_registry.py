"""Every page, as app.py takes them in."""

from __future__ import annotations

from litestar import Router

from keyledger.clock import Clock
from services.dashboard.backend import Backend
from services.dashboard.ports import Accounts
from services.dashboard.routes import (
    account,
    activity,
    key,
    key_changes,
    keys,
    limits,
    members,
    usage,
    workspace,
)
from services.dashboard.routes.refusing import exception_handlers
from services.dashboard.routes.showing import Places, Showing


def page_handlers(backend: Backend, accounts: Accounts, clock: Clock, places: Places) -> list[Router]:
    """The handlers of every page; what they refuse is told as a page."""
    showing = Showing(backend, accounts, clock, places)
    modules = (keys, key, key_changes, usage, limits, activity, workspace, members, account)
    handlers = [handler for module in modules for handler in module.handlers(showing)]
    return [Router("/", route_handlers=handlers, exception_handlers=exception_handlers)]

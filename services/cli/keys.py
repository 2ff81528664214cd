"""`keyledger keys`: make, list, look at, rotate and revoke keys, as the API does."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from infra.local.errors import LocalRunError
from services.cli.operator import TIMEOUT, ask, entries
from services.cli.places import Places
from services.cli.tables import Json, print_json, print_table
from services.cli.usage_pages import path_of
from services.cli.what_if import read_limit

app = App(name="keys", help="Make, list, look at, rotate and revoke keys, as KEYLEDGER_ADMIN_KEY_FILE may.")
Workspace = Annotated[
    str, Parameter(help="The workspace's id, ws_…; `keyledger keys workspaces` lists them.")
]


@app.command
def workspaces(*, as_json: Json = False) -> int:
    """List the workspaces, newest first."""
    found = list(entries(Places(), "/v1/workspaces", "workspaces"))
    if as_json:
        print_json({"workspaces": found})
        return 0
    rows = [
        [each["id"], each["name"], _limit(each["rate_limit"]), "suspended" if each["suspended"] else ""]
        for each in found
    ]
    print_table(("workspace", "name", "limit", ""), rows, text=4, wraps=("name",))
    return 0


@app.command(name="list")
def list_keys(
    *,
    workspace: Workspace,
    environment: Literal["live", "test"] | None = None,
    status: Literal["active", "disabled", "revoked", "expired"] | None = None,
    search: str | None = None,
    external_id: str | None = None,
    as_of: str | None = None,
    as_json: Json = False,
) -> int:
    """List the keys of a workspace, newest first.

    Parameters
    ----------
    environment
        Only keys of this environment.
    status
        Only keys of this status.
    search
        Only keys whose name or id holds this.
    external_id
        Only keys of this owner.
    as_of
        As they were at this RFC 3339 time or position.
    """
    asked = {
        "environment": environment,
        "status": status,
        "search": search,
        "external_id": external_id,
        "as_of": as_of,
    }
    found = list(entries(Places(), f"{path_of(workspace, None)}/keys", "keys", asked))
    if as_json:
        print_json({"keys": found})
        return 0
    rows = [
        [
            each["id"], each["name"], each["environment"], each["status"], " ".join(each["scopes"]),
            each["created_at"], each["expires_at"] or "",
        ]
        for each in found
    ]  # fmt: skip
    head = ("key", "name", "environment", "status", "scopes", "created", "expires")
    print_table(head, rows, text=7, wraps=("name", "scopes"))
    return 0


@app.command
def show(key: str, /, *, workspace: Workspace, as_of: str | None = None, as_json: Json = False) -> int:
    """Print a key, with its settings and secrets' hints.

    Parameters
    ----------
    key
        The key's id, key_….
    as_of
        As it was at this RFC 3339 time or position.
    """
    told = ask(Places(), "GET", path_of(workspace, key), query={"as_of": as_of})
    if as_json:
        print_json(told)
    else:
        _show(told)
    return 0


@app.command
def events(key: str, /, *, workspace: Workspace, as_json: Json = False) -> int:
    """List what happened to a key, oldest first.

    Parameters
    ----------
    key
        The key's id, key_….
    """
    found = list(entries(Places(), f"{path_of(workspace, key)}/events", "events"))
    if as_json:
        print_json({"events": found})
        return 0
    rows = [
        [str(each["position"]), each["at"], each["type"], each["actor"], each["request_id"]] for each in found
    ]
    print_table(("position", "at", "event", "by", "request"), rows, text=5)
    return 0


@app.command
def create(
    name: str,
    /,
    *,
    workspace: Workspace,
    environment: Literal["live", "test"],
    scopes: str = "*",
    expires: str | None = None,
    allowed_ips: str | None = None,
    limit: str | None = None,
    external_id: str | None = None,
) -> int:
    """Make a key. Standard output has its token alone, this once; what else it is goes to standard error.

    Parameters
    ----------
    name
        What people know it by.
    environment
        Where it is good.
    scopes
        What it may do, separated by commas.
    expires
        When it ends, RFC 3339; never when left out.
    allowed_ips
        Addresses and networks it may come from, separated by commas; any when left out.
    limit
        A limit of its own, units/seconds, such as 500/60.
    external_id
        Your own id of its owner.
    """
    asked = {
        "name": name,
        "environment": environment,
        "scopes": _parts(scopes),
        "expires_at": expires,
        "allowed_ips": None if allowed_ips is None else _parts(allowed_ips),
        "rate_limit": None if limit is None else _rate_limit(limit),
        "external_id": external_id,
    }
    body = {field: value for field, value in asked.items() if value is not None}
    _told_once(ask(Places(), "POST", f"{path_of(workspace, None)}/keys", body))
    return 0


@app.command
def rotate(
    key: str,
    /,
    *,
    workspace: Workspace,
    overlap: int = 0,
    retire: Literal["at_overlap", "on_first_use"] = "at_overlap",
) -> int:
    """Give a key a new secret. Standard output has the new token alone, this once.

    Parameters
    ----------
    key
        The key's id, key_….
    overlap
        For how many seconds the old secret is good besides; 30 days at most.
    retire
        Whether the old secret also ends when the new one is first used.
    """
    body = {"overlap_seconds": overlap, "retire": retire}
    made = ask(Places(), "POST", f"{path_of(workspace, key)}/rotate", body)
    if made["previous_valid_until"] is not None:
        print(f"the old secret is good until {made['previous_valid_until']}", file=sys.stderr)
    _told_once(made)
    return 0


@app.command
def revoke(
    key: str, /, *, workspace: Workspace, reason: str | None = None, note: str | None = None, wait: float = 5
) -> int:
    """Revoke a key for good, and say by which verifiers it is refused. Exit code 1 while some are unheard.

    Parameters
    ----------
    key
        The key's id, key_….
    reason
        Why, in a word.
    note
        Why, in more.
    wait
        For how many seconds to wait for the verifiers, at most 30.
    """
    body = {"reason": reason, "note": note, "wait": wait}
    told = ask(
        Places(), "POST", f"{path_of(workspace, key)}/revoke",
        {field: value for field, value in body.items() if value is not None}, seconds=wait + TIMEOUT,
    )  # fmt: skip
    print(f"{key} is revoked at position {told['position']}")
    receipt = told["receipt"]
    for each in receipt["applied"]:
        print(f"refused by {each['verifier']} after {each['ms']} ms")
    if receipt["pending"]:
        waiting = ", ".join(receipt["pending"])
        raise LocalRunError(f"not heard from {waiting}; certain by {receipt['certain_by']}")
    return 0


def _told_once(made: Mapping[str, Any]) -> None:
    print(f"{made['id']}: this token is not shown again", file=sys.stderr)
    print(made["key"])


def _show(key: Mapping[str, Any]) -> None:
    told = {
        "id": key["id"],
        "name": key["name"],
        "environment": key["environment"],
        "status": key["status"],
        "scopes": " ".join(key["scopes"]),
        "limit": _limit(key["rate_limit"]),
        "allowed ips": " ".join(key["allowed_ips"] or ()),
        "external id": key["external_id"] or "",
        "created": f"{key['created_at']} by {key['created_by']}",
        "expires": key["expires_at"] or "",
        "version": str(key["version"]),
    }
    rows = [[name, value] for name, value in told.items() if value]
    for secret in key["secrets"]:
        until = f", until {secret['valid_until']}" if secret["valid_until"] else ""
        rows.append(["secret", f"{secret['hint']} of {secret['created_at']}{until}"])
    print_table(("", "value"), rows, text=2, wraps=("value",))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _limit(limit: Mapping[str, Any] | None) -> str:
    return "" if limit is None else f"{limit['limit']:,} per {limit['window_seconds']} s"


def _rate_limit(text: str) -> dict[str, int]:
    limit = read_limit(text)
    return {"limit": limit.limit, "window_seconds": limit.window_seconds}

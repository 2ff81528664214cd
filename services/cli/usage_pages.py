"""Series of uses as the usage service pages them, and the addresses they are at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from infra.local.errors import LocalRunError
from services.cli.operator import ask_usage
from services.cli.places import Places


def pages_of(
    places: Places, workspace: str, key: str | None, query: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Every page of a series, in turn; the first one even when it is empty."""
    path, cursor = f"{path_of(workspace, key)}/usage", dict[str, Any]()
    while True:
        page = ask_usage(places, path, {**query, **cursor})
        yield page
        if page["next_cursor"] is None:
            return
        cursor = {"cursor": page["next_cursor"]}


def path_of(workspace: str, key: str | None) -> str:
    """The address of a workspace or of a key of it; a LocalRunError that names what is no id."""
    from keyledger.token import is_id  # noqa: PLC0415 - the other commands need not wait for it

    for name, text, kind in (("workspace", workspace, "ws"), ("key", key, "key")):
        # what stands in a path must not lead elsewhere
        if text is not None and not is_id(text, kind):
            raise LocalRunError(f"--{name} is an id, {kind}_…")
    return f"/v1/workspaces/{workspace}" + ("" if key is None else f"/keys/{key}")

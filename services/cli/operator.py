"""Asking a service as its operator: where it is, whose key, and its answer or a sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.local.errors import LocalRunError
from services.cli.places import Places

if TYPE_CHECKING:
    import httpx2

TIMEOUT = 10.0
PAGE = 200
OK = (200, 201)


def ask(
    places: Places,
    method: str,
    path: str,
    body: Any = None,
    *,
    query: Mapping[str, Any] | None = None,
    seconds: float = TIMEOUT,
) -> dict[str, Any]:
    """The JSON of an answer of 200 or 201; anything else is a LocalRunError. None in a query is left out.

    KEYLEDGER_KEYS_URL says whom to ask, KEYLEDGER_ADMIN_KEY_FILE or KEYLEDGER_API_KEY as whom; else the local
    run's own.
    """
    url = os.environ.get("KEYLEDGER_KEYS_URL") or places.local.url("keys")
    asked = {name: value for name, value in (query or {}).items() if value is not None}
    content = {"json": body, "params": asked}
    return _ask("the key service", url, _operator(places), method, path, seconds=seconds, **content)


def entries(
    places: Places, path: str, name: str, query: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Every entry of a list of the key service, page by page."""
    cursor: str | None = None
    while True:
        page = ask(places, "GET", path, query={**(query or {}), "limit": PAGE, "cursor": cursor})
        yield from page[name]
        if (cursor := page["next_cursor"]) is None:
            return


def ask_verifier(places: Places, url: str | None, path: str, query: Mapping[str, Any]) -> dict[str, Any]:
    """As `ask`, of the verifier that was named, of KEYLEDGER_VERIFIER_URL, or the local run's own.

    One that wants its callers' token gets the one in KEYLEDGER_VERIFIER_TOKEN_FILE or of the local run.
    """
    address = url or os.environ.get("KEYLEDGER_VERIFIER_URL") or places.local.url("verifier")
    token = places.secret_file("KEYLEDGER_VERIFIER_TOKEN_FILE", "verifier.token")
    headers = _operator(places) | ({} if token is None else {"X-Verifier-Token": token.read_text().strip()})
    return _ask("the verifier", address, headers, "GET", path, params=query)


def ask_usage(places: Places, path: str, query: Mapping[str, Any]) -> dict[str, Any]:
    """As `ask`, of the usage service at KEYLEDGER_USAGE_URL, or the local run's own."""
    url = os.environ.get("KEYLEDGER_USAGE_URL") or places.local.url("usage")
    return _ask("the usage service", url, _operator(places), "GET", path, params=query)


def _operator(places: Places) -> dict[str, str]:
    return {"X-API-Key": _api_key(places)}


def _ask(
    whom: str,
    url: str,
    headers: Mapping[str, str],
    method: str,
    path: str,
    *,
    seconds: float = TIMEOUT,
    **content: Any,
) -> dict[str, Any]:
    import httpx2  # noqa: PLC0415 - the other commands need not wait for it

    try:
        answer = _client(url).request(method, path, headers=dict(headers), timeout=seconds, **content)
    except httpx2.HTTPError as error:
        raise LocalRunError(f"{whom} does not answer at {url}: {type(error).__name__}") from None
    try:
        told: dict[str, Any] = answer.json()
    except ValueError:
        told = {}
    if answer.status_code not in OK:
        field = f" ({told['field']})" if "field" in told else ""
        raise LocalRunError(f"{answer.status_code} {told.get('error', '')}{field}: {told.get('message', '')}")
    return told


@cache
def _client(url: str) -> httpx2.Client:
    """One connection for all that a command asks of a service: a new client alone takes 30 ms."""
    import httpx2  # noqa: PLC0415 - see above

    return httpx2.Client(base_url=url, trust_env=False)


def _api_key(places: Places) -> str:
    if file := os.environ.get("KEYLEDGER_ADMIN_KEY_FILE"):
        try:
            return Path(file).read_text().strip()
        except OSError as error:
            raise LocalRunError(f"KEYLEDGER_ADMIN_KEY_FILE names {file}: {error.strerror}") from None
    if given := os.environ.get("KEYLEDGER_API_KEY"):
        return given
    bootstrap = places.local.home / "bootstrap.json"
    try:
        key: str = json.loads(bootstrap.read_text())["management_key"]
    except (OSError, ValueError, KeyError):
        raise LocalRunError(
            "as whom? set KEYLEDGER_ADMIN_KEY_FILE to a file with a key of scope keyledger:admin"
        ) from None
    return key

"""Asking the key service as its operator: where it is, whose key, and its answer or a sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from infra.local.errors import LocalRunError
from services.cli.places import Places

TIMEOUT = 10.0
OK = 200


def ask(places: Places, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """The JSON of an answer of 200; anything else is a LocalRunError.

    KEYLEDGER_KEYS_URL says whom to ask, KEYLEDGER_ADMIN_KEY_FILE or KEYLEDGER_API_KEY as whom; else the local
    run's own.
    """
    import httpx2  # noqa: PLC0415 - the other commands need not wait for it

    url = os.environ.get("KEYLEDGER_KEYS_URL") or places.local.url("keys")
    headers = {"X-API-Key": _api_key(places)}
    try:
        with httpx2.Client(base_url=url, timeout=TIMEOUT, trust_env=False) as http:
            answer = http.request(method, path, json=body, headers=headers)
    except httpx2.HTTPError as error:
        raise LocalRunError(f"the key service does not answer at {url}: {type(error).__name__}") from None
    try:
        told: dict[str, Any] = answer.json()
    except ValueError:
        told = {}
    if answer.status_code != OK:
        raise LocalRunError(f"{answer.status_code} {told.get('error', '')}: {told.get('message', '')}")
    return told


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

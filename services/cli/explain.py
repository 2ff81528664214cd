"""`keyledger explain`: why a verifier lets a key in or refuses it, and what happened that it does."""

from __future__ import annotations

from typing import Any

from services.cli.operator import ask_verifier
from services.cli.places import Places


def explain(
    key: str,
    /,
    *,
    scopes: str = "",
    environment: str | None = None,
    ip: str | None = None,
    cost: int = 1,
    as_of: str | None = None,
    secret: int | None = None,
    verifier: str | None = None,
) -> int:
    """Tell each step of the decision about a key, and the event behind a refusal. Nothing is spent.

    KEYLEDGER_ADMIN_KEY_FILE, or the local run's own, says as whom; the key's secret counts as proven.

    Parameters
    ----------
    key
        The key's public id, key_….
    scopes
        Required scopes, separated by commas.
    environment
        The required environment, live or test.
    ip
        The client's address.
    cost
        Units of the limits.
    as_of
        A position of the log or an RFC 3339 time, to see how it was then; limits are left out.
    secret
        The version of another of the key's secrets than the newest.
    verifier
        The verifier's address; KEYLEDGER_VERIFIER_URL, or the local run's.
    """
    asked = {
        "key_id": key,
        "scopes": scopes,
        "environment": environment,
        "ip": ip,
        "cost": cost,
        "as_of": as_of,
        "secret": secret,
    }
    query = {name: value for name, value in asked.items() if value not in (None, "")}
    _show(ask_verifier(Places(), verifier, "/v1/explain", query))
    return 0


def _show(told: dict[str, Any]) -> None:
    moment = f", {told['as_of']}" if told["as_of"] else ""
    print(f"{told['key_id']} of {told['workspace_id']}, at position {told['position']}{moment}")
    for step in told["steps"]:
        outcome = f"{step['code']}" if step["outcome"] == "refused" else step["outcome"]
        print(f"  {step['check']:<12} {outcome:<25} {step['detail']}")
    print(told["verdict"]["code"])
    if (cause := told["cause"]) is not None:
        print(
            f"  by {cause['type']} at position {cause['position']}, {cause['at']}, "
            f"of {cause['actor']} in {cause['request_id']}"
        )

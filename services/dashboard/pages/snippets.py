"""curl and TypeScript to copy, filled in with what the reader is looking at."""

from __future__ import annotations

import json
import shlex

from msgspec import Struct


class Snippets(Struct, frozen=True):
    """The same call twice."""

    curl: str
    typescript: str


def ask_the_gateway(verifier_url: str) -> Snippets:
    """Ask a verifier about a key as a gateway does; a variable of the reader's stands for the key."""
    url = f"{verifier_url.rstrip('/')}/v1/gateway"
    curl = f'curl -i {shlex.quote(url)} \\\n  -H "X-API-Key: $API_KEY"'
    typescript = (
        f"const answer = await fetch({json.dumps(url)}, {{\n"
        '  headers: { "X-API-Key": process.env.API_KEY! },\n'
        "});\n"
        'console.log(answer.status, answer.headers.get("X-Key-Name"));'
    )
    return Snippets(curl, typescript)


def verify(verifier_url: str, token: str) -> Snippets:
    """Ask a verifier what it thinks of a key; it answers with its verdict in JSON."""
    url = f"{verifier_url.rstrip('/')}/v1/verify"
    body = json.dumps({"key": token})
    curl = (
        f'curl -s {shlex.quote(url)} \\\n  -H "Content-Type: application/json" \\\n  -d {shlex.quote(body)}'
    )
    typescript = (
        f"const answer = await fetch({json.dumps(url)}, {{\n"
        '  method: "POST",\n'
        '  headers: { "Content-Type": "application/json" },\n'
        f"  body: JSON.stringify({body}),\n"
        "});\n"
        'console.log(await answer.json()); // { valid: true, code: "VALID", … }'
    )
    return Snippets(curl, typescript)


def create_by_call(keys_url: str, workspace_id: str, name: str = "billing") -> Snippets:
    """Create a key by the management API, for those who script it."""
    url = f"{keys_url.rstrip('/')}/v1/workspaces/{workspace_id}/keys"
    body = {"name": name, "environment": "test", "scopes": ["contacts:read"]}
    text = json.dumps(body)
    curl = (
        f"curl {shlex.quote(url)} \\\n"
        '  -H "X-API-Key: $MANAGEMENT_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(text)}"
    )
    typescript = (
        f"const answer = await fetch({json.dumps(url)}, {{\n"
        '  method: "POST",\n'
        '  headers: {\n    "X-API-Key": process.env.MANAGEMENT_KEY!,\n'
        '    "Content-Type": "application/json",\n'
        '    "Idempotency-Key": crypto.randomUUID(),\n  },\n'
        f"  body: JSON.stringify({text}),\n"
        "});\n"
        "const { id, key } = await answer.json(); // key: shown this once"
    )
    return Snippets(curl, typescript)

"""`keyledger epoch`: what a restored Postgres has forgotten, and the word that it is known."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cyclopts import App

from services.cli.operator import ask
from services.cli.places import Places

app = App(name="epoch", help="After a restore: see what was lost, and accept the log as it is now.")


@app.command
def status() -> int:
    """List the log's epochs, newest first, and every denial that a restore has lost.

    KEYLEDGER_KEYS_URL and KEYLEDGER_ADMIN_KEY_FILE, or the local run's own, say whom to ask and as whom.
    """
    for epoch in ask(Places(), "GET", "/v1/epochs")["epochs"]:
        _show(epoch)
    return 0


@app.command
def accept(*, number: int | None = None) -> int:
    """Let the log's own word count again: what the restore has lost is no longer refused.

    Revoke and delete again first what must stay so: `keyledger epoch status` lists it.

    Parameters
    ----------
    number
        The epoch that was looked at, refused if another has begun since; the newest when left out.
    """
    places = Places()
    newest = ask(places, "GET", "/v1/epochs")["epochs"][0]
    asked = newest["number"] if number is None else number
    done = ask(places, "POST", "/v1/epochs/accept", {"number": asked})
    print(f"epoch {done['number']} is accepted at position {done['position']}")
    return 0


def _show(epoch: dict[str, Any]) -> None:
    lost = epoch["lost"]
    began = f"began {epoch['started_at']} after position {epoch['base_position']}"
    print(f"epoch {epoch['number']}  {epoch['line']}  {began if epoch['started_at'] else 'the first'}")
    if not lost:
        return
    counts = Counter(each["what"] for each in lost)
    told = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    state = f"accepted {epoch['accepted_at']}" if epoch["accepted_at"] else "REFUSED until accepted"
    print(f"  lost: {told}; {state}")
    for each in lost:
        since = f" since {each['since']}" if "since" in each else ""
        print(f"  {each['what']:<10} {each.get('key_id', 'every key')} of {each['workspace_id']}{since}")

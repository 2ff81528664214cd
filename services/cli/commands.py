"""The tree of commands and their help: each group's functions are plain functions in its own module."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from cyclopts import App, CycloptsError

from services.cli import (
    audit,
    database,
    doctor,
    epoch,
    explain,
    keys,
    login,
    people,
    pepper,
    project,
    running,
    usage,
    what_if,
)

app = App(
    name="keyledger",
    help="Keyledger: an event-sourced API-key service.",
    version=metadata.version("keyledger-services"),
)
app.command(running.up)
app.command(running.serve)
app.command(database.migrate)
app.command(database.bootstrap)
app.command(login.login)
app.command(doctor.doctor)
app.command(explain.explain)
app.command(keys.app)
app.command(usage.app)
app.command(what_if.what_if)
app.command(audit.app)
app.command(project.app)
app.command(pepper.app)
app.command(people.app)
app.command(epoch.app)


def run(words: Sequence[str]) -> int:
    """Parse the words and run the command they name: its exit code, or 2 when they name none."""
    try:
        answer: object = app(words, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        return 2
    return answer if isinstance(answer, int) else 0

"""`keyledger people`: find who signs in, and erase who cannot do it themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter

from infra.local.errors import LocalRunError
from keyledger.clock import SystemClock
from keyledger.token import is_id
from services.cli.database import within
from services.cli.places import Places
from services.cli.tables import print_table

app = App(name="people", help="Find who signs in to the dashboard, and erase who cannot do it themselves.")
Dsn = Annotated[
    str | None,
    Parameter(name="--dsn", help="The database, as its owner; KEYLEDGER_POSTGRES or the local run's own."),
]
MOST = 200


@app.command
def find(text: str, /, *, dsn: Dsn = None) -> int:
    """List the users whose mail address or name holds this text, at most 200, newest first.

    Parameters
    ----------
    text
        A part of the address or name, in whatever case.
    """
    rows = within(_find(Places().database(dsn, owner=True), text))
    if not rows:
        raise LocalRunError("nobody's address or name holds that")
    print_table(("user", "name", "mail"), rows, text=3, wraps=("name",))
    return 0


@app.command
def erase(user: str, /, *, dsn: Dsn = None) -> int:
    """Forget who a user is and end their sessions, for good; memberships stay, as an id that names nobody.

    Parameters
    ----------
    user
        The id, user_…, as `keyledger people find` tells it.
    """
    if not is_id(user, "user"):
        raise LocalRunError("user: an id is user_ and 22 letters and digits")
    if not within(_erase(Places().database(dsn, owner=True), user)):
        raise LocalRunError(f"{user} is no user, or was erased before")
    print(f"{user} is erased: name, address and sign-in are forgotten, their sessions are over")
    return 0


async def _find(dsn: str, text: str) -> Sequence[tuple[str, str, str]]:
    from services.dashboard.adapters.people import PostgresPeople  # noqa: PLC0415
    from services.dashboard.adapters.store import Database  # noqa: PLC0415

    database = Database(dsn)
    async with database.open():
        found = await PostgresPeople(database).holding(text, MOST)
    return [(each.user_id, each.name or "", each.mail or "") for each in found]


async def _erase(dsn: str, user: str) -> bool:
    from services.dashboard.adapters.people import PostgresPeople  # noqa: PLC0415
    from services.dashboard.adapters.store import Database  # noqa: PLC0415
    from services.dashboard.handlers.sessions import TELL  # noqa: PLC0415

    database, now = Database(dsn), SystemClock().now()
    async with database.open():
        return await PostgresPeople(database).erase(user, now, now + TELL)

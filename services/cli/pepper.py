"""`keyledger pepper`: add a pepper, see how far the keys have moved to it, be done with an old one."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from cyclopts import App

from infra.local.errors import LocalRunError
from services.cli.operator import ask
from services.cli.places import Places

app = App(name="pepper", help="Rotate the peppers under which secrets are digested.")
_NUMBERED = re.compile(r"p(\d{1,9})")


@app.command
def rotate() -> int:
    """Add a new pepper beside the old ones, in KEYLEDGER_PEPPERS or the local run's own folder.

    Key services and verifiers take it up by themselves; it becomes active once every live verifier holds it.
    """
    folder = _folder(Places())
    name = add_pepper(folder)
    print(f"{name} is in {folder}; see `keyledger pepper status`")
    return 0


@app.command
def status() -> int:
    """Tell which pepper is active, who holds which, and how many keys have yet to move to the active one.

    KEYLEDGER_KEYS_URL and KEYLEDGER_ADMIN_KEY_FILE, or the local run's own, say whom to ask and as whom.
    """
    told = ask(Places(), "GET", "/v1/peppers")
    print(f"active   {told['active']}")
    print(f"held     {', '.join(told['held'])}")
    print(f"retired  {', '.join(told['retired']) or '-'}")
    for verifier in told["verifiers"]:
        print(f"{verifier['verifier']} holds {', '.join(verifier['held'])}")
    print(f"{told['left']} keys have no digest under {told['active']} yet")
    return 0


@app.command
def retire(pepper: str, /, *, force: bool = False) -> int:
    """Be done with an old pepper: record that, and remove its file from this host's folder, if it is there.

    Parameters
    ----------
    pepper
        Its name, as `p1`.
    force
        Even though some keys have only digests under it: each is proven once more, slowly, at its next use.
    """
    places = Places()
    told = ask(places, "POST", f"/v1/peppers/{pepper}/retire", {"force": force})
    file = _folder(places, needed=False) / f"{told['retired']}.pepper"
    there = file.is_file()
    file.unlink(missing_ok=True)
    rest = f"; {file} is removed" if there else "; remove its file wherever it is"
    print(f"{told['retired']} is retired at position {told['position']}{rest}")
    return 0


def add_pepper(folder: Path) -> str:
    """Write the next `p<n>.pepper`, whole or not at all, for its owner only; its name."""
    known = [
        int(found.group(1)) for path in folder.glob("*.pepper") if (found := _NUMBERED.fullmatch(path.stem))
    ]
    name = f"p{max(known, default=0) + 1}"
    beside = folder / f"{name}.pepper.{secrets.token_hex(4)}.new"
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # unlike a rename this never takes the place of a pepper that came to be meanwhile
        (folder / f"{name}.pepper").hardlink_to(beside)
    except OSError as error:
        raise LocalRunError(f"{folder} takes no new pepper: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
    return name


def _folder(places: Places, *, needed: bool = True) -> Path:
    folder = Path(os.environ.get("KEYLEDGER_PEPPERS") or places.local.home / "peppers")
    if needed and not any(folder.glob("*.pepper")):
        raise LocalRunError(f"{folder} holds no pepper; set KEYLEDGER_PEPPERS to the folder that does")
    return folder

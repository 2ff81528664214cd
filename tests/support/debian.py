"""Programs that only the system has: root installs them, anybody else is told that they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess

INSTALLING = 45
"""Seconds that one step of an installation may take."""
_SBIN = "/usr/sbin"


class ProgramMissingError(Exception):
    """A program that is not installed here, and why."""


def from_debian(name: str, package: str, *, within: float = INSTALLING) -> str:
    """Where the program is, once it is installed; only root installs it, else `ProgramMissingError`.

    `within` is how many seconds each step may take.
    """
    path = os.pathsep.join((os.environ["PATH"], _SBIN))
    if (found := shutil.which(name, path=path)) is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ProgramMissingError(
            f"{name}: not installed, and only root installs it (apt-get install {package})"
        )
    quiet = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=30"]
    environment = {"PATH": path, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
        subprocess.run(
            [*quiet, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=within,
            check=True,
        )
    found = shutil.which(name, path=path)
    assert found is not None, f"{package} was installed and {name} is not there"
    return found

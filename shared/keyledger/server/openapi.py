"""OpenAPI 3.1 of each service, and a page that shows it without fetching anything from anywhere.

Handlers decode their bodies themselves, so that errors come in the contract's order; `documented` puts the
same structs into the schema.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from litestar import Request, Router
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    RequestBody,
    SecurityScheme,
)

from keyledger.errors import not_found

_DOCS = "/docs"
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error", "message", "request_id"],
    "properties": {
        "error": {"type": "string", "description": "A stable code."},
        "message": {"type": "string"},
        "field": {"type": "string", "description": "The offending input."},
        "request_id": {"type": "string"},
    },
}


def documented(
    *,
    body: Any = None,
    query: Any = None,
    headers: Sequence[str] = (),
    body_required: bool = True,
    texts: Sequence[str] = (),
    answered: Mapping[str, str] | None = None,
) -> type[Operation]:
    """The operation class of a handler that decodes `body` and `query` itself and reads these headers.

    Where it succeeds it can answer text of the types in `texts`, too, and with the headers in `answered`,
    each with its meaning.
    """

    # Operation has no __post_init__ of its own to call ours: this class must be a dataclass itself
    @dataclass
    class Documented(Operation):
        def __post_init__(self) -> None:
            if body is not None:
                media = OpenAPIMediaType(schema=cast("Any", schema_of(body)))
                self.request_body = RequestBody(content={"application/json": media}, required=body_required)
            parameters: list[Any] = list(self.parameters or [])
            if query is not None:
                shape = schema_of(query)
                parameters += [
                    Parameter(name=name, param_in="query", schema=schema)
                    for name, schema in shape["properties"].items()
                ]
            parameters += [
                Parameter(name=name, param_in="header", schema=cast("Any", {"type": "string"}))
                for name in headers
            ]
            self.parameters = parameters or None
            done: dict[str, Any] = dict(self.responses or {})
            text = OpenAPIMediaType(schema=cast("Any", {"type": "string"}))
            meanings = {name: OpenAPIHeader(description=why) for name, why in (answered or {}).items()}
            for told in done.values():
                told.content = {**(told.content or {}), **dict.fromkeys(texts, text)} or None
                told.headers = {**(told.headers or {}), **meanings} or None
            failed = OpenAPIMediaType(schema=cast("Any", _ERROR))
            self.responses = {
                **done,
                "default": OpenAPIResponse(
                    description="Refused; the code says why.", content={"application/json": failed}
                ),
            }
            # what the framework would answer by itself, and never does here
            self.responses.pop("400", None)

    return Documented


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a type with every reference put in its place."""
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs", {})
    return _inlined(schema, definitions)


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str):
            return _inlined(definitions[reference.removeprefix("#/$defs/")], definitions)
        return {name: _inlined(value, definitions) for name, value in node.items()}
    if isinstance(node, list):
        return [_inlined(value, definitions) for value in node]
    return node


def openapi_config(
    title: str, description: str, version: str = "0.1.0", *, users: bool = False
) -> OpenAPIConfig:
    """The schema at `/docs/openapi.json`, the page at `/docs`. `users` may call with a session token, too."""
    schemes = {"ApiKey": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header")}
    if users:
        schemes["SessionToken"] = SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")
    return OpenAPIConfig(
        title=title,
        version=version,
        description=description,
        path=_DOCS,
        use_handler_docstrings=True,
        openapi_router=Router(
            path=_DOCS, route_handlers=[], before_request=_only_what_exists, include_in_schema=False
        ),
        render_plugins=[PagePlugin(path="/"), JsonRenderPlugin(path="/openapi.json")],
        components=Components(security_schemes=dict(schemes)),
        security=[{name: []} for name in schemes],
    )


def _only_what_exists(request: Request[Any, Any, Any]) -> None:
    # the framework would answer with a page of its own, which is not the contract's and fetches an image
    if request.scope["path"] not in (_DOCS, f"{_DOCS}/openapi.json"):
        raise not_found()


class PagePlugin(OpenAPIRenderPlugin):
    """One HTML page, rendered here, without a script and without an external request."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """The page for this schema."""
        del request
        return page(openapi_schema).encode()


_STYLE = """
:root{color-scheme:light dark;--ink:light-dark(#16202c,#e7edf3);--paper:light-dark(#fbfaf7,#12171d);
--line:light-dark(#dcd8cf,#2a333d);--soft:light-dark(#5b6672,#9aa7b4);--get:#1d7a5f;--post:#a4541c;
--patch:#6b4fa3;--delete:#a32f3d}
*{box-sizing:border-box}body{margin:0 auto;max-width:60rem;padding:2.5rem 1.25rem 6rem;
background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
h1{font-size:1.7rem;margin:0}p{color:var(--soft)}
details{border-top:1px solid var(--line);padding:.7rem 0}summary{cursor:pointer;display:flex;gap:.8rem;
align-items:baseline}summary b{width:4.2rem;font:700 .78rem ui-monospace,monospace;color:var(--get)}
summary b.POST{color:var(--post)}summary b.PATCH{color:var(--patch)}summary b.DELETE{color:var(--delete)}
code,pre{font:13px/1.5 ui-monospace,monospace}pre{overflow:auto;border:1px solid var(--line);
border-radius:6px;padding:.8rem}summary span{color:var(--soft);font-size:.9rem;margin-left:auto;
text-align:right}
table{border-collapse:collapse}td{padding:.15rem 1.2rem .15rem 0;vertical-align:top}
"""


def page(schema: dict[str, Any]) -> str:
    """A readable page of an OpenAPI document."""
    info = schema["info"]
    operations = [
        _operation(path, method, operation)
        for path, item in sorted(schema.get("paths", {}).items())
        for method, operation in item.items()
        if method in ("get", "post", "put", "patch", "delete")
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{html.escape(info['title'])}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(info['title'])}</h1><p>{html.escape(info.get('description') or '')}</p>"
        "<p>The machine-readable document is <a href='/docs/openapi.json'>openapi.json</a>.</p>"
        f"<main>{''.join(operations)}</main></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [f"<p>{html.escape(operation.get('description') or '')}</p>"]
    rows = "".join(
        f"<tr><td><code>{html.escape(parameter['name'])}</code><td>{html.escape(parameter['in'])}"
        f"<td>{html.escape(parameter.get('description') or '')}"
        for parameter in operation.get("parameters") or []
    )
    if rows:
        parts.append(f"<table>{rows}</table>")
    body = ((operation.get("requestBody") or {}).get("content") or {}).get("application/json")
    if body:
        shape = msgspec.json.format(msgspec.json.encode(body["schema"]), indent=2).decode()
        parts.append(f"<p>Body</p><pre>{html.escape(shape)}</pre>")
    verb = method.upper()
    return (
        f"<details><summary><b class={verb}>{verb}</b><code>{html.escape(path)}</code>"
        f"<span>{html.escape(operation.get('summary') or '')}</span></summary>{''.join(parts)}</details>"
    )

"""The addresses that take foreign keys over and prove secrets."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import cast

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler
from msgspec import UnsetType

from keyledger.digest import foreign
from keyledger.errors import Refusal, invalid_request, not_found
from keyledger.events import NewSecret
from keyledger.server.bodies import decode_json
from keyledger.server.openapi import documented
from keyledger.token import MAX_LENGTH, Unparsed, parse
from services.keys.domain.key import CreateKey
from services.keys.domain.principal import KEYS_WRITE, PROVE, Principal
from services.keys.domain.workspace import Workspace
from services.keys.handlers.importing import HINT, Foreign, Importer
from services.keys.handlers.proofs import Proofs
from services.keys.ports import States
from services.keys.routes import shapes, views
from services.keys.routes.asking import Asking, Http, answer

BODY_LIMIT = 1024 * 1024
MAX_PLAINTEXTS = 100
_PATH = re.compile(r"/v1/workspaces/[^/]+/keys/import")
_HEX = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
_BASE64 = re.compile(r"[0-9A-Za-z+/_-]{43}=?", re.ASCII)


def import_routes(
    asking: Asking,
    importer: Importer,
    proofs: Proofs,
    states: States,
    prefixes: Sequence[str],
) -> Sequence[HTTPRouteHandler]:
    """Import and prove. `prefixes` are our tokens' own, which no foreign one may begin with."""

    @post(
        "/v1/workspaces/{ws:str}/keys/import",
        summary="Take over keys of another system: all of them, or none",
        operation_class=documented(body=shapes.DocumentedImportShape, headers=["Idempotency-Key"]),
    )
    async def import_keys(request: Http, ws: str) -> Response[views.ImportedView]:
        by = await asking.caller(request, ws)
        stored, _ = await states.get(ws)
        if stored is None:
            raise not_found()
        workspace = msgspec.json.decode(stored.body, type=Workspace)
        by.need(KEYS_WRITE)
        body = await asking.body(request, shapes.ImportShape)
        wanted = [_foreign(place, bytes(raw), by, workspace, prefixes) for place, raw in enumerate(body.keys)]
        if sum(each.field == "plaintext" for each in wanted) > MAX_PLAINTEXTS:
            raise invalid_request(f"At most {MAX_PLAINTEXTS} plaintexts a call.", field="keys")
        done = await importer.run(await asking.asked(request, by, ws), wanted)
        results = tuple(
            views.ImportResultView(place, "created", views.KeyView(**views.key_fields(key, done.at)))
            for place, key in enumerate(done.keys)
        )
        return answer(views.ImportedView(results, done.position, done.epoch.text), status=201)

    @post(
        "/v1/prove",
        summary="Whose secret is this? For verifiers, when a pepper is lost or keys move to another",
        operation_class=documented(body=shapes.ProveShape),
        status_code=200,
    )
    async def prove(request: Http) -> Response[views.ProvenView]:
        by = await asking.caller(request)
        by.need(PROVE)
        body = await asking.body(request, shapes.ProveShape)
        asked = await asking.asked(request, by, by.workspace_id)
        found = await proofs.prove(body.key, actor=by.actor, request_id=asked.request_id)
        if found is None:
            return answer(views.ProvenView(proven=False))
        return answer(views.ProvenView(True, found.key_id, found.position, found.epoch.text))

    return [import_keys, prove]


def body_limit(path: str, usual: int) -> int:
    """How many bytes of body this address takes."""
    return BODY_LIMIT if _PATH.fullmatch(path) else usual


def _foreign(place: int, raw: bytes, by: Principal, workspace: Workspace, prefixes: Sequence[str]) -> Foreign:
    """One key of the request; a refusal says which one, and which field of it."""
    try:
        shape = decode_json(raw, shapes.ImportKeyShape, content_type="application/json")
        field, sha256 = _token(shape, prefixes)
        expires_at = shapes.moment(shape.expires_at, "expires_at")
        command = CreateKey(
            by=by,
            system=workspace.system,
            name=shape.name,
            environment=shape.environment,
            secret=NewSecret(HINT, {}),
            proof="",
            scopes=shape.scopes,
            expires_at=cast("int | None", expires_at),
            allowed_ips=shape.allowed_ips,
            rate_limit=None if shape.rate_limit is None else shape.rate_limit.wire(),
            external_id=shape.external_id,
            metadata=shape.metadata,
            foreign=True,
        )
    except Refusal as refusal:
        named = f"keys[{place}]" if refusal.field is None else f"keys[{place}].{refusal.field}"
        raise Refusal(refusal.code, refusal.message, field=named) from None
    return Foreign(command, sha256, field)


def _token(shape: shapes.ImportKeyShape, prefixes: Sequence[str]) -> tuple[str, bytes]:
    """Which field tells the token, and its SHA-256."""
    if isinstance(shape.sha256, UnsetType) == isinstance(shape.plaintext, UnsetType):
        raise invalid_request("Give exactly one of sha256 and plaintext.", field="sha256")
    if not isinstance(shape.sha256, UnsetType):
        return "sha256", _digest(shape.sha256)
    text = str(shape.plaintext)
    if not 1 <= len(text) <= MAX_LENGTH:
        raise invalid_request(f"A token has 1 to {MAX_LENGTH} characters.", field="plaintext")
    if parse(text, prefixes) is not Unparsed.FOREIGN:
        raise invalid_request("A token that looks like one of ours is never foreign.", field="plaintext")
    try:
        return "plaintext", foreign(text)
    except UnicodeEncodeError:
        raise invalid_request("The token is not Unicode text.", field="plaintext") from None


def _digest(text: str) -> bytes:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    if _BASE64.fullmatch(text):
        standard = text.rstrip("=").replace("-", "+").replace("_", "/") + "="
        try:
            digest = base64.b64decode(standard, validate=True)
        except binascii.Error:
            digest = b""
        # what says the same in two ways would be two names of one token
        if base64.b64encode(digest).decode() == standard:
            return digest
    raise invalid_request("A SHA-256 is 64 hex digits, or 32 bytes as base64.", field="sha256")

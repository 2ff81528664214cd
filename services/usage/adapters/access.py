"""Who may read: the key service is asked, and what it allows a key is remembered for at most five seconds.

Only what is allowed is remembered, by a hash of the credential; a refusal is asked for anew each time. Of a
user's token nothing is: a session that ended, or a member who was removed, is refused at once.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import httpx2
import msgspec

from keyledger import errors
from keyledger.clock import Clock
from keyledger.errors import Refusal
from services.usage.ports import SCOPE, Credential, Limited

REMEMBERED_SECONDS = 5.0
REMEMBERED_ANSWERS = 10_000
MAX_MESSAGE = 300
OK = 200
KEY_HEADER = "X-API-Key"
POSITION_HEADER = "X-Keyledger-Position"
CREDENTIAL_FIELDS = (KEY_HEADER, "Authorization")


class _Told(msgspec.Struct):
    """The key service's error body, as far as it is passed on."""

    error: str
    message: str = ""
    field: str | None = None


class KeyServiceAccess:
    """`Access` by the key service's `POST /v1/authorize`; `http` has it as its base URL, and no key."""

    def __init__(self, http: httpx2.AsyncClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Limited]] = OrderedDict()

    async def authorize(self, credential: Credential, workspace_id: str, key_id: str | None) -> Limited:
        asked = _hash(credential, workspace_id, key_id)
        now = self._clock.steady()
        until, known = self._known.get(asked, (0.0, Limited()))
        if until > now:
            return known
        question = {"workspace_id": workspace_id, "scope": SCOPE, "key_id": key_id, "limits": True}
        known = await self._ask(credential, msgspec.json.encode(question))
        if all(name != KEY_HEADER for name, _ in credential.headers):
            return known
        # counted from before the question: the answer may be as old as that
        self._known[asked] = now + REMEMBERED_SECONDS, known
        self._known.move_to_end(asked)
        while len(self._known) > REMEMBERED_ANSWERS:
            self._known.popitem(last=False)
        return known

    async def _ask(self, credential: Credential, question: bytes) -> Limited:
        """What the key service tells the caller, or its refusal."""
        # latin-1 gives back the very bytes that came in
        headers = [(name.encode(), value.encode("latin-1")) for name, value in credential.headers]
        headers.append((b"Content-Type", b"application/json"))
        try:
            response = await self._http.post("/v1/authorize", content=question, headers=headers)
        except httpx2.HTTPError:
            raise _nobody_can_say() from None
        if response.status_code != OK:
            raise _refusal(response)
        position = response.headers.get(POSITION_HEADER, "")
        try:
            limited = msgspec.json.decode(response.content, type=Limited)
        except msgspec.MsgspecError:
            raise _nobody_can_say() from None
        read_at = int(position) if position.isascii() and position.isdecimal() else None
        return msgspec.structs.replace(limited, position=read_at)


def _refusal(response: httpx2.Response) -> Refusal:
    """The contract's refusal in what the key service answered; what is not one of its codes is an outage."""
    try:
        told = msgspec.json.decode(response.content, type=_Told)
    except msgspec.MsgspecError:
        return _nobody_can_say()
    message = told.message[:MAX_MESSAGE]
    match response.status_code, told.error:
        case (401, "missing_api_key" | "invalid_api_key") | (403, "insufficient_permissions"):
            return Refusal(told.error, message)
        case 401, _:
            return errors.invalid_api_key()
        case 404, "not_found":
            return errors.not_found()
        case 400, "invalid_request" if told.field in CREDENTIAL_FIELDS:
            return errors.invalid_request(message, field=told.field)
        case _:
            return _nobody_can_say()


def _nobody_can_say() -> Refusal:
    return errors.unavailable("unavailable", "The credential cannot be checked just now.")


def _hash(credential: Credential, workspace_id: str, key_id: str | None) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode((credential.headers, workspace_id, key_id))).digest()

"""What every page works with: the ports, the frame around it, and the names of the ids on it."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

from litestar import Request
from msgspec import Struct

from keyledger.clock import Clock
from keyledger.errors import Refusal, invalid_request, not_found
from keyledger.token import is_id
from services.dashboard.backend import AsOf, Backend
from services.dashboard.domain.visitor import Visitor
from services.dashboard.pages import words
from services.dashboard.pages.actors import Names, initials, users_in
from services.dashboard.pages.forms import Form, read, when
from services.dashboard.pages.moments import at_micros
from services.dashboard.ports import Accounts

Http: TypeAlias = Request[Any, Any, Any]
MAX_PEOPLE = 200
MAX_LOOKED_UP = 40
"""Keys whose names are asked for at a time; more than that are told by their ids."""
MAX_NAMES = 10_000
NAME_SECONDS = 30.0
NAME_WAIT = 1.0
"""Seconds that a page waits for a name: the id says the same to who cannot be told."""
_ONCE = re.compile(r"[\x21-\x7e]{16,255}")
_POSITION = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Places:
    """Addresses that people's own calls go to."""

    keys_url: str
    verifier_url: str


class Frame(Struct, frozen=True):
    """What stands around a page: which section it is in, and of whose workspace."""

    section: str
    workspace: str
    role: str
    initials: str


class KeyNames:
    """Names of keys that were asked for lately, by workspace and id; forgotten after half a minute."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()

    def get(self, workspace_id: str, key_id: str, now: float) -> str | None:
        """The name, if it is known and not old."""
        found = self._known.get((workspace_id, key_id))
        return found[1] if found is not None and found[0] > now else None

    def put(self, workspace_id: str, key_id: str, name: str, now: float) -> None:
        """Remember a name; the oldest is forgotten when there are too many."""
        self._known.pop((workspace_id, key_id), None)
        self._known[workspace_id, key_id] = (now + NAME_SECONDS, name)
        while len(self._known) > MAX_NAMES:
            self._known.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Showing:
    """One per process."""

    backend: Backend
    accounts: Accounts
    clock: Clock
    places: Places
    key_names: KeyNames = field(default_factory=KeyNames)

    def now(self) -> datetime:
        """The moment, for what is said to be ago or to come."""
        return at_micros(self.clock.now())

    async def frame(self, visitor: Visitor, section: str) -> Frame:
        """The frame of a page; the workspace's name is asked for, so who may not enter is refused here."""
        workspace = await self.backend.workspace(visitor)
        return Frame(section, workspace.name, words.role_title(visitor.role), initials(visitor.called))

    async def names(self, visitor: Visitor, ids: Iterable[str]) -> Names:
        """What is known of these ids; whom nobody knows is told by the id."""
        wanted = list(dict.fromkeys(ids))
        people = self.accounts.people(users_in(wanted)[:MAX_PEOPLE])
        keys = self._keys(visitor, [id_ for id_ in wanted if is_id(id_, "key")])
        known, named = await asyncio.gather(people, keys)
        return Names(known, named)

    def remember(self, visitor: Visitor, pairs: Iterable[tuple[str, str]]) -> None:
        """Names of keys that were read anyway, as (id, name)."""
        now = self.clock.steady()
        for key_id, name in pairs:
            self.key_names.put(visitor.workspace_id or "", key_id, name, now)

    async def _keys(self, visitor: Visitor, key_ids: Sequence[str]) -> dict[str, str]:
        workspace_id, now = visitor.workspace_id or "", self.clock.steady()
        found = {id_: name for id_ in key_ids if (name := self.key_names.get(workspace_id, id_, now))}
        missing = [id_ for id_ in key_ids if id_ not in found][:MAX_LOOKED_UP]
        for key_id, name in await asyncio.gather(*(self._name(visitor, id_) for id_ in missing)):
            if name is not None:
                found[key_id] = name
                self.key_names.put(workspace_id, key_id, name, now)
        return found

    async def _name(self, visitor: Visitor, key_id: str) -> tuple[str, str | None]:
        try:
            async with asyncio.timeout(NAME_WAIT):
                return key_id, (await self.backend.key(visitor, key_id)).name
        except (Refusal, TimeoutError):
            # a page is not lost because a name is: another workspace's key, or no answer
            return key_id, None


def is_part(request: Http) -> bool:
    """Whether htmx asks for a part of a page."""
    return request.headers.get("hx-request") == "true"


def new_once() -> str:
    """A new Idempotency-Key for a form."""
    return secrets.token_urlsafe(24)


def once_of(form: Form) -> str:
    """The form's Idempotency-Key; a new one when somebody made it up badly."""
    given = form.get("once")
    return given if _ONCE.fullmatch(given) else new_once()


async def form_of(request: Http) -> Form:
    """The form in a request's body."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type not in ("", "application/x-www-form-urlencoded"):
        raise Refusal("unsupported_media_type", "A form is expected.")
    return read(await request.body())


def key_id_of(text: str) -> str:
    """A key id from a path; a malformed one is nothing that exists."""
    if not is_id(text, "key"):
        raise not_found()
    return text


def as_of_of(request: Http) -> AsOf | None:
    """The moment or position to look back to, if one is asked for."""
    text = request.query_params.get("as_of", "")
    if not text:
        return None
    if _POSITION.fullmatch(text):
        return int(text)
    if (moment := when(text)) is None:
        raise invalid_request("That is neither a moment nor an entry of the log.", field="as_of")
    return moment

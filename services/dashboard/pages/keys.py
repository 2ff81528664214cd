"""Keys as a list and as a page show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from msgspec import Struct

from keyledger.client.records import Key, Receipt
from services.dashboard.pages.actors import Actor, Names
from services.dashboard.pages.moments import Moment, maybe, moment, per_window


class Hint(Struct, frozen=True):
    """A secret that is accepted: what may be shown of it, and until when."""

    text: str
    created: Moment
    until: Moment | None
    newest: bool


class KeyView(Struct, frozen=True, kw_only=True):
    """A key as the pages show it."""

    id: str
    name: str
    environment: str
    status: str
    enabled: bool
    scopes: tuple[str, ...]
    created: Moment
    creator: Actor
    expires: Moment | None
    allowed_ips: tuple[str, ...]
    limit: str | None
    limit_number: int | None
    limit_window: int | None
    external_id: str | None
    metadata: Mapping[str, str]
    hints: tuple[Hint, ...]
    version: int
    last_used: Moment | None = None
    href: str = ""

    @property
    def hint(self) -> str:
        """The newest secret's hint; empty for a key that has none left."""
        return self.hints[-1].text if self.hints else ""

    @property
    def everything(self) -> bool:
        """Whether its scopes are just `*`."""
        return self.scopes == ("*",)

    @property
    def final(self) -> bool:
        """Whether nothing about it can be changed any more."""
        return self.status == "revoked"


def view(key: Key, names: Names, last_used: datetime | None = None) -> KeyView:
    """A key with its people's names."""
    limit = key.rate_limit
    last = len(key.secrets) - 1
    return KeyView(
        id=key.id,
        name=key.name,
        environment=key.environment,
        status=key.status,
        enabled=key.enabled,
        scopes=key.scopes,
        created=moment(key.created_at),
        creator=names.actor(key.created_by),
        expires=maybe(key.expires_at),
        allowed_ips=key.allowed_ips or (),
        limit=None if limit is None else per_window(limit.limit, limit.window_seconds),
        limit_number=None if limit is None else limit.limit,
        limit_window=None if limit is None else limit.window_seconds,
        external_id=key.external_id,
        metadata=key.metadata,
        hints=tuple(
            Hint(each.hint, moment(each.created_at), maybe(each.valid_until), place == last)
            for place, each in enumerate(key.secrets)
        ),
        version=key.version,
        last_used=maybe(last_used),
        href=f"/settings/api-keys/{key.id}",
    )


class Difference(Struct, frozen=True):
    """A field that was another then."""

    label: str
    then: str
    now: str


def differences(then: KeyView, now: KeyView) -> tuple[Difference, ...]:
    """What has changed between two states of one key."""
    pairs = zip(_facts(then), _facts(now), strict=True)
    return tuple(Difference(label, old, new) for (label, old), (_, new) in pairs if old != new)


def _facts(key: KeyView) -> Iterable[tuple[str, str]]:
    yield "Name", key.name
    yield "Status", key.status
    yield "Scopes", " ".join(key.scopes) or "none"
    yield "Expires", key.expires.text if key.expires else "never"
    yield "Allowed addresses", " ".join(key.allowed_ips) or "any"
    yield "Limit", key.limit or "only the workspace’s"
    yield "External id", key.external_id or "none"
    yield "Metadata", " ".join(f"{name}={value}" for name, value in sorted(key.metadata.items())) or "none"
    yield "Secrets", " ".join(hint.text for hint in key.hints) or "none"


class Confirmed(Struct, frozen=True):
    """A verifier that refuses, after how many ms, and how long its bar is (0–100)."""

    verifier: str
    ms: int
    share: int


class ReceiptView(Struct, frozen=True):
    """A receipt: who refuses by now and who has not said so; `headline` is the whole in one sentence."""

    headline: str
    complete: bool
    confirmed: tuple[Confirmed, ...]
    pending: tuple[str, ...]
    certain_by: Moment | None


def receipt(told: Receipt | None) -> ReceiptView | None:
    """What the receipt honestly says: everywhere only when nobody is pending and somebody has confirmed."""
    if told is None:
        return None
    slowest = max((each.ms for each in told.applied), default=0)
    confirmed = tuple(
        Confirmed(each.verifier, round(each.ms), max(2, round(100 * each.ms / slowest)) if slowest else 2)
        for each in sorted(told.applied, key=lambda each: each.ms)
    )
    complete = bool(confirmed) and not told.pending
    everyone = len(confirmed) + len(told.pending)
    if complete:
        headline = f"Refused everywhere after {round(slowest)} ms"
    elif everyone:
        headline = f"Refused by {len(confirmed)} of {everyone} verifiers so far"
    else:
        headline = "No verifier is connected to confirm"
    return ReceiptView(headline, complete, confirmed, told.pending, maybe(told.certain_by))
